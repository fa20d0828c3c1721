"""A chat to token ids and labels. Every answer is encoded apart from its prompt, so that training sees what generation
continues from: the ids up to an answer are those of its generation prompt."""

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jinja2 import TemplateError
from omegaconf import DictConfig

from near.errors import UserError
from near.formats import Message, is_plain
from near.templates import Piece, template_of, thinking_of

IGNORED = -100  # the label that torch's cross entropy leaves out
THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
UNCLOSED = re.compile(r"<think>\s*$")
CLOSING = "\n</think>\n\n"
OPEN_THOUGHT = re.compile(r"<think>\s*(</think>\s*)?$")
ANCHORS = ("1", "\n", "x", "。", ">", "é")  # what may stand before a continuation while it is encoded
JOINT = "\x1d"  # between pieces in one string: `Encoder.joined`
REWRITES = "the chat template rewrites earlier turns, so that answers can't be located in it"


@dataclass
class Encoded:
    """One row for training. `input_ids`, `labels`: int64 (T,), T <= cutoff_len; labels are IGNORED where nothing is
    trained. `cut_prompt`, `cut_answer`: tokens lost before and in the last answer. `lost_question`: whether an answer
    is left whose question was cut away; `lost_answers`: earlier answers that were cut away, whole or in part.
    `endless`: nothing ends the answer, and the tokenizer has no end token; `end_added`: the tokenizer's was added.
    `unrendered`: answers of whose thinking or, beside calls, text the template leaves something out; `dropped`:
    data.reasoning=drop took thinking out. `reopened`: the template opens the last answer otherwise than generation
    opens one."""

    input_ids: np.ndarray
    labels: np.ndarray
    cut_prompt: int = 0
    cut_answer: int = 0
    lost_question: bool = False
    lost_answers: int = 0
    endless: bool = False
    end_added: bool = False
    unrendered: int = 0
    dropped: bool = False
    reopened: bool = False


@dataclass
class _Answer:
    """Where an answer and its prompt stand among a row's ids: prompt [start, begin), answer [begin, stop)."""

    turn: int
    start: int
    begin: int
    stop: int
    prompt: str = ""


@dataclass
class _Ids:
    ids: list[int] = field(default_factory=list)
    answers: list[_Answer] = field(default_factory=list)


