"""Formats of tools and tool calls in a chat, under LLaMA-Factory's names, in Jinja.

`tools` is a list of descriptions ({"type": "function", "function": {...}}, or the inner object alone) and `calls` a
list of {"name", "arguments"}, or `tools` and `message.tool_calls` of apply_chat_template.
"""

import functools
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from near.common.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Template

RESULTS = "\n</tool_response>\n<tool_response>\n"  # between the results of calls of one turn


@dataclass(frozen=True)
class ToolFormat:
    """The text of tools, of `tools`, and that of an answer's calls, of `calls`, in Jinja.

    verbatim: before and after tools that are written as the row has them.
    """

    jinja_tools: str
    jinja_calls: str
    verbatim: tuple[str, str] | None = None
    one_call: bool = False  # of a turn

    def described(self, tools: str) -> str:
        """The text for a row's `tools` (JSON), which follows the system text; "" if there are none."""
        listed = json.loads(tools) if tools else []
        if listed and self.verbatim:
            return self.verbatim[0] + tools + self.verbatim[1]
        return _compiled(self.jinja_tools).render(tools=listed) if listed else ""

    def call(self, calls: list[dict]) -> str:
        """The text of an answer's calls."""
        if self.one_call and len(calls) > 1:
            raise UserError(f"glm4 writes one tool call per turn, got {len(calls)}; give each call a separate turn")
        return _compiled(self.jinja_calls).render(calls=calls)


