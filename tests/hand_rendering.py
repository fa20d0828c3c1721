"""Chat templates written out by hand from LLaMA-Factory's published slots, without near's code: the expected ids
and labels of a chat. One entry per template: its prompt turns with the opening of the answer, its answers, its tools.

A slot is a list of texts that are encoded separately; BOS and EOS stand for the tokenizer's tokens.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from tests.templates_chats import ids_of

BOS, EOS = object(), object()
IGNORED = -100


def dump(value: object, **options) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def inner(tool: dict) -> dict:
    return tool["function"] if tool.get("type") == "function" else tool


def outer(tool: dict) -> dict:
    return {"type": "function", "function": inner(tool)}


def words_tools(tools: list) -> str:
    blocks, names = [], []
    for tool in map(inner, tools):
        lines = []
        for name, p in tool["parameters"]["properties"].items():
            must = ", required" if name in tool["parameters"].get("required", []) else ""
            line = f"  - {name} ({p['type']}{must}): {p.get('description', '')}"
            line += f", should be one of [{', '.join(p['enum'])}]" if "enum" in p else ""
            line += f", where each item should be {p['items']['type']}" if "items" in p else ""
            lines.append(line + "\n")
        about = tool.get("description", "")
        blocks.append(f"> Tool Name: {tool['name']}\nTool Description: {about}\nTool Args:\n{''.join(lines)}\n")
        names.append(tool["name"])
    return f"""You have access to the following tools:
{"".join(blocks)}Use the following format if using a tool:
```
Action: tool name (one of [{", ".join(names)}])
Action Input: the input to the tool, in a JSON format representing the kwargs (e.g. ```{{"input": "hello world", "num_beams": 5}}```)
```
"""  # noqa: E501


def words_calls(calls: list) -> str:
    return "\n".join(f"Action: {c['name']}\nAction Input: {dump(c['arguments'])}" for c in calls)


def qwen_tools(tools: list) -> str:
    listed = "".join("\n" + dump(outer(tool)) for tool in tools)
    return f"""

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>{listed}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def qwen_calls(calls: list) -> str:
    return "\n".join(f"<tool_call>\n{dump({k: c[k] for k in ('name', 'arguments')})}\n</tool_call>" for c in calls)


def llama3_tools(tools: list) -> str:
    day = datetime.now().strftime("%d %b %Y")
    listed = "".join(dump(outer(tool), indent=4) + "\n\n" for tool in tools)
    return f"""Cutting Knowledge Date: December 2023
Today Date: {day}

You have access to the following functions. To call a function, please respond with JSON for a function call. Respond in the format {{"name": function name, "parameters": dictionary of argument name and its value}}. Do not use variables.

{listed}"""  # noqa: E501


def llama3_calls(calls: list) -> str:
    made = [{"name": c["name"], "parameters": c["arguments"]} for c in calls]
    return dump(made if len(made) > 1 else made[0])


def mistral_tools(tools: list) -> str:
    return "[AVAILABLE_TOOLS] " + dump([outer(tool) for tool in tools]) + "[/AVAILABLE_TOOLS]"


def mistral_calls(calls: list) -> str:
    return dump([{"name": c["name"], "arguments": c["arguments"]} for c in calls])


def glm4_tools(tools: list) -> str:
    head = "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
    head += "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
    each = "\n\n## {}\n\n{}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
    return head + "".join(each.format(inner(t)["name"], dump(inner(t), indent=4)) for t in tools)


def glm4_calls(calls: list) -> str:
    assert len(calls) == 1
    return f"{calls[0]['name']}\n{dump(calls[0]['arguments'])}"


@dataclass
class Hand:
    user: Callable[[str], list]
    answer: Callable[[str], list]
    system: Callable[[str], list] = field(default=lambda s: [s])
    result: Callable[[str], list] | None = None  # of a tool; None: as user
    called: Callable[[str], list] | None = None  # None: as answer
    tools: Callable[[list], str] = words_tools
    calls: Callable[[list], str] = words_calls
    prefix: list = field(default_factory=list)
    default: str = ""  # system text
    thinks: bool = False
    fused: bool = False  # the system text opens the first user turn
    late_end: bool = False  # the end-of-text token is a label only, and closes the chat
    ends: str | None = None  # what the end-of-text token becomes


def chatml(result: str = "tool", **more) -> Hand:
    def user(c: str) -> list:
        return [f"<|im_start|>user\n{c}<|im_end|>\n<|im_start|>assistant\n"]

    results = {
        "tool": lambda c: [f"<|im_start|>tool\n{c}<|im_end|>\n<|im_start|>assistant\n"],
        "user": user,
        "qwen": lambda c: user(f"<tool_response>\n{c}\n</tool_response>"),
    }
    return Hand(
        user=user,
        answer=lambda a: [f"{a}<|im_end|>\n"],
        system=lambda s: [f"<|im_start|>system\n{s}<|im_end|>\n"],
        result=results[result],
        **more,
    )


def qwen(**more) -> Hand:
    return chatml("qwen", tools=qwen_tools, calls=qwen_calls, ends="<|im_end|>", **more)