class Encoder:
    """Encodes the rows of one configuration: `data` names cutoff_len, train_on_prompt, mask_history, reasoning and
    default_system (conf/data/files.yaml says what they do)."""

    def __init__(self, tokenizer, data: DictConfig | Mapping):
        self.tokenizer, self.template = tokenizer, template_of(tokenizer)
        self.thinking = thinking_of(tokenizer) is not False  # for named templates
        self.cutoff_len = data["cutoff_len"]
        self.train_on_prompt = bool(data.get("train_on_prompt"))
        self.mask_history = bool(data.get("mask_history"))
        self.drop_reasoning = data.get("reasoning") == "drop"
        self.default_system = data.get("default_system")

    def encode(self, messages: list[Message]) -> Encoded:
        """A row's ids and labels. A row that is too long loses the start of what stands before its last answer, then
        the end of that answer.

        Raises UserError where the chat template takes no tools and the row has some, or rewrites earlier turns so that
        answers can't be found in it; jinja2.TemplateError where the template refuses the row.
        """
        if is_plain(messages):
            return self._plain(messages[0]["content"])
        messages, dropped = self._prepared(messages)
        pieces, reopened = self.pieces(messages)
        row = self._row(pieces)
        labels = np.full(len(row.ids), IGNORED, dtype=np.int64)
        ids = np.asarray(row.ids, dtype=np.int64)
        if self.train_on_prompt:
            labels[:] = ids
        trained = [a for a in row.answers if self._trains(messages, a.turn)]
        for answer in row.answers:
            span = slice(answer.begin, answer.stop)
            labels[span] = ids[span] if answer in trained else IGNORED
        ids, labels, added, endless = self._ended(ids, labels, trained)
        last = row.answers[-1].begin if row.answers else len(ids)
        over = max(0, len(ids) - self.cutoff_len)
        cut = min(over, last)
        lost_question, lost_answers = self._lost(messages, row, trained, labels, cut) if over else (False, 0)
        return Encoded(
            ids[cut:][: self.cutoff_len],
            labels[cut:][: self.cutoff_len],
            cut_prompt=cut,
            cut_answer=over - cut,
            lost_question=lost_question,
            lost_answers=lost_answers,
            endless=endless,
            end_added=added,
            unrendered=sum(self._unrendered(messages, ids, answer) for answer in row.answers),
            dropped=dropped,
            reopened=reopened,
        )

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """The ids that generation continues from: `messages`, and the opening of an answer."""
        messages, _ = self._prepared(messages)
        return self._row(self.pieces(messages, generate=True)[0]).ids

    def joined(self, messages: list[Message]) -> str:
        """The row's pieces in one string, JOINT between them; `joined_ids` encodes it."""
        if is_plain(messages):
            return messages[0]["content"]
        return JOINT.join(piece.text for piece in self.pieces(self._prepared(messages)[0])[0])

    def joined_ids(self, text: str) -> list[int]:
        return self._row([Piece(part, None) for part in text.split(JOINT) if part]).ids

    def _prepared(self, messages: list[Message]) -> tuple[list[Message], bool]:
        """`messages` with the default system turn, and without thinking where it is to be dropped (whether any was)."""
        dropped = False
        if self.drop_reasoning:
            without = [_without_thinking(m) if m["role"] == "assistant" else m for m in messages]
            dropped, messages = without != messages, without
        roles = [m["role"] for m in messages]
        if self.default_system and "system" not in roles:
            first = int(roles[:1] == ["tools"])
            system: Message = {"role": "system", "content": self.default_system}
            messages = [*messages[:first], system, *messages[first:]]
        return messages, dropped

    def pieces(self, messages: list[Message], generate: bool = False) -> tuple[list[Piece], bool]:
        """What is encoded apart from each other, `generate`: with the opening of an answer at the end; and whether the
        last answer opens otherwise than generation opens one."""
        if self.template is None:
            return own_pieces(self.tokenizer, messages, generate)
        tokenizer = self.tokenizer
        options = {"thinking": self.thinking, "generate": generate, "mask_history": self.mask_history}
        return self.template.pieces(messages, tokenizer.bos_token or "", tokenizer.eos_token or "", **options), False

    def _trains(self, messages: list[Message], turn: int) -> bool:
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        return messages[turn].get("train", True) and not (self.mask_history and turn != last)

    def _plain(self, text: str) -> Encoded:
        """Plain text and its end, every token trained on; what is over `cutoff_len` is lost at the end."""
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        over, whole = max(0, len(ids) - self.cutoff_len), np.asarray(ids[: self.cutoff_len], dtype=np.int64)
        return Encoded(whole, whole.copy(), cut_answer=over, endless=end is None)

    def _row(self, pieces: list[Piece]) -> _Ids:
        row = _Ids()
        start, prompt = 0, ""
        for piece in pieces:
            ids = self._ids(piece.text, first=not row.ids)
            if piece.answer is None:
                if row.answers and row.answers[-1].stop == len(row.ids):
                    start, prompt = len(row.ids), ""
                prompt += piece.text
            elif row.answers and row.answers[-1].turn == piece.answer:
                row.answers[-1].stop += len(ids)
            else:
                at = len(row.ids)
                row.answers.append(_Answer(piece.answer, start, at, at + len(ids), prompt))
            row.ids += ids
        return row

    def _ids(self, text: str, first: bool) -> list[int]:
        special = self._specials.get(text)
        if special is not None:
            return [special]
        if first or self.template is not None or not self._pads_words:
            return self._bare(text)
        for anchor in ANCHORS:  # as it is cut in the middle of a text, without the space put before a text's first word
            alone, both = self._bare(anchor), self._bare(anchor + text)
            if both[: len(alone)] == alone:
                return both[len(alone) :]
        return self._bare(text)

    def _bare(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    @functools.cached_property
    def _specials(self) -> dict[str, int]:
        tokenizer = self.tokenizer
        return dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))

    @functools.cached_property
    def _ends(self) -> set[int]:
        """Ids that can end a turn: special ones."""
        added = self.tokenizer.added_tokens_decoder
        return set(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    @functools.cached_property
    def _pads_words(self) -> bool:
        """Whether a space is put before a text's first word (SentencePiece's dummy prefix, add_prefix_space)."""
        return self.tokenizer.decode(self._bare("b") + self._bare("a"), clean_up_tokenization_spaces=False) != "ba"

    def _ended(
        self, ids: np.ndarray, labels: np.ndarray, trained: list[_Answer]
    ) -> tuple[np.ndarray, np.ndarray, bool, bool]:
        """ids and labels with the end token after an answer that nothing ends, and whether it was added, or lacks.

        After the last answer it is a token of its own. After an earlier one it is the label of what follows, as the
        template goes on without it.
        """
        tails = [ids[max(a.begin, a.stop - 4) : a.stop].tolist() for a in trained]
        open_ended = [a for a, tail in zip(trained, tails, strict=True) if not self._ends.intersection(tail)]
        if not open_ended:
            return ids, labels, False, False
        end = self.tokenizer.eos_token_id
        if end is None:
            return ids, labels, False, True
        for answer in open_ended:
            if not self.tokenizer.decode(ids[answer.stop :]).strip():  # the chat's last: white space behind it goes
                ids, labels = ids[: answer.stop], labels[: answer.stop]
            if answer.stop < len(ids):
                labels[answer.stop] = end
            else:
                ids, labels = np.append(ids, end), np.append(labels, end)
        return ids, labels, True, False

    def _lost(
        self, messages: list[Message], row: _Ids, trained: list[_Answer], labels: np.ndarray, cut: int
    ) -> tuple[bool, int]:
        """Whether an answer lost its question to a cut of `cut` tokens, and how many answers are lost; what is left of
        those is not trained on."""
        gone = [a for a in trained if a.begin < cut and a is not row.answers[-1]]
        for answer in gone:
            labels[answer.begin : answer.stop + 1] = IGNORED
        left = next((a for a in trained if a.begin >= cut), None)
        if left is None or cut <= left.start:
            return False, len(gone)
        question = next((m["content"] for m in reversed(messages[: left.turn]) if m["role"] != "assistant"), "").strip()
        at = left.prompt.rfind(question)
        opening = len(self._ids(left.prompt[at + len(question) :], first=False)) if at >= 0 else 0
        return left.begin - cut <= opening, len(gone)

    def _unrendered(self, messages: list[Message], ids: np.ndarray, answer: _Answer) -> bool:
        """Whether something of an answer is not among its ids: thinking, or what it says beside calls of tools."""
        message = messages[answer.turn]
        parts = [message.get("reasoning", ""), message["content"] if "calls" in message else ""]
        if not any(part.strip() for part in parts):
            return False
        text = self.tokenizer.decode(ids[answer.begin : answer.stop], clean_up_tokenization_spaces=False)
        return any(part.strip() not in text for part in parts)


def _without_thinking(message: Message) -> Message:
    kept = {key: value for key, value in message.items() if key != "reasoning"}
    return {**kept, "content": THINKING.sub("", message["content"])}


def rendered(tokenizer, messages: list[Message], generate: bool = False, calls: str = "object") -> str:
    """The chat as text by the tokenizer's own template; `generate`: with the opening of an answer at the end; `calls`:
    see `template_input`. Raises jinja2.TemplateError where the template can't take the chat."""
    tools, chat = template_input(messages, calls)
    options = {"tools": tools} if tools else {}
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate, **options)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise TemplateError(str(error)) from error


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


