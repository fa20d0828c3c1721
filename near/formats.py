"""Raw rows of every supported format to one canonical form: a list of chat messages that ends with the answer.

A message is {"role": tools|system|user|assistant|tool, "content": text} and, of an assistant turn, where there is one:

    "reasoning"   text: what the turn thinks before it answers (a <think> block in the content stays there)
    "calls"       JSON text: the tools it calls, [{"name": ..., "arguments": {...}}, ...]; the content is what it says
                  beside them, often nothing
    "train"       False: the turn is not trained on

A key that has no value is not there. Where the row describes tools the first message has the role "tools" and as its
content the JSON list of their descriptions, as the source has them; "tool" is what a tool gave back. Single-turn rows
become a user turn and an assistant turn; chats stay chats. What can't be made into that raises Fault, which names the
field.
"""

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from near.errors import UserError, did_you_mean

Message = dict[str, str | bool]
OPTIONAL = ("reasoning", "calls", "train")  # keys that a message may lack
ROLES = {"system", "user", "assistant", "tool"}
MESSAGE_ROLES = {**{role: role for role in sorted(ROLES)}, "developer": "system"}
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}


TAG_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "function_tag": "assistant",
    "observation_tag": "tool",
    "system_tag": "system",
}


class Fault(Exception):
    """A row that can't be used: the field and what is wrong with it."""

    def __init__(self, field: str, reason: str):
        super().__init__(f"field '{field}' {reason}")


class Field:
    """Access to a raw row through the `columns` map, with faults that name the user's column."""

    def __init__(self, raw: Mapping, columns: Mapping[str, str], tags: Mapping[str, str]):
        self.raw, self.columns, self.tags = raw, columns, tags

    def name(self, field: str) -> str:
        return self.columns.get(field, field)

    def get(self, field: str) -> object:
        return self.raw.get(self.name(field))

    def text(self, field: str, required: bool = True) -> str:
        """The field's text, stripped at neither end; "" for an optional one that is absent or null."""
        name, value = self.name(field), self.get(field)
        if value is None and not required:
            return ""
        if value is None:
            raise Fault(name, "is missing" if name not in self.raw else "is null")
        if not isinstance(value, str):
            raise Fault(name, f"is of type {type(value).__name__}, not text")
        if required and not value.strip():
            raise Fault(name, "is empty")
        return value

    def turns(self, field: str) -> list:
        name, value = self.name(field), self.get(field)
        if not isinstance(value, list | tuple) or not value:
            raise Fault(
                name, "is empty" if isinstance(value, list) else f"is of type {type(value).__name__}, not a list"
            )
        return list(value)


def _system(field: Field) -> list[Message]:
    text = field.text("system", required=False)
    return [{"role": "system", "content": text}] if text.strip() else []


def _alpaca(field: Field) -> list[Message]:
    messages = _system(field)
    history = field.get("history") or []
    if not isinstance(history, list):
        raise Fault(field.name("history"), f"is of type {type(history).__name__}, not a list of pairs")
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
            raise Fault(field.name("history"), "holds something else than [question, answer] pairs")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    more = field.text("input", required=False)
    prompt = field.text("instruction") + (f"\n{more}" if more.strip() else "")
    messages.append({"role": "user", "content": prompt})
    text = field.text("output", required=False)
    return [*messages, {"role": "assistant", "content": text}] if text.strip() else messages


def _spoken(turn: Mapping, content: object) -> object:
    """The text of a turn whose content is parts of text, or that calls tools (each as a line of JSON)."""
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    calls = turn.get("tool_calls")
    if not calls or not isinstance(calls, list) or not (content is None or isinstance(content, str)):
        return content
    called = [call.get("function", call) if isinstance(call, Mapping) else call for call in calls]
    return "\n".join([*filter(None, [content]), *(json.dumps(call, ensure_ascii=False) for call in called)])


def _chat(field: Field, name: str, role_key: str, text_key: str, roles: Mapping[str, str]) -> list[Message]:
    messages = []
    column = field.name(name)
    for i, turn in enumerate(field.turns(name)):
        where = f"{column}[{i}]"
        if isinstance(turn, Mapping) and turn.get("tool_calls"):
            turn = {text_key: None, **turn}
        if not isinstance(turn, Mapping) or role_key not in turn or text_key not in turn:
            raise Fault(where, f"is not a turn with '{role_key}' and '{text_key}'")
        role, text = turn[role_key], _spoken(turn, turn[text_key])
        if not isinstance(role, str) or role not in roles:
            raise Fault(f"{where}.{role_key}", f"is {role!r}, not one of {', '.join(roles)}")
        if not isinstance(text, str):
            raise Fault(f"{where}.{text_key}", f"is of type {type(text).__name__}, not text")
        messages.append({"role": roles[role], "content": text})
    return messages


def _messages(field: Field) -> list[Message]:
    return _chat(field, "messages", "role", "content", MESSAGE_ROLES)


def _sharegpt(field: Field) -> list[Message]:
    """Turns under sharegpt's names, or those of `tags` (LLaMA-Factory's: role_tag, content_tag, user_tag, ...)."""
    tags, roles = field.tags, SHAREGPT_ROLES
    if named := {tags[tag]: role for tag, role in TAG_ROLES.items() if tag in tags}:
        left = {name: role for name, role in SHAREGPT_ROLES.items() if role not in named.values()}
        roles = {**left, **named}
    role_key, text_key = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    return _system(field) + _chat(field, "conversations", role_key, text_key, roles)


