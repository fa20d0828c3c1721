"""Conversion of raw rows of every format to one canonical form: a list of chat messages that ends with the answer.

A message is {"role": tools|system|user|assistant|tool, "content": text}. An assistant turn may have further keys:

    "reasoning"   text: the reasoning before the answer (a <think> block in the content stays there)
    "calls"       JSON text: the tools it calls, [{"name": ..., "arguments": {...}}, ...]; the content is the text
                  beside them, often empty
    "train"       False: the turn is not trained on

A key without a value is absent. If the row describes tools, the first message has the role "tools" and its content is
the JSON list of their descriptions, unchanged; "tool" is a tool's result. Single-turn rows become a user turn and an
assistant turn; chats stay chats. A row that can't be converted raises Fault, which names the field.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from near.common.errors import UserError
from near.data.formats.sharegpt import check_order, openai_system, sharegpt_turns
from near.data.formats.turns import (
    OPTIONAL,
    Fault,
    Message,
    Turns,
    from_json,
    is_empty_turn,
    message_of,
    results_of,
    tools_message,
)

MESSAGE_ROLES = {**{role: role for role in ("assistant", "system", "tool", "user")}, "developer": "system"}
MESSAGE_TURNS = Turns("role", "content", {**MESSAGE_ROLES, "function": "tool"})
OTHER_NAMES = {"system": ("system_prompt",)}  # alternative columns of a field, if no column has its name


class Form(NamedTuple):
    """How the rows of a source are read."""

    format: str  # a key of FORMATS
    columns: Mapping[str, str]  # field to the source's column; "": the field is not read
    tags: Mapping[str, str]  # see `_sharegpt`
    entry: str | None = None  # `formatting` of a dataset_info.json entry; only fields in `columns` are read then


class Read(NamedTuple):
    """One row after conversion."""

    messages: list[Message]
    unanswered: str | None  # why there is no answer at the end; None: there is one
    notes: list[str]  # "empty", "system": counted and logged (near/data/reading.py)
    unread: list[str]  # keys of its turns that have a value and are not used, as messages[].key


class Field:
    """Access to a raw row through the `columns` map; faults name the user's column."""

    def __init__(self, raw: Mapping, form: Form):
        self.raw, self.form, self.notes, self.unread = raw, form, [], []
        self.tools: tuple[str, object] | None = None  # location and value of tools described in a system turn

    def name(self, field: str) -> str:
        """The column of a field: from `columns`, else the field's name or, if that is empty, an alternative."""
        named = self.form.columns.get(field)
        if named or field not in OTHER_NAMES or named == "" or self.form.entry:
            return named or field
        names = (field, *OTHER_NAMES[field])
        return next((name for name in names if self.raw.get(name) not in (None, "")), field)

    def others(self, field: str) -> bool:
        """Whether an alternative column of the field has a different value."""
        if self.form.entry or field in self.form.columns or not any(name in self.raw for name in OTHER_NAMES[field]):
            return False
        values = [self.raw.get(name) for name in (field, *OTHER_NAMES.get(field, ()))]
        return len({str(value) for value in values if value not in (None, "")}) > 1

    def get(self, field: str) -> object:
        """The field's raw value; None if it is absent or not to be read."""
        named = self.form.columns.get(field, "" if self.form.entry else None)
        return None if named == "" else self.raw.get(named or self.name(field))

    def text(self, field: str, required: bool = True) -> str:
        """The field's text, not stripped; "" for an optional one that is absent or null."""
        value = self.get(field)
        if value is None and not required:
            return ""
        name = self.name(field)
        if value is None:
            raise Fault(name, "is missing" if name not in self.raw else "is null")
        if not isinstance(value, str):
            raise Fault(name, f"is of type {type(value).__name__}, not text")
        if required and not value.strip():
            raise Fault(name, "is empty")
        return value

    def turns(self, field: str) -> list:
        """The field's list of turns, which may be JSON text."""
        name, value = self.name(field), self.get(field)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = from_json(value, name)
        if not isinstance(value, list | tuple) or not value:
            raise Fault(
                name, "is empty" if isinstance(value, list) else f"is of type {type(value).__name__}, not a list"
            )
        return list(value)


