"""Formats of tools and tool calls in a chat, under LLaMA-Factory's names, as text and in Jinja.

In Python `tools` is a list of descriptions ({"type": "function", "function": {...}}, or the inner object alone) and
`calls` a list of {"name", "arguments"}. In Jinja they are `tools` and `message.tool_calls` of apply_chat_template.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from near.common.errors import UserError

RESULTS = "\n</tool_response>\n<tool_response>\n"  # between the results of calls of one turn


@dataclass(frozen=True)
class ToolFormat:
    describe: Callable[[list[dict]], str]  # tools to the text that follows the system text
    call: Callable[[list[dict]], str]  # calls to the text of the answer
    jinja_tools: str  # the same as `describe`, of `tools`
    jinja_calls: str  # the same as `call`, of `calls`
    verbatim: tuple[str, str] | None = None  # before and after tools that are written unchanged

    def described(self, tools: str) -> str:
        """The text for a row's `tools` (JSON); "" if there are none."""
        listed = json.loads(tools) if tools else []
        if listed and self.verbatim:
            return self.verbatim[0] + tools + self.verbatim[1]
        return self.describe(listed) if listed else ""


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _bare(tool: dict) -> dict:
    return tool.get("function", tool) if tool.get("type") == "function" else tool


def _wrapped(tool: dict) -> dict:
    return tool if tool.get("type") == "function" else {"type": "function", "function": tool}


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


def _parameter(name: str, about: dict, required: list[str]) -> str:
    kind = f"{about.get('type', '')}{', required' if name in required else ''}"
    text = f"  - {name} ({kind}): {about.get('description', '')}"
    if about.get("enum"):
        text += f", should be one of [{', '.join(map(str, about['enum']))}]"
    if about.get("items"):
        text += f", where each item should be {about['items'].get('type', '')}"
    return text + "\n"


def _describe_default(tools: list[dict]) -> str:
    text = DEFAULT_HEAD
    for tool in map(_bare, tools):
        about = tool.get("parameters") or {}
        required = about.get("required") or []
        arguments = "".join(_parameter(name, one, required) for name, one in (about.get("properties") or {}).items())
        text += f"> Tool Name: {tool['name']}\nTool Description: {tool.get('description', '')}\n"
        text += f"Tool Args:\n{arguments}\n"
    return text + DEFAULT_TAIL.replace("{names}", ", ".join(_bare(tool)["name"] for tool in tools))


def _call_default(calls: list[dict]) -> str:
    return "\n".join(f"Action: {call['name']}\nAction Input: {_json(call['arguments'])}" for call in calls)


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


def _describe_llama3(tools: list[dict]) -> str:
    described = "".join(_json(_wrapped(tool), indent=4) + "\n\n" for tool in tools)
    return LLAMA3_HEAD + datetime.now().strftime(DAY) + LLAMA3_TAIL + described


def _call_llama3(calls: list[dict]) -> str:
    objects = [{"name": call["name"], "parameters": call["arguments"]} for call in calls]
    return _json(objects[0] if len(objects) == 1 else objects)


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


def _describe_mistral(tools: list[dict]) -> str:
    return f"[AVAILABLE_TOOLS] {_json([_wrapped(tool) for tool in tools])}[/AVAILABLE_TOOLS]"


def _call_mistral(calls: list[dict]) -> str:
    return _json([{"name": call["name"], "arguments": call["arguments"]} for call in calls])


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


def _lines(head: str, tail: str, form: Callable[[dict], dict]) -> Callable[[list[dict]], str]:
    """A describer that writes each tool as a line of JSON."""
    return lambda tools: head + "".join("\n" + _json(form(tool)) for tool in tools) + tail


def _jinja_lines(head: str, tail: str, form: str) -> str:
    return _each("tools", head, form + '{{ "\\n" ~ (tool | tojson) }}', tail)


def _call_qwen(calls: list[dict]) -> str:
    objects = ({"name": call["name"], "arguments": call["arguments"]} for call in calls)
    return "\n".join(f"<tool_call>\n{_json(one)}\n</tool_call>" for one in objects)


JINJA_QWEN_CALLS = _each(
    "calls",
    "",
    CALL + '{{ "<tool_call>\\n" }}' + OBJECT.replace("KEY", "arguments") + '{{ "\\n</tool_call>" }}' + BETWEEN,
)


def _tagged(call: dict, before: str, key: Callable[[str, str], str], after: str) -> str:
    """A call whose arguments stand between tags: text as it is, the rest as JSON."""
    arguments = call["arguments"].items()
    return before + "".join(key(name, v if isinstance(v, str) else _json(v)) for name, v in arguments) + after