def own_pieces(tokenizer, messages: list[Message], generate: bool = False) -> tuple[list[Piece], bool]:
    """The pieces of a chat by the tokenizer's own template: what stands before an answer, and the answer with its end,
    in turn; and whether the last answer opens otherwise than generation opens one.

    An answer that opens the chat answers nothing and belongs to what stands before the next. Where generation opens a
    thought that the template then leaves out of finished answers (DeepSeek-R1's), the last answer continues what
    generation opens: its thinking, which may be empty, and what it says.
    """
    render, whole = _renderer(tokenizer, messages, generate)
    if messages[0]["role"] == "tools" and whole == render(messages[1:], generate=generate):
        raise UserError(
            "the chat template takes no tools, and the row has some; name one that does (model.template=qwen), leave "
            "them out (columns.tools=null) or the rows (data.on_error=skip)"
        )
    marks = sorted(set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()), key=len, reverse=True)
    pieces, at, reopened = [], 0, False
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for i in answers:
        if all(m["role"] in ("tools", "assistant") for m in messages[:i]):
            continue
        turn = _Turn(render, messages, i, marks)
        start, stop = turn.place(whole, at)
        if i == answers[-1] and not generate and not whole.startswith(turn.before):
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


def _renderer(tokenizer, messages: list[Message], generate: bool) -> tuple[Callable[..., str], str]:
    """What renders the chat with its calls in the first form that the template can take and shows, and its text."""
    names = {call.get("name") for m in messages if "calls" in m for call in json.loads(m["calls"])}
    for calls in ("object", "string", "text"):
        render = functools.partial(rendered, tokenizer, calls=calls)
        try:
            whole = render(messages, generate=generate)
        except TemplateError:
            if not names or calls == "text":
                raise
            continue
        if calls == "text" or all(name in whole for name in names if name):
            break
    return render, whole