@functools.cache
def _compiled(text: str) -> "Template":
    """A part of a template with the functions that transformers gives to chat templates."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _json
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(text)


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


BARE = "{% set tool = tool['function'] if tool['type'] == 'function' and tool['function'] else tool %}"
WRAPPED = "{% set tool = tool if tool['type'] == 'function' else {'type': 'function', 'function': tool} %}"
# arguments: an object, or its JSON as OpenAI's clients send it
CALL = (
    "{% set call = call['function'] if call['function'] else call %}"
    "{% set arguments = call['arguments'] if call['arguments'] is string else call['arguments'] | tojson %}"
)


def _quoted(text: str) -> str:
    """`text` as an output in Jinja."""
    return "{{ " + _json(text) + " }}" if text else ""


def _each(name: str, before: str, each: str, after: str = "") -> str:
    return f"{_quoted(before)}{{% for {name[:-1]} in {name} %}}{each}{{% endfor %}}{_quoted(after)}"


# default: tools as a list in words, calls as "Action:" and "Action Input:"

DEFAULT_HEAD = "You have access to the following tools:\n"
DEFAULT_TAIL = (
    "Use the following format if using a tool:\n```\nAction: tool name (one of [{names}])\nAction Input: the input to "
    'the tool, in a JSON format representing the kwargs (e.g. ```{"input": "hello world", "num_beams": 5}```)\n```\n'
)


BETWEEN = "{{ '' if loop.last else '\\n' }}"
JINJA_DEFAULT_TOOLS = (
    _each(
        "tools",
        DEFAULT_HEAD,
        BARE + '{{ "> Tool Name: " ~ tool["name"] ~ "\\nTool Description: " ~ (tool["description"] or "") }}'
        '{{ "\\nTool Args:\\n" }}{% set about = tool["parameters"] or {} %}'
        '{% for name, one in (about["properties"] or {}).items() %}{{ "  - " ~ name ~ " (" ~ (one["type"] or "") }}'
        '{{ ", required" if name in (about["required"] or []) }}{{ "): " ~ (one["description"] or "") }}'
        '{% if one["enum"] %}{{ ", should be one of [" ~ (one["enum"] | join(", ")) ~ "]" }}{% endif %}'
        '{% if "items" in one and one["items"] %}'
        '{{ ", where each item should be " ~ (one["items"]["type"] or "") }}{% endif %}'
        '{{ "\\n" }}{% endfor %}{{ "\\n" }}',
    )
    + _quoted(DEFAULT_TAIL[: DEFAULT_TAIL.index("{names}")])
    + "{% for tool in tools %}"
    + BARE
    + "{{ tool['name'] }}{{ '' if loop.last else ', ' }}{% endfor %}"
    + _quoted(DEFAULT_TAIL[DEFAULT_TAIL.index("{names}") + len("{names}") :])
)
JINJA_DEFAULT_CALLS = _each(
    "calls", "", CALL + '{{ "Action: " ~ call["name"] ~ "\\nAction Input: " ~ arguments }}' + BETWEEN
)

# llama3: Meta's JSON, with the day's date

LLAMA3_HEAD = "Cutting Knowledge Date: December 2023\nToday Date: "
LLAMA3_TAIL = (
    "\n\nYou have access to the following functions. To call a function, please respond with JSON for a function call. "
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. '
    "Do not use variables.\n\n"
)
DAY = "%d %b %Y"


JINJA_LLAMA3_TOOLS = (
    _quoted(LLAMA3_HEAD)
    + f"{{{{ strftime_now('{DAY}') }}}}"
    + _each("tools", LLAMA3_TAIL, WRAPPED + '{{ (tool | tojson(indent=4)) ~ "\\n\\n" }}')
)
OBJECT = '{{ \'{"name": \' ~ (call["name"] | tojson) ~ \', "KEY": \' ~ arguments ~ "}" }}'
COMMA = "{{ '' if loop.last else ', ' }}"
JINJA_LLAMA3_CALLS = (
    "{{ '[' if calls | length > 1 }}"
    + _each("calls", "", CALL + OBJECT.replace("KEY", "parameters") + COMMA)
    + "{{ ']' if calls | length > 1 }}"
)


# mistral: a JSON list between special tokens


JINJA_MISTRAL_TOOLS = _each(
    "tools", "[AVAILABLE_TOOLS] [", WRAPPED + "{{ tool | tojson }}" + COMMA, "][/AVAILABLE_TOOLS]"
)
JINJA_MISTRAL_CALLS = _each("calls", "[", CALL + OBJECT.replace("KEY", "arguments") + COMMA, "]")

# qwen, ling: JSON between XML tags; qwen3_5, glm4_moe: arguments between tags, too

XML_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
QWEN_HEAD = "\n\n" + XML_HEAD
QWEN_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
LING_TAIL = QWEN_TAIL + "\ndetailed thinking off"
GLM4_MOE_TAIL = (
    "\n</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n"
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>\n"
)
QWEN35_HEAD = "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>"
QWEN35_TAIL = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n"
    "<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified "
    "format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in natural "
    "language BEFORE the function call, but NOT after\n- If there is no function call available, answer the question "
    "like normal with your current knowledge and do not tell the user about function calls\n</IMPORTANT>"
)


def _jinja_lines(head: str, tail: str, form: str) -> str:
    """Each tool as a line of JSON."""
    return _each("tools", head, form + '{{ "\\n" ~ (tool | tojson) }}', tail)


JINJA_QWEN_CALLS = _each(
    "calls",
    "",
    CALL + '{{ "<tool_call>\\n" }}' + OBJECT.replace("KEY", "arguments") + '{{ "\\n</tool_call>" }}' + BETWEEN,
)


def _jinja_tagged(before: str, key: str, after: str) -> str:
    value = "{% set value = value if value is string else value | tojson %}"
    items = "{% for name, value in call['arguments'].items() %}" + value + key + "{% endfor %}"
    return _each("calls", "", CALL + before + items + after + BETWEEN)


JINJA_QWEN35_CALLS = _jinja_tagged(
    '{{ "<tool_call>\\n<function=" ~ call["name"] ~ ">" }}',
    '{{ "\\n<parameter=" ~ name ~ ">\\n" ~ value ~ "\\n</parameter>" }}',
    '{{ "\\n</function>\\n</tool_call>" }}',
)
JINJA_GLM4_MOE_CALLS = _jinja_tagged(
    '{{ "\\n<tool_call>" ~ call["name"] }}',
    '{{ "\\n<arg_key>" ~ name ~ "</arg_key>\\n<arg_value>" ~ value ~ "</arg_value>" }}',
    "",
)

# glm4: one call, its name on a separate line

GLM4_HEAD = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
GLM4_EACH = "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"


JINJA_GLM4_TOOLS = _each(
    "tools",
    GLM4_HEAD,
    BARE + '{{ "\\n\\n## " ~ tool["name"] ~ "\\n\\n" ~ (tool | tojson(indent=4)) }}' + _quoted(GLM4_EACH),
)
JINJA_GLM4_CALLS = _each("calls", "", CALL + '{{ call["name"] ~ "\\n" ~ arguments }}')

# lfm2: calls as in Python; phi4_mini: tools as they are

LFM2_HEAD, LFM2_TAIL = "List of tools: <|tool_list_start|>", "<|tool_list_end|>"


JINJA_LFM2_TOOLS = _each("tools", LFM2_HEAD + "[", BARE + "{{ tool | tojson }}" + COMMA, "]" + LFM2_TAIL)
JINJA_LFM2_CALLS = _each(
    "calls",
    "<|tool_call_start|>[",
    CALL + '{{ call["name"] ~ "(" }}{% for name, value in call["arguments"].items() %}'
    "{{ name ~ '=' ~ ('\"' ~ value ~ '\"' if value is string else value | tojson) }}"
    + COMMA
    + "{% endfor %}{{ ')' }}"
    + COMMA,
    "]<|tool_call_end|>",
)

TOOL_FORMATS = {
    "default": ToolFormat(JINJA_DEFAULT_TOOLS, JINJA_DEFAULT_CALLS),
    "llama3": ToolFormat(JINJA_LLAMA3_TOOLS, JINJA_LLAMA3_CALLS),
    "mistral": ToolFormat(JINJA_MISTRAL_TOOLS, JINJA_MISTRAL_CALLS),
    "qwen": ToolFormat(_jinja_lines(QWEN_HEAD, QWEN_TAIL, WRAPPED), JINJA_QWEN_CALLS),
    "ling": ToolFormat(_jinja_lines(XML_HEAD, LING_TAIL, WRAPPED), JINJA_QWEN_CALLS),
    "qwen3_5": ToolFormat(_jinja_lines(QWEN35_HEAD, QWEN35_TAIL, BARE), JINJA_QWEN35_CALLS),
    "glm4": ToolFormat(JINJA_GLM4_TOOLS, JINJA_GLM4_CALLS, one_call=True),
    "glm4_moe": ToolFormat(_jinja_lines(QWEN_HEAD, GLM4_MOE_TAIL, WRAPPED), JINJA_GLM4_MOE_CALLS),
    "lfm2": ToolFormat(JINJA_LFM2_TOOLS, JINJA_LFM2_CALLS),
    "phi4_mini": ToolFormat(
        "{{ '<|tool|>' ~ (tools | tojson) ~ '<|/tool|>' }}", JINJA_DEFAULT_CALLS, ("<|tool|>", "<|/tool|>")
    ),
}
