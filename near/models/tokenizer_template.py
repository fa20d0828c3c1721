"""A chat by the tokenizer's own template, in pieces: what stands before an answer, and the answer with its end.

A template says nothing of where an answer stands in its text, and may write a turn that others follow otherwise than a
last one (without its thinking, with another end). So each answer is rendered at a chat's end and found again.
"""

import json
import re

from jinja2 import TemplateError

from near.common.errors import UserError
from near.data.formats.formats import Message
from near.data.templates.chat_template import Piece
from near.models.rendering import render, text_of

THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
UNCLOSED = re.compile(r"<think>\s*$")  # at the end of what opens an answer
OPEN_THOUGHT = re.compile(r"<think>\s*(</think>\s*)?$")
CLOSING = "\n</think>\n\n"
REWRITES = "the chat template rewrites earlier turns, so that answers can't be located in it"


class _Chat:
    """What a row's template makes of the chat and of all its beginnings that are asked for, rendered together.

    `calls`: see `template_input`. Raises UserError as near.models.rendering.render does.
    """

    def __init__(self, tokenizer, messages: list[Message], generate: bool, calls: str):
        tools, turns = template_input(messages, calls)
        self.first = 0 if tools is None else 1  # the place of the first turn in `messages`
        parts = [(True, len(turns), generate), (False, len(turns), generate)][: 1 + self.first]
        for i in answers_of(messages):
            stop = i - self.first
            parts += [(True, stop, True), (True, stop, False), (True, stop + 1, False)]
        self._texts = dict(zip(parts, render(tokenizer, turns, tools or None, parts), strict=True))

    def until(self, stop: int, generate: bool = False, tools: bool = True) -> str:
        """`messages[:stop]` as text, `generate`: with the opening of an answer at the end. Raises jinja2.TemplateError
        where the template can't take them."""
        return text_of(self._texts[tools, stop - self.first, generate])


def answers_of(messages: list[Message]) -> list[int]:
    """The places of answers but for those that open the chat and answer nothing."""
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    return [i for i in answers if any(m["role"] not in ("tools", "assistant") for m in messages[:i])]


def template_input(messages: list[Message], calls: str = "object") -> tuple[list | None, list[dict]]:
    """A row as chat templates take it: its tools and its turns, in OpenAI's form.

    `calls`: the arguments of a call as an "object", or as a "string" of JSON; or the whole call as a line of "text"
    behind the content, for templates that know no calls.
    """
    tools = json.loads(messages[0]["content"]) if messages and messages[0]["role"] == "tools" else None
    turns, waiting, count = [], [], 0
    for message in messages[1:] if tools is not None else messages:
        turn: dict = {"role": message["role"], "content": message["content"]}
        made = json.loads(message["calls"]) if "calls" in message else []
        if made and calls == "text":
            lines = [json.dumps(call, ensure_ascii=False) for call in made]
            turn["content"] = "\n".join([*filter(None, [message["content"]]), *lines])
        elif made:
            if calls == "string":
                made = [{**c, "arguments": json.dumps(c.get("arguments"), ensure_ascii=False)} for c in made]
            made = [{"type": "function", "id": f"call{count + n:05d}", "function": c} for n, c in enumerate(made)]
            turn["tool_calls"], waiting, count = made, list(made), count + len(made)
        elif message["role"] == "tool" and waiting:
            answered = waiting.pop(0)
            turn |= {"tool_call_id": answered["id"], "name": answered["function"].get("name")}
        if "reasoning" in message:
            turn["reasoning_content"] = message["reasoning"]
        turns.append(turn)
    return tools, turns


def tokenizer_pieces(tokenizer, messages: list[Message], generate: bool = False) -> tuple[list[Piece], bool]:
    """The pieces of a chat by the tokenizer's own template: what stands before an answer, and the answer with its end,
    in turn; and whether the last answer opens otherwise than generation opens one.

    An answer that opens the chat answers nothing and belongs to what stands before the next. Where generation opens a
    thought that the template then leaves out of finished answers (DeepSeek-R1's), the last answer continues what
    generation opens: its thinking, which may be empty, and what it says.
    """
    chat, whole = _rendered(tokenizer, messages, generate)
    if chat.first and whole == chat.until(len(messages), generate, tools=False):
        raise UserError(
            "the chat template takes no tools, and the row has some; name one that does (model.template=qwen), leave "
            "them out (data.candidates.columns.tools=false) or the rows (data.on_error=skip)"
        )
    marks = sorted(set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()), key=len, reverse=True)
    pieces, at, reopened = [], 0, False
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=None)
    for i in answers_of(messages):
        turn = _Turn(chat, messages, i, marks)
        start, stop = turn.place(whole, at)
        if i == last and not generate and not whole.startswith(turn.before):
            if turn.opens_thought and turn.before.startswith(whole[:at]):
                thinking = messages[i].get("reasoning", "").strip()
                answer = thinking + CLOSING + turn.core + turn.space + turn.end
                return [*pieces, Piece(turn.before[at:], None), Piece(answer, i)], False
            reopened = True
        if start > at:
            pieces.append(Piece(whole[at:start], None))
        if stop > start:
            pieces.append(Piece(whole[start:stop], i))
        at = stop
    return [*pieces, Piece(whole[at:], None)] if whole[at:] else pieces, reopened


