"""Conversion of a chat's turns to messages: role, text, reasoning, calls of tools, and whether to train on them.

Supported forms are OpenAI's (`tool_calls`, the older `function_call`, content as parts), ShareGPT's (a turn whose text
is the call as JSON) and Hermes' (calls between tags stay text). A null means the same as an absent key, because Arrow
gives each row the keys of all rows.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Message = dict[str, str | bool]
OPTIONAL = ("reasoning", "calls", "train")  # keys that a message may lack
REASONING = ("reasoning_content", "thinking", "reasoning")  # keys of a turn; the first one with a value counts
_RESULT = re.compile(r"<tool_response>\n?((?:(?!</?tool_response>).)*?)\n?</tool_response>", re.DOTALL)
_RESULTS = re.compile(rf"{_RESULT.pattern}(?:\s*{_RESULT.pattern})*", re.DOTALL)
_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


class Fault(Exception):
    """A row that can't be used; the message names the field and the reason."""

    def __init__(self, field: str, reason: str):
        super().__init__(f"field '{field}' {reason}")


@dataclass(frozen=True)
class Turns:
    """The names of keys and roles in the turns of a chat."""

    role_key: str
    text_key: str
    roles: Mapping[str, str]  # the source's role names to ours
    calling: frozenset[str] = field(default_factory=frozenset)  # the source's roles whose text is a call
    strict: bool = False  # read only what LLaMA-Factory reads

    def unread(self, turn: Mapping) -> list[str]:
        """Keys of a turn that have a value and are not read."""
        read = {self.role_key, self.text_key, "weight", "train"}
        if self.roles[turn[self.role_key]] == "assistant":
            read |= {*REASONING, "tool_calls", "function_call"}
        return [str(key) for key, value in turn.items() if key not in read and value not in (None, "", [], {})]


def message_of(turn: object, where: str, turns: Turns) -> Message:
    """One turn as a message; Fault if it isn't a turn."""
    if not isinstance(turn, Mapping) or turns.role_key not in turn:
        raise Fault(where, f"is not a turn with '{turns.role_key}' and '{turns.text_key}'")
    name = turn[turns.role_key]
    if not isinstance(name, str) or name not in turns.roles:
        raise Fault(f"{where}.{turns.role_key}", f"is {name!r}, not one of {', '.join(turns.roles)}")
    role, more = turns.roles[name], {}
    text = turn.get(turns.text_key)
    if role == "system" and text is None and turn.get("tools") and not turns.strict:
        return {"role": role, "content": ""}
    if role == "assistant":
        text, reasoning = _thought(turn, text, where)
        if name in turns.calling:
            text, calls = _written_calls(text, f"{where}.{turns.text_key}")
        else:
            calls = _calls(turn, where)
        more |= {"reasoning": reasoning} if reasoning else {}
        more |= {"calls": json_text(calls, where)} if calls else {}
    if turns.text_key not in turn and not more:
        raise Fault(where, f"is not a turn with '{turns.role_key}' and '{turns.text_key}'")
    if not _trained(turn, where) and role == "assistant":
        more["train"] = False
    return {"role": role, "content": _text(text, role, f"{where}.{turns.text_key}"), **more}


def results_of(message: Message) -> list[Message]:
    """A tool's turn without Hermes' tags around the results, since templates write their own; one turn per result."""
    text = message["content"].strip()
    if message["role"] != "tool" or not _RESULTS.fullmatch(text):
        return [message]
    return [{**message, "content": match[1]} for match in _RESULT.finditer(text)]


def _text(text: object, role: str, where: str) -> str:
    """The text of a turn, parts joined; a tool's result may be any JSON."""
    if isinstance(text, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in text):
        return "".join(part["text"] for part in text)
    if text is None and role == "assistant":
        return ""
    if role == "tool" and text is not None and not isinstance(text, str):
        return json_text(without_nulls_inside(text), where)
    if not isinstance(text, str):
        raise Fault(where, f"is of type {type(text).__name__}, not text")
    return text


def _thought(turn: Mapping, text: object, where: str) -> tuple[object, str]:
    """Text and reasoning of an assistant's turn. The reasoning has a separate key, or is among the text's parts."""
    keys = [key for key in REASONING if turn.get(key) not in (None, "")]
    for key in keys:
        if not isinstance(turn[key], str):
            raise Fault(f"{where}.{key}", f"is of type {type(turn[key]).__name__}, not text")
    thought = turn[keys[0]] if keys else ""
    if isinstance(text, list) and all(isinstance(part, Mapping) for part in text):
        parts = [part for part in text if part.get("type") in ("thinking", "reasoning")]
        thoughts = [part.get("thinking") or part.get("reasoning") or part.get("text") or "" for part in parts]
        if parts and all(isinstance(one, str) for one in thoughts):
            text = [part for part in text if part.get("type") not in ("thinking", "reasoning")]
            thought = thought or "".join(thoughts)
    return text, thought


