"""Splits a chat, rendered with the tokenizer's template, into pieces: prompts, and answers with their ends.

A template does not tell where an answer is in its text, and may write an earlier turn differently from a last one
(without its thinking, with another end). So each answer is also rendered at the end of a chat and then located.
"""

import json
import re

from jinja2 import TemplateError

from near.common.errors import UserError
from near.data.formats.formats import Message
from near.data.templates.chat_template import Piece
from near.models.rendering import render, text_of

THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
UNCLOSED = re.compile(r"<think>\s*$")  # at the end of an answer's opening
OPEN_THOUGHT = re.compile(r"<think>\s*(</think>\s*)?$")
CLOSING = "\n</think>\n\n"
REWRITES = "the chat template rewrites earlier turns, so that answers can't be located in it"


class _Chat:
    """A chat and its beginnings up to each answer, rendered together.

    `calls`: see `template_input`. Raises UserError as near.models.rendering.render does.
    """

    def __init__(self, tokenizer, messages: list[Message], generate: bool, calls: str):
        tools, turns = template_input(messages, calls)
        self.first = 0 if tools is None else 1  # index of the first turn in `messages`
        parts = [(True, len(turns), generate), (False, len(turns), generate)][: 1 + self.first]
        for i in answers_of(messages):
            stop = i - self.first
            parts += [(True, stop, True), (True, stop, False), (True, stop + 1, False)]
        self._texts = dict(zip(parts, render(tokenizer, turns, tools or None, parts), strict=True))

    def until(self, stop: int, generate: bool = False, tools: bool = True) -> str:
        """`messages[:stop]` as text. `generate`: with the opening of an answer at the end.

        Raises jinja2.TemplateError if the template rejects them.
        """
        return text_of(self._texts[tools, stop - self.first, generate])


def answers_of(messages: list[Message]) -> list[int]:
    """Indices of answers, without those at the start of the chat, which answer nothing."""
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    return [i for i in answers if any(m["role"] not in ("tools", "assistant") for m in messages[:i])]


def template_input(messages: list[Message], calls: str = "object") -> tuple[list | None, list[dict]]:
    """The input of a chat template for a row: its tools (None: none) and its turns, in OpenAI's form.

    `calls`: the arguments of a call as an "object" or as a "string" of JSON; "text": the whole call as a line after the
    content, for templates without calls.
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
    """Split a chat, rendered with the tokenizer's template, into prompts and answers.

    An answer at the start of the chat belongs to the next prompt. Some templates (DeepSeek-R1's) open a thought for
    generation and omit it in finished answers. Then the last answer continues the opening of generation: its thinking,
    which may be empty, and its text.

    Args:
        tokenizer: has a chat template.
        messages: a row's messages.
        generate: add the opening of an answer at the end.

    Returns:
        The pieces; and whether the template opens the last answer differently from generation.

    Raises:
        UserError: the template does not accept tools, omits an answer, or rewrites earlier turns.
        jinja2.TemplateError: the template rejects the chat.
    """
    chat, whole = _rendered(tokenizer, messages, generate)
    if chat.first and whole == chat.until(len(messages), generate, tools=False):
        raise UserError(
            "the chat template does not accept tools, and the row has some; choose one that does "
            "(model.template=qwen), drop the tools (data.candidates.columns.tools=false) or skip such rows "
            "(data.on_error=skip)"
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
    """The chat with its calls in the first form that the template accepts and shows, and its text."""
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
    """Length of the common prefix of two texts; os.path.commonprefix takes a second for five million characters."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if one[least:middle] == other[least:middle] else (least, middle - 1)
    return least


class _Turn:
    """An answer as its template renders it at the end of a chat, to be located in the text of a longer chat.

    There it may lack its thinking, have another end, or other white space around it. White space after its end does
    not belong to it.
    """

    def __init__(self, chat: _Chat, messages: list[Message], i: int, marks: list[str]):
        self.before, head = chat.until(i, generate=True), chat.until(i)
        through, content, self.marks = chat.until(i + 1), messages[i]["content"], marks
        begin = _common(self.before, through)
        opening = self.before[len(head) :] if self.before.startswith(head) else ""
        self.openings = [opening, OPEN_THOUGHT.sub("", opening)]
        self.opens_thought = UNCLOSED.search(opening) is not None
        if begin < len(self.before) and through.startswith(head):  # a finished answer opens differently
            at = through.find(content.strip(), len(head)) if content.strip() else -1
            begin = min(begin, at) if at >= 0 else begin
            self.openings.append(through[len(head) : begin])
        turn = through[begin:]
        texts = (content.strip(), THINKING.sub("", content, count=1).strip())
        self.core = next((text for text in texts if text and text in turn), "")
        if content.strip() and not self.core and "calls" not in messages[i]:
            if content.strip() in through:
                raise UserError(f"{REWRITES}; data.on_error=skip leaves such rows out")
            raise UserError("the chat template omits the text of an answer; choose another one (model.template)")
        if not self.core:  # only calls, or nothing: then with their end
            opened = "<think>" if self.opens_thought else ""
            content = self.core = THINKING.sub("", opened + turn, count=1).strip()
        at = turn.rfind(self.core) if self.core else len(turn)
        self.lead, rest = turn[:at], turn[at + len(self.core) :]
        space = content[len(content.rstrip()) :]  # trailing white space of the answer itself
        self.space = space if rest.startswith(space) else ""
        self.end = rest[len(self.space) :].rstrip()

    def place(self, whole: str, at: int) -> tuple[int, int]:
        """Start and stop of the answer with its end in `whole`, from `at` on."""
        starts = [len(self.before)] if whole.startswith(self.before) else []
        matches = [(position, -len(o)) for o in self.openings if o and (position := whole.find(o, at)) >= 0]
        # nearest first; at the same position the longer one
        starts += [position - length for position, length in sorted(matches)]
        for start in (s for s in starts if s >= at):
            exact = self.lead + self.core + self.space + self.end
            if whole.startswith(exact, start):
                return start, start + len(exact)
            stop = self._stop(whole, start)
            if stop is not None:
                return start, stop
        raise UserError(f"{REWRITES}; data.on_error=skip leaves such rows out")

    def _stop(self, whole: str, start: int) -> int | None:
        """The end of an answer that begins at `start`, if it is this one in another form; else None."""
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
        """The end of an answer whose text ends at `at`, and whether an end token or the template's end is there."""
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