def gemma(**more) -> Hand:
    return Hand(
        user=lambda c: [f"<start_of_turn>user\n{c}<end_of_turn>\n<start_of_turn>model\n"],
        answer=lambda a: [f"{a}<end_of_turn>\n"],
        system=lambda s: [f"{s}\n\n"],
        result=lambda c: [f"<start_of_turn>tool\n{c}<end_of_turn>\n<start_of_turn>model\n"],
        prefix=[BOS],
        fused=True,
        **more,
    )


def ministral(space: str = "", **more) -> Hand:
    return Hand(
        user=lambda c: [f"[INST]{space}{c}[/INST]"],
        answer=lambda a: [f"{space}{a}", EOS],
        system=more.pop("system", lambda s: [f"{s}\n\n"]),
        result=lambda c: [f'[TOOL_RESULTS]{space}{{"content": {c}}}[/TOOL_RESULTS]'],
        called=lambda a: [f"[TOOL_CALLS]{space}{a}", EOS],
        tools=mistral_tools,
        calls=mistral_calls,
        prefix=[BOS],
        fused=more.pop("fused", True),
    )


def phi(newline: str = "\n") -> Hand:
    return Hand(
        user=lambda c: [f"<|user|>{newline}{c}<|end|>{newline}<|assistant|>{newline}"],
        answer=lambda a: [f"{a}<|end|>{newline}"],
        system=lambda s: [f"<|system|>{newline}{s}<|end|>{newline}"],
        ends="<|end|>",
    )


def deepseek3(**more) -> Hand:
    return Hand(user=lambda c: [f"<｜User｜>{c}<｜Assistant｜>"], answer=lambda a: [a, EOS], prefix=[BOS], **more)


def glm4(**more) -> Hand:
    return Hand(
        user=lambda c: [f"<|user|>\n{c}<|assistant|>"],
        answer=lambda a: [f"\n{a}"],
        system=lambda s: [f"<|system|>\n{s}"],
        result=lambda c: [f"<|observation|>\n{c}<|assistant|>"],
        called=lambda a: [a],
        tools=glm4_tools,
        calls=glm4_calls,
        prefix=["[gMASK]<sop>"],
        late_end=True,
        **more,
    )


def granite(**more) -> Hand:
    start = "<|start_of_role|>"
    return Hand(
        user=lambda c: [f"{start}user<|end_of_role|>{c}<|end_of_text|>\n{start}assistant<|end_of_role|>"],
        answer=lambda a: [f"{a}<|end_of_text|>\n"],
        system=lambda s: [f"{start}system<|end_of_role|>{s}<|end_of_text|>\n"],
        **more,
    )


HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"
CHAT_BETWEEN = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