def _call_qwen35(calls: list[dict]) -> str:
    def key(name: str, value: str) -> str:
        return f"\n<parameter={name}>\n{value}\n</parameter>"

    ends = "\n</function>\n</tool_call>"
    return "\n".join(_tagged(call, f"<tool_call>\n<function={call['name']}>", key, ends) for call in calls)


def _call_glm4_moe(calls: list[dict]) -> str:
    def key(name: str, value: str) -> str:
        return f"\n<arg_key>{name}</arg_key>\n<arg_value>{value}</arg_value>"

    return "\n".join(_tagged(call, f"\n<tool_call>{call['name']}", key, "") for call in calls)


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


def _describe_glm4(tools: list[dict]) -> str:
    bare = map(_bare, tools)
    return GLM4_HEAD + "".join(f"\n\n## {one['name']}\n\n{_json(one, indent=4)}{GLM4_EACH}" for one in bare)


def _call_glm4(calls: list[dict]) -> str:
    if len(calls) > 1:
        raise UserError(f"glm4 writes one tool call per turn, got {len(calls)}; give each call a separate turn")
    return f"{calls[0]['name']}\n{_json(calls[0]['arguments'])}"


JINJA_GLM4_TOOLS = _each(
    "tools",
    GLM4_HEAD,
    BARE + '{{ "\\n\\n## " ~ tool["name"] ~ "\\n\\n" ~ (tool | tojson(indent=4)) }}' + _quoted(GLM4_EACH),
)
JINJA_GLM4_CALLS = _each("calls", "", CALL + '{{ call["name"] ~ "\\n" ~ arguments }}')

# lfm2: calls as in Python; phi4_mini: tools as they are

LFM2_HEAD, LFM2_TAIL = "List of tools: <|tool_list_start|>", "<|tool_list_end|>"


def _call_lfm2(calls: list[dict]) -> str:
    def value(one: object) -> str:
        return f'"{one}"' if isinstance(one, str) else _json(one)

    texts = (f"{c['name']}({', '.join(f'{k}={value(v)}' for k, v in c['arguments'].items())})" for c in calls)
    return f"<|tool_call_start|>[{', '.join(texts)}]<|tool_call_end|>"


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
    "default": ToolFormat(_describe_default, _call_default, JINJA_DEFAULT_TOOLS, JINJA_DEFAULT_CALLS),
    "llama3": ToolFormat(_describe_llama3, _call_llama3, JINJA_LLAMA3_TOOLS, JINJA_LLAMA3_CALLS),
    "mistral": ToolFormat(_describe_mistral, _call_mistral, JINJA_MISTRAL_TOOLS, JINJA_MISTRAL_CALLS),
    "qwen": ToolFormat(
        _lines(QWEN_HEAD, QWEN_TAIL, _wrapped),
        _call_qwen,
        _jinja_lines(QWEN_HEAD, QWEN_TAIL, WRAPPED),
        JINJA_QWEN_CALLS,
    ),
    "ling": ToolFormat(
        _lines(XML_HEAD, LING_TAIL, _wrapped),
        _call_qwen,
        _jinja_lines(XML_HEAD, LING_TAIL, WRAPPED),
        JINJA_QWEN_CALLS,
    ),
    "qwen3_5": ToolFormat(
        _lines(QWEN35_HEAD, QWEN35_TAIL, _bare),
        _call_qwen35,
        _jinja_lines(QWEN35_HEAD, QWEN35_TAIL, BARE),
        JINJA_QWEN35_CALLS,
    ),
    "glm4": ToolFormat(_describe_glm4, _call_glm4, JINJA_GLM4_TOOLS, JINJA_GLM4_CALLS),
    "glm4_moe": ToolFormat(
        _lines(QWEN_HEAD, GLM4_MOE_TAIL, _wrapped),
        _call_glm4_moe,
        _jinja_lines(QWEN_HEAD, GLM4_MOE_TAIL, WRAPPED),
        JINJA_GLM4_MOE_CALLS,
    ),
    "lfm2": ToolFormat(
        lambda tools: LFM2_HEAD + _json([_bare(tool) for tool in tools]) + LFM2_TAIL,
        _call_lfm2,
        _each("tools", LFM2_HEAD + "[", BARE + "{{ tool | tojson }}" + COMMA, "]" + LFM2_TAIL),
        JINJA_LFM2_CALLS,
    ),
    "phi4_mini": ToolFormat(
        lambda tools: f"<|tool|>{_json(tools)}<|/tool|>",
        _call_default,
        "{{ '<|tool|>' ~ (tools | tojson) ~ '<|/tool|>' }}",
        JINJA_DEFAULT_CALLS,
        ("<|tool|>", "<|/tool|>"),
    ),
}