def _prompt_completion(field: Field) -> list[Message]:
    messages = _system(field)
    for name, role, required in (("prompt", "user", True), ("completion", "assistant", False)):
        if isinstance(field.get(name), list):
            messages += _chat(field, name, "role", "content", MESSAGE_ROLES)
        elif (text := field.text(name, required)).strip():
            messages.append({"role": role, "content": text})
    return messages


def _question_answer(field: Field) -> list[Message]:
    messages = [*_system(field), {"role": "user", "content": field.text("question")}]
    text = field.text("answer", required=False)
    return [*messages, {"role": "assistant", "content": text}] if text.strip() else messages


def _text(field: Field) -> list[Message]:
    """Plain text answers nothing: one assistant turn, trained whole and without a chat template."""
    return [{"role": "assistant", "content": field.text("text")}]


class Format(NamedTuple):
    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Field], list[Message]]


FORMATS: dict[str, Format] = {
    "messages": Format(("messages",), (), _messages),
    "sharegpt": Format(("conversations",), ("system",), _sharegpt),
    "prompt_completion": Format(("prompt", "completion"), ("system",), _prompt_completion),
    "question_answer": Format(("question", "answer"), ("system",), _question_answer),
    "alpaca": Format(("instruction", "output"), ("input", "system", "history"), _alpaca),
    "text": Format(("text",), (), _text),
}


def decide(format: str, columns: Mapping[str, str], first: Mapping, where: str) -> str:
    """The format's name (found by its columns for "auto"), checked against the first row's columns.

    Raises UserError for an unknown `columns` key and for a prompt column that is not there, naming those that are.
    """
    there = shown_columns(first)
    if format == "auto":
        names = {key for key in columns if columns[key] in first} | (set(first) - set(columns.values()))
        fits = [n for n, f in FORMATS.items() if f.required[0] in names]
        if not fits:
            raise UserError(f"{where}: no known format fits; {there}; set format and columns")
        format = fits[0]
    prompt = FORMATS[format].required[0]
    known = [*FORMATS[format].required, *FORMATS[format].optional, "source"]
    for key, column in columns.items():
        if key not in known:
            raise UserError(f"{where}: columns.{key} is not a field of format {format}{did_you_mean(key, known)}")
        if column not in first and key not in (*FORMATS[format].optional, *FORMATS[format].required[1:]):
            raise UserError(f"{where}: no column '{column}' (columns.{key}); {there}")
    if columns.get(prompt, prompt) not in first:
        raise UserError(f"{where}: no column '{columns.get(prompt, prompt)}' (format {format}); {there}")
    return format


def shown_columns(row: Mapping) -> str:
    return f"its columns: {', '.join(map(str, row)) or 'none'}"


def check_text(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Fault(field, "holds half of a surrogate pair, which is no text") from error


def canonical(
    raw: object, format: str, columns: Mapping[str, str], tags: Mapping[str, str] | None = None
) -> tuple[list[Message], str | None]:
    """The messages of one raw row, and why they hold no answer at their end (None: they do)."""
    if not isinstance(raw, Mapping):
        raise Fault("row", f"is of type {type(raw).__name__}, not an object with columns")
    messages = FORMATS[format].read(Field(raw, columns, tags or {}))
    asked, *answered = FORMATS[format].required
    for message in messages:
        check_text(message["content"], columns.get(asked, asked))
    prompted = any(m["role"] != "assistant" and m["content"].strip() for m in messages)
    if not prompted and format != "text":
        raise Fault(columns.get(asked, asked), "holds no prompt")
    if messages[-1]["role"] == "assistant" and messages[-1]["content"].strip():
        return messages, None
    if not answered:
        return messages, f"field '{columns.get(asked, asked)}' holds no answer at its end"
    name = columns.get(answered[0], answered[0])
    lack = "is missing" if name not in raw else "is null" if raw[name] is None else "is empty"
    return messages, f"field '{name}' {lack}"


def is_plain(messages: list[Message]) -> bool:
    """Whether a row is plain text: nothing but one assistant turn."""
    return len(messages) == 1 and messages[0]["role"] == "assistant"


def without_nulls(messages: list[dict]) -> list[Message]:
    """Messages as a table holds them, every key in every one, in the form that the head of this file describes."""
    return [{key: value for key, value in m.items() if value is not None or key not in OPTIONAL} for m in messages]


def answer_of(message: Message) -> str:
    """What an assistant turn says and calls, as one text."""
    return "\n".join(filter(None, [message["content"], message.get("calls")]))


def embedded_text(messages: list[Message], embed: str) -> str:
    """The text that stands for a chat: "prompt" (user turns), "answer" (last assistant turn) or "both".

    Tools are left out, and system messages unless there is no user turn: repeated prompts make rows look alike. Plain
    text stands for itself.
    """
    if embed == "chat":
        raise UserError("embedder.embed=chat is for embedder=rds, whose model has a chat template; use prompt or both")
    if is_plain(messages):
        return messages[0]["content"]
    prompt = "\n".join(prompt_turns(messages))
    answer = answer_of(messages[-1]) if messages[-1]["role"] == "assistant" else ""
    return {"prompt": prompt, "answer": answer, "both": f"{prompt}\n{answer}"}[embed]


def prompt_turns(messages: list[Message]) -> list[str]:
    """The texts of the user turns; where there is none, of what else stands beside the assistant's, tools apart."""
    turns = [m["content"] for m in messages if m["role"] == "user"]
    return turns or [m["content"] for m in messages if m["role"] not in ("assistant", "tools")]