HANDS: dict[str, Hand] = {
    "chatml": chatml(ends="<|im_end|>"),
    "yi": chatml("user"),
    "smollm": chatml("user"),
    "smollm2": chatml("user", default="You are a helpful AI assistant named SmolLM, trained by Hugging Face."),
    "cpm4": chatml(prefix=[BOS]),
    "qwen": qwen(default="You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "qwen3": qwen(thinks=True),
    "qwen3_nothink": qwen(),
    "mimo": qwen(default="You are a helpful assistant.", thinks=True),
    "llama3": Hand(
        user=lambda c: [HEADER.format("user", c) + ASSISTANT],
        answer=lambda a: [f"{a}<|eot_id|>"],
        system=lambda s: [HEADER.format("system", s)],
        result=lambda c: [HEADER.format("ipython", c) + ASSISTANT],
        tools=llama3_tools,
        calls=llama3_calls,
        prefix=[BOS],
        ends="<|eot_id|>",
    ),
    "alpaca": Hand(
        user=lambda c: [f"### Instruction:\n{c}\n\n### Response:\n"],
        answer=lambda a: [a, EOS, "\n\n"],
        default="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
    ),
    "default": Hand(
        user=lambda c: [f"Human: {c}", EOS, "\nAssistant:"],
        answer=lambda a: [a, EOS, "\n"],
        system=lambda s: [f"System: {s}", EOS, "\n"],
    ),
    "gemma": gemma(ends="<end_of_turn>"),
    "gemma2": gemma(late_end=True),
    "gemma3": gemma(ends="<end_of_turn>"),
    "mistral": ministral(" "),
    "ministral": ministral(),
    "mistral_small": ministral(system=lambda s: [f"[SYSTEM_PROMPT]{s}[/SYSTEM_PROMPT]"], fused=False),
    "deepseek": Hand(
        user=lambda c: [f"User: {c}\n\nAssistant:"],
        answer=lambda a: [a, EOS],
        system=lambda s: [f"{s}\n\n"],
        prefix=[BOS],
    ),
    "deepseek3": deepseek3(),
    "deepseekr1": deepseek3(thinks=True),
    "phi": phi(),
    "phi_small": phi(),
    "phi4": Hand(
        user=lambda c: [f"<|im_start|>user<|im_sep|>{c}<|im_end|><|im_start|>assistant<|im_sep|>"],
        answer=lambda a: [f"{a}<|im_end|>"],
        system=lambda s: [f"<|im_start|>system<|im_sep|>{s}<|im_end|>"],
        ends="<|im_end|>",
    ),
    "llama2": Hand(
        user=lambda c: [BOS, f"[INST] {c} [/INST]"],
        answer=lambda a: [a, EOS],
        system=lambda s: [f"<<SYS>>\n{s}\n<</SYS>>\n\n"],
        fused=True,
    ),
    "vicuna": Hand(user=lambda c: [f"USER: {c} ASSISTANT:"], answer=lambda a: [a, EOS], default=CHAT_BETWEEN),
    "zephyr": Hand(
        user=lambda c: [f"<|user|>\n{c}", EOS, "<|assistant|>\n"],
        answer=lambda a: [a, EOS],
        system=lambda s: [f"<|system|>\n{s}", EOS],
        default="You are Zephyr, a helpful assistant.",
    ),
    "empty": Hand(user=lambda c: [c], answer=lambda a: [a]),
    "glm4": glm4(),
    "glmz1": glm4(thinks=True),
    "granite3": granite(),
    "granite4": granite(
        result=lambda c: [
            f"<|start_of_role|>tool<|end_of_role|>{c}<|end_of_text|>\n<|start_of_role|>assistant\n"
        ],
        default="You are Granite, developed by IBM. You are a helpful AI assistant.",
    ),
    "olmo": Hand(user=lambda c: [f"<|user|>\n{c}<|assistant|>\n"], answer=lambda a: [a, EOS], prefix=[EOS]),
    "solar": Hand(
        user=lambda c: [f"### User:\n{c}\n\n### Assistant:\n"],
        answer=lambda a: [a],
        system=lambda s: [f"### System:\n{s}\n\n"],
        late_end=True,
    ),
}  # fmt: skip


def without_thought(text: str) -> str:
    return re.sub("<think>\n(.*?)\n</think>\n\n", "", text, flags=re.DOTALL).lstrip("\n")


def turns(hand: Hand, messages: list[dict], thinking: bool | None, last_only: bool) -> list[tuple[list, list]]:
    """Prompt and answer of every pair of turns, each a list of texts that are encoded apart."""
    messages, tools, system = list(messages), "", hand.default
    if messages[0]["role"] == "tools":
        tools = hand.tools(json.loads(messages.pop(0)["content"]))
    if messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
    prompts, pairs = list(hand.prefix), []
    fused = "".join(hand.system(system + tools)) if hand.fused and system + tools else ""
    if system + tools and not hand.fused:
        prompts += hand.system(system + tools)
    answers = [m for m in messages if m["role"] == "assistant"]
    results: list[str] = []
    for at, message in enumerate(messages):
        if message["role"] == "user":
            prompts += hand.user(fused + message["content"])
            fused = ""
        elif message["role"] == "tool":
            results.append(message["content"])
            if messages[at + 1]["role"] != "tool":
                joined = "\n</tool_response>\n<tool_response>\n".join(results)
                prompts += (hand.result or hand.user)(joined)
                results = []
        else:
            thought = f"<think>\n{message['reasoning']}\n</think>\n\n" if "reasoning" in message else ""
            text, history = thought + message["content"], last_only and message is not answers[-1]
            if hand.thinks and (thinking is False or history):
                text = without_thought(text)
            whole = text + message.get("calls", "")
            empty = hand.thinks and not history and "<think>" not in whole and "</think>" not in whole
            if "calls" in message:
                answer = (hand.called or hand.answer)(text + hand.calls(json.loads(message["calls"])))
            else:
                answer = hand.answer(text)
            if empty and thinking:
                answer = ["<think>\n\n</think>\n\n", *answer]
            elif empty:
                prompts.append("<think>\n\n</think>\n\n")
            pairs.append((prompts, answer))
            prompts = []
    return pairs


def encoded(
    hand: Hand, messages: list[dict], tokenizer, thinking: bool | None = True, last_only: bool = False
) -> tuple[list[int], list[int]]:
    """ids and labels of a chat, as LLaMA-Factory's supervised processor joins them (`last_only`: the thoughts of
    earlier turns removed; labels of all answers)."""
    eos = tokenizer.convert_tokens_to_ids(hand.ends) if hand.ends else tokenizer.eos_token_id

    def joined(texts: list) -> list[int]:
        out: list[int] = []
        for text in texts:
            if text is BOS or text is EOS:
                out.append(tokenizer.bos_token_id if text is BOS else eos)
            elif text:
                out += ids_of(text)
        return out

    ids, labels = [], []
    for prompt, answer in turns(hand, messages, thinking, last_only):
        one, two = joined(prompt), joined(answer)
        first = [eos] if hand.late_end and ids else [IGNORED]
        ids += one + two
        labels += first + [IGNORED] * (len(one) - 1) + two
    if hand.late_end:
        ids, labels = [*ids, eos], [*labels, eos]
    return ids, labels