def _trained(turn: Mapping, where: str) -> bool:
    """Whether `weight` (0 or 1) and `train` (true or false) both allow training on the turn."""
    weight, train = turn.get("weight"), turn.get("train")
    if weight is not None and not (isinstance(weight, int | float) and weight in (0, 1)):
        raise Fault(f"{where}.weight", f"is {weight!r}, not 0 or 1")
    if train is not None and not (isinstance(train, int) and train in (0, 1)):
        raise Fault(f"{where}.train", f"is {train!r}, not true or false")
    return weight != 0 and train != 0


def _calls(turn: Mapping, where: str) -> list[dict]:
    """The calls beside a turn's text: `tool_calls`, or the older `function_call`."""
    calls, where_calls = turn.get("tool_calls"), f"{where}.tool_calls"
    if not calls and turn.get("function_call"):
        calls, where_calls = turn["function_call"], f"{where}.function_call"
    if isinstance(calls, str):
        calls = from_json(calls, where_calls)
    if isinstance(calls, Mapping):
        calls = [calls]
    if not calls:
        return []
    if not isinstance(calls, list | tuple):
        raise Fault(where_calls, f"is of type {type(calls).__name__}, not a list of calls")
    return [_call(call, f"{where_calls}[{i}]") for i, call in enumerate(calls)]


def _written_calls(text: object, where: str) -> tuple[object, list[dict]]:
    """Text before the calls, and the calls, of a turn that is JSON after a <think> block; Hermes' calls stay text."""
    before = ""
    if isinstance(text, str):
        if thought := _THOUGHT.match(text):
            before, text = thought[0], text[thought.end() :]
        if "<tool_call>" in text:
            return before + text, []
        text = from_json(text, where)
    calls = list(text) if isinstance(text, list | tuple) else [text]
    return before, [_call(call, f"{where}[{i}]" if len(calls) > 1 else where) for i, call in enumerate(calls)]


def _call(call: object, where: str) -> dict:
    """{"name": ..., "arguments": {...}}. Arguments given as text are parsed as JSON and keep their nulls."""
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        call, where = call["function"], f"{where}.function"
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str) or not call["name"].strip():
        raise Fault(where, "is not a call with 'name' and 'arguments'")
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = from_json(arguments, f"{where}.arguments") if arguments.strip() else {}
    else:
        arguments = without_nulls_inside({} if arguments is None else arguments)
    if not isinstance(arguments, Mapping):
        raise Fault(f"{where}.arguments", f"is of type {type(arguments).__name__}, not an object")
    return {"name": call["name"], "arguments": arguments}


def tools_message(tools: object, where: str) -> list[Message]:
    """The message that describes a row's tools; [] if there are none.

    `tools`: a list, one description, or JSON text of these. The JSON text of a list is not reformatted.
    """
    written = None
    if isinstance(tools, str):
        written, tools = tools, from_json(tools, where) if tools.strip() else None
    if isinstance(tools, Mapping):
        written, tools = None, [tools]
    if tools is None or isinstance(tools, list | tuple) and not tools:
        return []
    if not isinstance(tools, list | tuple):
        raise Fault(where, f"is of type {type(tools).__name__}, not a list of tools")
    described = []
    for i, tool in enumerate(tools):
        if isinstance(tool, str):
            written, tool = None, from_json(tool, f"{where}[{i}]")
        inner = tool.get("function") if isinstance(tool, Mapping) else None
        named = inner if isinstance(inner, Mapping) else tool
        if not isinstance(named, Mapping) or not isinstance(named.get("name"), str):
            raise Fault(f"{where}[{i}]", "is not a tool's description with a 'name'")
        described.append(without_nulls_inside(tool))
    content = json_text(described, where)
    return [{"role": "tools", "content": written or content}]


def without_nulls_inside(value: object) -> object:
    """`value` without null-valued keys, at every level."""
    if isinstance(value, Mapping):
        return {key: without_nulls_inside(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls_inside(item) for item in value]
    return value


def from_json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Fault(where, f"is not JSON ({getattr(error, 'msg', type(error).__name__)})") from error


def json_text(value: object, where: str) -> str:
    """`value` as JSON; Fault if JSON can't represent it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Fault(where, f"has a value that JSON can't represent ({str(error)[:60]})") from error


def is_empty_turn(message: Message) -> bool:
    """Whether an assistant's turn has no text, no call and no reasoning."""
    return not (message["content"].strip() or message.get("calls") or message.get("reasoning", "").strip())
