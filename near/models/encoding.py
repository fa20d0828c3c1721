"""Encodes a chat as token ids and labels.

Every answer is encoded separately from its prompt, so that training and generation see the same ids: those before an
answer are the ids of its generation prompt.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from omegaconf import DictConfig

from near.data.formats.formats import Message, is_plain
from near.data.templates.chat_template import Piece
from near.data.templates.named import template_of, thinking_of
from near.models.cutting import without_middle
from near.models.tokenizer_template import THINKING, tokenizer_pieces

IGNORED = -100  # the label that torch's cross entropy ignores
ANCHORS = ("1", "\n", "x", "。", ">", "é")  # texts to put before a continuation while it is encoded
JOINT = "\x1d"  # separates pieces in one string, see Encoder.joined


@dataclass
class Encoded:
    """One row for training."""

    input_ids: np.ndarray  # int64 (T,), T <= cutoff_len
    labels: np.ndarray  # int64 (T,); IGNORED at tokens that are not trained on
    cut_prompt: int = 0  # tokens cut off before the last answer
    cut_answer: int = 0  # tokens cut off at the end of the last answer
    lost_question: bool = False  # the question of a remaining answer was cut off
    lost_answers: int = 0  # earlier answers that were cut off, in whole or in part
    endless: bool = False  # an answer has no end, and the tokenizer has no end token
    end_added: bool = False  # the tokenizer's end token was added to an answer
    unrendered: int = 0  # answers whose thinking, or text beside calls, the template omits in part
    dropped: bool = False  # data.reasoning=drop removed thinking
    reopened: bool = False  # the template opens the last answer differently from generation


@dataclass
class _Answer:
    """Positions of an answer and its prompt among a row's ids: prompt [start, begin), answer [begin, stop)."""

    turn: int
    start: int
    begin: int
    stop: int
    prompt: str = ""
    whole: str = ""  # full text of its shortened pieces


@dataclass
class _Ids:
    ids: list[int] = field(default_factory=list)
    answers: list[_Answer] = field(default_factory=list)
    firsts: dict[int, int] = field(default_factory=dict)  # position after an answer to the label that ends the answer