def _unthought(text: str) -> str:
    return THINKING.sub("", text).strip()


class _Turn:
    """An answer as its template renders it at a chat's end, to be found in the text of a longer chat: there it may lack
    its thinking, end otherwise, or have other white space around it. White space behind its end is not its own."""

    def __init__(self, render: Callable[..., str], messages: list[Message], i: int, marks: list[str]):
        self.before, head = render(messages[:i], generate=True), render(messages[:i])
        through, content, self.marks = render(messages[: i + 1]), messages[i]["content"], marks
        begin = len(os.path.commonprefix([self.before, through]))
        opening = self.before[len(head) :] if self.before.startswith(head) else ""
        self.openings = [opening, OPEN_THOUGHT.sub("", opening)]
        self.opens_thought = UNCLOSED.search(opening) is not None
        if begin < len(self.before) and through.startswith(head):  # a finished answer opens otherwise than a new one
            at = through.find(content.strip(), len(head)) if content.strip() else -1
            begin = min(begin, at) if at >= 0 else begin
            self.openings.append(through[len(head) : begin])
        turn = through[begin:]
        said = (content.strip(), THINKING.sub("", content, count=1).strip())
        self.core = next((text for text in said if text and text in turn), "")
        if content.strip() and not self.core and "calls" not in messages[i]:
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
        starts += [there + len(o) for o in self.openings if o and (there := whole.find(o, at)) >= 0]
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
        last = start + len(self.lead) + len(self.core) + 100
        there = whole.find(self.core, start, last)
        while there >= 0:
            if _unthought(self.lead).endswith(_unthought(whole[start:there])):
                stop = self._ending(whole, there + len(self.core))
                if stop is not None:
                    return stop
            there = whole.find(self.core, there + 1, last) if self.core else -1
        return None

    def _ending(self, whole: str, at: int) -> int | None:
        if not self.end:
            return at + len(self.space) if whole.startswith(self.space, at) else at
        at += len(whole[at:]) - len(whole[at:].lstrip())
        stop, end = at, self.end.lstrip()
        for part in re.split(f"({'|'.join(map(re.escape, self.marks))})", end) if self.marks else [end]:
            if not whole.startswith(part, stop):
                break
            stop += len(part)
        if whole[at:stop].strip():
            return at + len(whole[at:stop].rstrip())
        mark = next((mark for mark in self.marks if whole.startswith(mark, at)), None)
        return None if mark is None else at + len(mark)