def _row(field: Field, turns: list[Message]) -> list[Message]:
    """`turns` preceded by the row's tools and system text. A system turn of the chat takes precedence over a column."""
    system = field.text("system", required=False)
    if field.others("system"):
        field.notes.append("system")
    if turns and turns[0]["role"] == "system":
        if system.strip() and system != turns[0]["content"]:
            field.notes.append("system")
        system, turns = turns[0]["content"], turns[1:]
    tools = _tools(field)
    if field.form.entry == "openai":
        system = openai_system(system, bool(tools))
    return [*tools, *([{"role": "system", "content": system}] if system.strip() else []), *turns]


def _tools(field: Field) -> list[Message]:
    """The row's tools: from its column or, if that is empty, from a system turn."""
    place, described = field.name("tools"), field.get("tools")
    tools = tools_message(described, place) if described else []
    if field.tools and (tools or field.form.columns.get("tools") == ""):
        field.unread.append(re.sub(r"\[\d+\]", "[]", field.tools[0]))
    elif field.tools:
        tools = tools_message(field.tools[1], field.tools[0])
    return tools


def _answered(prompt: str, answer: str) -> list[Message]:
    messages = [{"role": "user", "content": prompt}]
    return [*messages, {"role": "assistant", "content": answer}] if answer.strip() else messages


def _alpaca(field: Field) -> list[Message]:
    history, turns = field.get("history") or [], []
    if not isinstance(history, list):
        raise Fault(field.name("history"), f"is of type {type(history).__name__}, not a list of pairs")
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
            raise Fault(field.name("history"), "must contain only [question, answer] pairs")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    prompt_parts = [field.text("instruction", required=False), field.text("input", required=False)]
    prompt_parts = [text for text in prompt_parts if (text if field.form.entry else text.strip())]
    if not prompt_parts:
        field.text("instruction")  # raises the fault
    return _row(field, turns + _answered("\n".join(prompt_parts), field.text("output", required=False)))


def _chat(field: Field, name: str, turns: Turns) -> list[Message]:
    column, messages = field.name(name), []
    for i, turn in enumerate(field.turns(name)):
        message = message_of(turn, f"{column}[{i}]", turns)
        unread = turns.unread(turn)
        if "tools" in unread and message["role"] == "system" and not turns.strict and field.tools is None:
            field.tools = f"{column}[{i}].tools", turn["tools"]
            unread.remove("tools")
        field.unread += [f"{column}[].{key}" for key in unread]
        messages += [message] if turns.strict else results_of(message)
    return messages


def _messages(field: Field) -> list[Message]:
    return _row(field, _chat(field, "messages", MESSAGE_TURNS))


def _sharegpt(field: Field) -> list[Message]:
    """Turns under sharegpt's names, or those of `tags` (LLaMA-Factory's: role_tag, content_tag, user_tag, ...)."""
    turns = sharegpt_turns(field.form.tags, field.form.entry)
    messages = _chat(field, "conversations", turns)
    if field.form.entry:
        check_order(messages, field.name("conversations"), field.form.entry == "openai")
    return _row(field, messages)


def _prompt_completion(field: Field) -> list[Message]:
    turns = []
    for name, role, required in (("prompt", "user", True), ("completion", "assistant", False)):
        if isinstance(field.get(name), list):
            turns += _chat(field, name, MESSAGE_TURNS)
        elif (text := field.text(name, required)).strip():
            turns.append({"role": role, "content": text})
    return _row(field, turns)


def _question_answer(field: Field) -> list[Message]:
    return _row(field, _answered(field.text("question"), field.text("answer", required=False)))


def _text(field: Field) -> list[Message]:
    """Plain text without a prompt: one assistant turn, all of it trained on, without a chat template."""
    return [{"role": "assistant", "content": field.text("text")}]