class Encoder:
    """Encodes the rows of one configuration.

    `data` has cutoff_len, train_on_prompt, mask_history, reasoning and default_system (see conf/data/files.yaml).
    """

    def __init__(self, tokenizer, data: DictConfig | Mapping):
        self.tokenizer, self.template = tokenizer, template_of(tokenizer)
        self.thinking = thinking_of(tokenizer) is not False  # for named templates
        self.cutoff_len = data["cutoff_len"]
        self.train_on_prompt = bool(data.get("train_on_prompt"))
        self.mask_history = bool(data.get("mask_history"))
        self.drop_reasoning = data.get("reasoning") == "drop"
        self.default_system = data.get("default_system")

    def encode(self, messages: list[Message]) -> Encoded:
        """Encode a row. A row that is too long loses the start of the part before its last answer, then the end of
        that answer.

        Raises:
            UserError: the row has tools and the chat template does not accept them, or the template rewrites earlier
                turns so that answers can't be located.
            jinja2.TemplateError: the template rejects the row.
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
            if answer in trained and answer.stop in row.firsts:
                labels[answer.stop] = row.firsts[answer.stop]
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
        """The ids of the generation prompt: `messages` and the opening of an answer."""
        messages, _ = self._prepared(messages)
        return self._row(self.pieces(messages, generate=True)[0]).ids

    def joined(self, messages: list[Message]) -> str:
        """The row's pieces in one string, JOINT between them; `joined_ids` encodes it."""
        if is_plain(messages):
            return messages[0]["content"]
        return JOINT.join(piece.text for piece in self.pieces(self._prepared(messages)[0])[0])

    def joined_ids(self, text: str) -> list[int]:
        """The ids of a text that `joined` returned."""
        return self._row([Piece(part, None) for part in text.split(JOINT) if part]).ids

    def _prepared(self, messages: list[Message]) -> tuple[list[Message], bool]:
        """`messages` with the default system turn and, if configured, without thinking; and whether any was dropped."""
        dropped = False
        if self.drop_reasoning:
            without = [without_thinking(m) if m["role"] == "assistant" else m for m in messages]
            dropped, messages = without != messages, without
        if self.default_system and self.template is None:
            messages = with_system(messages, self.default_system)
        return messages, dropped

    def pieces(self, messages: list[Message], generate: bool = False) -> tuple[list[Piece], bool]:
        """The pieces of a chat that are encoded separately, and `Encoded.reopened`.

        `generate`: add the opening of an answer at the end.
        """
        if self.template is None:
            return tokenizer_pieces(self.tokenizer, messages, generate)
        tokenizer = self.tokenizer
        options = {"thinking": self.thinking, "generate": generate, "mask_history": self.mask_history}
        options["default_system"] = self.default_system
        return self.template.pieces(messages, tokenizer.bos_token or "", tokenizer.eos_token or "", **options), False

    def _trains(self, messages: list[Message], turn: int) -> bool:
        last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
        return messages[turn].get("train", True) and not (self.mask_history and turn != last)

    def _plain(self, text: str) -> Encoded:
        """Plain text and its end token, trained on in full; cut at the end to `cutoff_len`."""
        ids = self.tokenizer(self._shortened(text), verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        over, whole = max(0, len(ids) - self.cutoff_len), np.asarray(ids[: self.cutoff_len], dtype=np.int64)
        return Encoded(whole, whole.copy(), cut_answer=over, endless=end is None)

    def _row(self, pieces: list[Piece]) -> _Ids:
        row = _Ids()
        start, prompt = 0, ""
        for piece in pieces:
            text = self._shortened(piece.text)
            whole = "" if text == piece.text else piece.text
            ids = self._ids(text, first=not row.ids)
            if piece.first_label:
                row.firsts[len(row.ids)] = self._ids(piece.first_label, first=False)[0]
            if piece.answer is None:
                if row.answers and row.answers[-1].stop == len(row.ids):
                    start, prompt = len(row.ids), ""
                prompt += piece.text
            elif row.answers and row.answers[-1].turn == piece.answer:
                row.answers[-1].stop += len(ids)
                row.answers[-1].whole += whole
            else:
                at = len(row.ids)
                row.answers.append(_Answer(piece.answer, start, at, at + len(ids), prompt))
                row.answers[-1].whole = whole
            row.ids += ids
        return row

    def _shortened(self, text: str) -> str:
        return without_middle(text, self.cutoff_len, lambda part: len(self._bare(part)))

    def _ids(self, text: str, first: bool) -> list[int]:
        special = self._specials.get(text)
        if special is not None:
            return [special]
        if first or self.template is not None or not self._pads_words:
            return self._bare(text)
        for anchor in ANCHORS:  # tokenise as inside a text, without the space that goes before a text's first word
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
        """Ids of special tokens: any of them can end a turn."""
        added = self.tokenizer.added_tokens_decoder
        return set(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    @functools.cached_property
    def _pads_words(self) -> bool:
        """Whether a space is put before a text's first word (SentencePiece's dummy prefix, add_prefix_space)."""
        return self.tokenizer.decode(self._bare("b") + self._bare("a"), clean_up_tokenization_spaces=False) != "ba"

    def _ended(
        self, ids: np.ndarray, labels: np.ndarray, trained: list[_Answer]
    ) -> tuple[np.ndarray, np.ndarray, bool, bool]:
        """Add the tokenizer's end token to trained answers that do not end in a special token.

        After the last answer the token is appended. After an earlier answer it becomes the label of the next token,
        because the template continues without an end.

        Returns:
            ids int64 (T,), labels int64 (T,), `Encoded.end_added`, `Encoded.endless`.
        """
        tails = [ids[max(a.begin, a.stop - 4) : a.stop].tolist() for a in trained]
        open_ended = [a for a, tail in zip(trained, tails, strict=True) if not self._ends.intersection(tail)]
        if not open_ended:
            return ids, labels, False, False
        end = self.tokenizer.eos_token_id
        if end is None:
            return ids, labels, False, True
        for answer in open_ended:
            if not self.tokenizer.decode(ids[answer.stop :]).strip():  # the last answer: remove what follows
                ids, labels = ids[: answer.stop], labels[: answer.stop]
            if answer.stop < len(ids):
                labels[answer.stop] = end
            else:
                ids, labels = np.append(ids, end), np.append(labels, end)
        return ids, labels, True, False

    def _lost(
        self, messages: list[Message], row: _Ids, trained: list[_Answer], labels: np.ndarray, cut: int
    ) -> tuple[bool, int]:
        """`Encoded.lost_question` and `Encoded.lost_answers` for a cut of the first `cut` tokens.

        Labels of partly cut answers become IGNORED, in place.
        """
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
        """Whether thinking of an answer, or its text beside tool calls, is missing from its ids."""
        message = messages[answer.turn]
        parts = [message.get("reasoning", ""), message["content"] if "calls" in message else ""]
        if not any(part.strip() for part in parts):
            return False
        text = self.tokenizer.decode(ids[answer.begin : answer.stop], clean_up_tokenization_spaces=False)
        return any(part.strip() not in text + answer.whole for part in parts)


def with_system(messages: list[Message], text: str) -> list[Message]:
    """`messages` with a system turn of `text`, behind the tools, if they have none."""
    roles = [m["role"] for m in messages]
    if "system" in roles:
        return messages
    first = int(roles[:1] == ["tools"])
    return [*messages[:first], {"role": "system", "content": text}, *messages[first:]]


def without_thinking(message: Message) -> Message:
    """An assistant's turn without its thinking."""
    rest = {key: value for key, value in message.items() if key != "reasoning"}
    return {**rest, "content": THINKING.sub("", message["content"])}