def _rendered(tokenizer, messages: list[Message], generate: bool) -> tuple[_Chat, str]:
    """The chat with its calls in the first form that the template can take and shows, and its text."""
    names = {call.get("name") for m in messages if "calls" in m for call in json.loads(m["calls"])}
    for calls in ("object", "string", "text"):
        chat = _Chat(tokenizer, messages, generate, calls)
        try:
            whole = chat.until(len(messages), generate)
        except TemplateError:
            if not names or calls == "text":
                raise
            continue
        if calls == "text" or all(name in whole for name in names if name):
            break
    return chat, whole


def _unthought(text: str) -> str:
    return THINKING.sub("", text).strip()


def _common(one: str, other: str) -> int:
    """How many characters at their beginnings two texts share; os.path.commonprefix takes a second for five million."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if one[least:middle] == other[least:middle] else (least, middle - 1)
    return least


class _Turn:
    """An answer as its template renders it at a chat's end, to be found in the text of a longer chat: there it may lack
    its thinking, end otherwise, or have other white space around it. White space behind its end is not its own."""

    def __init__(self, chat: _Chat, messages: list[Message], i: int, marks: list[str]):
        self.before, head = chat.until(i, generate=True), chat.until(i)
        through, content, self.marks = chat.until(i + 1), messages[i]["content"], marks
        begin = _common(self.before, through)
        opening = self.before[len(head) :] if self.before.startswith(head) else ""
        self.openings = [opening, OPEN_THOUGHT.sub("", opening)]
        self.opens_thought = UNCLOSED.search(opening) is not None
        if begin < len(self.before) and through.startswith(head):  # a finished answer opens otherwise than a new one
            at = through.find(content.strip(), len(head)) if content.strip() else -1
            begin = min(begin, at) if at >= 0 else begin
            self.openings.append(through[len(head) : begin])
        turn = through[begin:]
        texts = (content.strip(), THINKING.sub("", content, count=1).strip())
        self.core = next((text for text in texts if text and text in turn), "")
        if content.strip() and not self.core and "calls" not in messages[i]:
            if content.strip() in through:
                raise UserError(f"{REWRITES}; data.on_error=skip leaves such rows out")
            raise UserError("the chat template leaves out what an answer says; name another one (model.template)")
        if not self.core:  # calls alone, or nothing: with what ends them
            opened = "<think>" if self.opens_thought else ""
            content = self.core = THINKING.sub("", opened + turn, count=1).strip()
        at = turn.rfind(self.core) if self.core else len(turn)
        self.lead, rest = turn[:at], turn[at + len(self.core) :]
        space = content[len(content.rstrip()) :]  # the answer's own, behind what it says
        self.space = space if rest.startswith(space) else ""
        self.end = rest[len(self.space) :].rstrip()

    def place(self, whole: str, at: int) -> tuple[int, int]:
        """Where the answer and its end stand in `whole` behind `at`."""
        starts = [len(self.before)] if whole.startswith(self.before) else []
        matches = [(position, -len(o)) for o in self.openings if o and (position := whole.find(o, at)) >= 0]
        starts += [position - length for position, length in sorted(matches)]  # the next one, of two there the longer
        for start in (s for s in starts if s >= at):
            exact = self.lead + self.core + self.space + self.end
            if whole.startswith(exact, start):
                return start, start + len(exact)
            stop = self._stop(whole, start)
            if stop is not None:
                return start, stop
        raise UserError(f"{REWRITES}; data.on_error=skip leaves such rows out")

    def _stop(self, whole: str, start: int) -> int | None:
        """Where an answer that begins at `start` ends, should it be this one in another form."""
        endless, last = None, start + len(self.lead) + len(self.core) + 100
        position = whole.find(self.core, start, last)
        while position >= 0:
            if _unthought(self.lead).endswith(_unthought(whole[start:position])):
                stop, ended = self._ending(whole, position + len(self.core))
                if ended:
                    return stop
                endless = stop if endless is None else endless
            position = whole.find(self.core, position + 1, last) if self.core else -1
        return endless

    def _ending(self, whole: str, at: int) -> tuple[int, bool]:
        """Where an answer that says its last word at `at` ends, and whether something ends it there."""
        if not self.end:
            return (at + len(self.space) if whole.startswith(self.space, at) else at), True
        text_end, at = at, len(whole) - len(whole[at:].lstrip())
        stop, end = at, self.end.lstrip()
        for part in re.split(f"({'|'.join(map(re.escape, self.marks))})", end) if self.marks else [end]:
            if not whole.startswith(part, stop):
                break
            stop += len(part)
        if whole[at:stop].strip():
            return at + len(whole[at:stop].rstrip()), True
        mark = next((mark for mark in self.marks if whole.startswith(mark, at)), None)
        return (text_end + len(self.space), False) if mark is None else (at + len(mark), True)