class Format(NamedTuple):
    """The fields of a format and the function that reads them."""

    required: tuple[str, ...]  # the prompt's first
    optional: tuple[str, ...]
    read: Callable[[Field], list[Message]]


BESIDE = ("system", "tools")
FORMATS: dict[str, Format] = {
    "messages": Format(("messages",), BESIDE, _messages),
    "sharegpt": Format(("conversations",), BESIDE, _sharegpt),
    "prompt_completion": Format(("prompt", "completion"), BESIDE, _prompt_completion),
    "question_answer": Format(("question", "answer"), BESIDE, _question_answer),
    "alpaca": Format(("instruction", "output"), ("input", "history", *BESIDE), _alpaca),
    "text": Format(("text",), (), _text),
}


def fields_of(format: str) -> tuple[str, ...]:
    return (*FORMATS[format].required, *FORMATS[format].optional)


def check_text(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Fault(field, "has half of a surrogate pair, which is not valid text") from error


def canonical(raw: object, form: Form) -> Read:
    """Convert one raw row. Raises Fault if it can't be converted; a row without an answer is no fault."""
    if not isinstance(raw, Mapping):
        raise Fault("row", f"is of type {type(raw).__name__}, not an object with columns")
    field = Field(raw, form)
    messages = FORMATS[form.format].read(field)
    prompt_field, *answer_fields = FORMATS[form.format].required
    prompt = form.columns.get(prompt_field, prompt_field)
    for message in messages:
        check_text(message["content"], prompt)
        for name in OPTIONAL[:2] if len(message) > 2 else ():
            check_text(message.get(name, ""), prompt)
    prompted = any(m["role"] not in ("assistant", "tools") and m["content"].strip() for m in messages)
    if not prompted and form.format != "text":
        raise Fault(prompt, "holds no prompt")
    for message in messages[:-1]:
        if message["role"] == "assistant" and is_empty_turn(message):
            message["train"] = False
            field.notes.append("empty")
    if messages[-1]["role"] == "assistant" and (messages[-1]["content"].strip() or messages[-1].get("calls")):
        return Read(messages, None, field.notes, field.unread)
    if not answer_fields:
        return Read(messages, f"field '{prompt}' has no answer at its end", field.notes, field.unread)
    name = form.columns.get(answer_fields[0], answer_fields[0])
    lack = "is missing" if name not in raw else "is null" if raw[name] is None else "is empty"
    return Read(messages, f"field '{name}' {lack}", field.notes, field.unread)


def is_plain(messages: list[Message]) -> bool:
    """Whether a row is plain text: a single assistant turn."""
    return len(messages) == 1 and messages[0]["role"] == "assistant"


def without_nulls(messages: list[dict]) -> list[Message]:
    """Messages as a table stores them, with every key in each, in the canonical form (see the module)."""
    return [{key: value for key, value in m.items() if value is not None or key not in OPTIONAL} for m in messages]


def answer_of(message: Message) -> str:
    """Text and calls of an assistant turn as one text."""
    return "\n".join(filter(None, [message["content"], message.get("calls")]))


def embedded_text(messages: list[Message], embed: str) -> str:
    """The text that is embedded for a chat: "prompt" (user turns), "answer" (last assistant turn) or "both".

    Tools are left out, and system messages unless there is no user turn: prompts that all rows repeat make the rows
    look alike. Plain text is embedded as it is.
    """
    if embed == "chat":
        raise UserError("embedder.embed=chat is for embedder=rds, whose model has a chat template; use prompt or both")
    if is_plain(messages):
        return messages[0]["content"]
    prompt = "\n".join(prompt_turns(messages))
    answer = answer_of(messages[-1]) if messages[-1]["role"] == "assistant" else ""
    return {"prompt": prompt, "answer": answer, "both": f"{prompt}\n{answer}"}[embed]


def prompt_turns(messages: list[Message]) -> list[str]:
    """The texts of the user turns; if there are none, of all turns but the assistant's and the tools."""
    turns = [m["content"] for m in messages if m["role"] == "user"]
    return turns or [m["content"] for m in messages if m["role"] not in ("assistant", "tools")]
