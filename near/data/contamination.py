"""Contamination: rows of a pool that resemble a query, an eval row or a row of a benchmark, beyond equal prompts
(near/data/leakage.py).

A held-out row has two parts, the joined user turns and the last answer (plain text has one). A row of the pool overlaps
with a part, in the words of near/data/words.py, if

    exact     one of its turns, or all its user turns together, has the part's words and no others. Of a part with fewer
              than 8 words nothing else is compared, and of such a prompt only user turns;
    13-gram   it has 13 consecutive words of the part (GPT-3: Brown et al. 2020, appendix C);
    8-gram    it has at least half of the part's sequences of 8 words (8-grams and one half: Tulu 3, Lambert et al.
              2024, section 3.2; 8-grams of Llama 3, Dubey et al. 2024, section 5.1.4).

Sequences that are templates do not count (near/data/ngrams.py). If nothing overlaps, 13 words are tried with numbers
masked, and the overlap is marked `other_numbers`: fewer words are alike in most arithmetic. Out of reach are other
words for the same thing, translations, other spellings, and words in another order; embeddings see some of these
(near/searching/contamination.py).
"""

import dataclasses
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.cached import cached
from near.common.errors import UserError
from near.common.files import cache_folder, digest, read_jsonl, write_jsonl
from near.common.progress import bar
from near.common.records import Overlap
from near.common.run_folder import CONTAMINATED
from near.common.text import plural
from near.data.formats.formats import answer_of, is_plain, prompt_turns
from near.data.formats.turns import Message
from near.data.ngrams import Ngrams, Vocabulary
from near.data.rows import Rows
from near.data.words import VERSION as WORDS
from near.data.words import joined, masked, words

log = logging.getLogger(__name__)

VERSION = 1
LONG, SHORT, SHARE = 13, 8, 0.5
BLOCK = 1000  # rows of the pool that are compared at a time
SHOWN = 100  # overlapping words that are written, at most


@dataclass(frozen=True)
class Part:
    """A part of a held-out row: prompt, answer or text."""

    set: str
    row: int
    name: str
    words: list[str]


def set_name(rows: Rows) -> str:
    """The name of a held-out set in contaminated.jsonl."""
    return rows.name.removeprefix("decontaminate.")


def is_dropping(data: DictConfig) -> bool:
    """Whether rows with an overlap are left out."""
    return data.get("decontaminate") is not None and data.decontaminate.action == "drop"


def without_contaminated(rows: Rows, held_out: Sequence[Rows], data: DictConfig, cache_dir: str) -> Rows:
    """`rows` with their overlaps with held-out rows, and with data.decontaminate.action=drop without those that have
    any; unchanged if data.decontaminate is null. Computed once, then read from the cache.

    Raises:
        UserError: no row is left.
    """
    if data.get("decontaminate") is None:
        return rows
    sets = [(set_name(one), one.fingerprint) for one in held_out]
    key = digest([VERSION, WORDS, rows.fingerprint, rows.answer, sets])

    def make(path: Path) -> None:
        write_jsonl(path, (one.to_json() for one in overlaps_with(rows, held_out)))

    return with_overlaps(rows, cached(cache_folder(cache_dir, "overlaps", f"{key}.jsonl"), make, read_overlaps), data)


def read_overlaps(path: Path) -> list[Overlap]:
    return [Overlap.from_json(line, path) for line in read_jsonl(path)]


def with_overlaps(rows: Rows, overlaps: list[Overlap], data: DictConfig) -> Rows:
    """`rows` with further overlaps, and with data.decontaminate.action=drop without the rows that have one; logged."""
    excluded = np.zeros(len(rows), dtype=bool) if rows.excluded is None else rows.excluded.copy()
    here, action = [one for one in overlaps if not excluded[one.row]], data.decontaminate.action
    if here:
        held_out = Counter(name for name, _ in {(one.set, one.held_out_row) for one in here})
        resembled = ", ".join(f"{plural(count, 'row')} of {name}" for name, count in sorted(held_out.items()))
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(one.kind for one in here).items()))
        done = "left out" if action == "drop" else f"kept, as data.decontaminate.action={action}"
        (log.warning if action == "warn" else log.info)(
            f"{rows.name}: {plural(len({one.row for one in here}), 'row resembles', 'rows resemble')} {resembled} "
            f"({kinds}), {done}"
        )
    if is_dropping(data):
        excluded[[one.row for one in here]] = True
        if here and not (rows.usable() & ~excluded).any():
            raise UserError(
                f"data.{rows.name}: every row resembles a held-out row; set data.decontaminate.action=warn if meant"
            )
    return dataclasses.replace(rows, excluded=excluded, overlaps=(*(rows.overlaps or ()), *overlaps))


def write_overlaps(folder: Path, rows: Rows) -> dict | None:
    """Write contaminated.jsonl of a pool into `folder`, unless nothing overlaps.

    Returns:
        its counts: rows of the pool, how many of them were left out, held-out rows by set, and overlaps by kind; None
        if the pool was not compared.
    """
    if rows.overlaps is None:
        return None
    out = np.zeros(len(rows), dtype=bool) if rows.excluded is None else rows.excluded
    lines = [dataclasses.replace(one, left_out=bool(out[one.row])) for one in rows.overlaps]
    lines.sort(key=lambda one: (one.row, one.set, one.held_out_row, one.part or ""))
    if lines:
        write_jsonl(folder / CONTAMINATED, (one.to_json() for one in lines))
        log.info(f"wrote {folder / CONTAMINATED}: rows of the pool that resemble held-out rows")
    return {
        "rows": len({one.row for one in lines}),
        "left_out": len({one.row for one in lines if one.left_out}),
        "held_out_rows": dict(Counter(name for name, _ in sorted({(one.set, one.held_out_row) for one in lines}))),
        "kinds": dict(Counter(one.kind for one in lines)),
    }


def overlaps_with(rows: Rows, held_out: Sequence[Rows]) -> list[Overlap]:
    """Overlaps of the usable rows with every part of the held-out rows; one for a row and a part."""
    started, parts, ids = time.perf_counter(), [p for one in held_out for p in _parts(one)], rows.usable().nonzero()[0]
    vocabulary = Vocabulary(part.words for part in parts)
    encoded = [vocabulary.encoded(part.words) for part in parts]
    kinds = ((LONG, False), (SHORT, False), (LONG, True))  # the first that overlaps counts
    tables = [Ngrams(n, encoded, vocabulary, numbers) for n, numbers in kinds]
    equal = _Equal(parts)
    with bar(len(ids), "comparing with held-out rows", "row") as progress:
        for block, chats in _blocks(rows, ids):
            texts = [[words(text) for text in _texts(chat)] for chat in chats]
            for row, chat, turns in zip(block.tolist(), chats, texts, strict=True):
                equal.scan(row, chat, turns)
            flat = [word for turns in texts for turn in turns for word in (*turn, "")]  # "" between two turns
            lengths = [sum(map(len, turns)) + len(turns) for turns in texts]
            numbers, of = vocabulary.encoded(flat), np.repeat(block, lengths)
            for table in tables:
                table.scan(numbers, of)
            progress.update(len(block))
    candidates = {pair: ("exact", 1.0, False) for pair in equal.pairs}
    for table in tables:
        least = 0.0 if table.n == LONG else SHARE
        for row, part, share in zip(*map(np.ndarray.tolist, table.covered()), strict=True):
            if share >= least:
                candidates.setdefault((row, part), (f"{table.n}-gram", share, table.numbers))
    overlaps = _confirmed(rows, parts, candidates)
    short = len({(part.set, part.row) for part in parts if len(part.words) < SHORT})
    log.info(
        f"{rows.name}: {plural(len(ids), 'row')} compared with {len({(p.set, p.row) for p in parts})} held-out rows by "
        f"sequences of words ({short} of them with a part of fewer than {SHORT} words, compared as a whole), "
        f"{time.perf_counter() - started:.1f} s"
    )
    return overlaps


def _parts(rows: Rows) -> Iterator[Part]:
    ids = np.flatnonzero(rows.usable())
    for block, chats in _blocks(rows, ids):
        for row, chat in zip(block.tolist(), chats, strict=True):
            if is_plain(chat):
                texts = {"text": chat[0]["content"]}
            else:
                texts = {"prompt": "\n".join(prompt_turns(chat))}
                if chat[-1]["role"] == "assistant":
                    texts["answer"] = answer_of(chat[-1])
            for name, text in texts.items():
                if words_of := words(text):
                    yield Part(set_name(rows), row, name, words_of)


def _blocks(rows: Rows, ids: np.ndarray) -> Iterator[tuple[np.ndarray, list[list[Message]]]]:
    for start in range(0, len(ids), BLOCK):
        block = ids[start : start + BLOCK]
        yield block, rows.chats(block)


def _texts(chat: list[Message]) -> list[str]:
    """The texts of a row of the pool, one for each turn: all that is read or trained, but descriptions of tools."""
    return ["\n".join(filter(None, [m.get("reasoning"), answer_of(m)])) for m in chat if m["role"] != "tools"]


class _Equal:
    """Rows with a turn, or joined user turns, of a part's words. `pairs`: row, number of the part."""

    def __init__(self, parts: list[Part]):
        self.parts, self.pairs = parts, set()
        self._by_words = defaultdict(list)
        for number, part in enumerate(parts):
            if len(part.words) >= SHORT or part.name != "answer":
                self._by_words[" ".join(part.words)].append(number)
        self._lengths = {len(part.words) for part in parts}

    def scan(self, row: int, chat: list[Message], turns: list[list[str]]) -> None:
        """turns: the words of _texts(chat)."""
        roles = [message["role"] for message in chat if message["role"] != "tools"]
        prompts = [turn for turn, role in zip(turns, roles, strict=True) if role == "user"]
        whole = [word for turn in prompts for word in turn]
        for turn, role in [*zip(turns, roles, strict=True), *([(whole, "user")] if len(prompts) > 1 else [])]:
            if len(turn) not in self._lengths:
                continue
            for number in self._by_words.get(" ".join(turn), ()):
                part = self.parts[number]
                if len(turn) >= SHORT or (part.name == "prompt") == (role == "user"):
                    self.pairs.add((row, number))


def _confirmed(rows: Rows, parts: list[Part], candidates: dict[tuple[int, int], tuple[str, float, bool]]):
    """The overlaps of candidates (row and number of a part to kind, share and other_numbers) with their words. A pair
    whose hashes were equal and whose words are not is none."""
    by_row, overlaps = defaultdict(list), []
    for row, number in sorted(candidates):
        by_row[row].append(number)
    for block, chats in _blocks(rows, np.array(list(by_row), dtype=np.int64)):
        for row, chat in zip(block.tolist(), chats, strict=True):
            turns, grams = [words(text) for text in _texts(chat)], {}
            for number in by_row[row]:
                (kind, share, other_numbers), part = candidates[row, number], parts[number]
                shown = part.words
                if kind != "exact":
                    form = _masked if other_numbers else tuple
                    n = LONG if kind == f"{LONG}-gram" else SHORT
                    if (n, other_numbers) not in grams:
                        grams[n, other_numbers] = {gram for turn in turns for gram in _grams(form(turn), n)}
                    shown = _overlapping(part.words, form, n, grams[n, other_numbers])
                if shown:
                    text = joined(shown[:SHOWN]) + (" …" if len(shown) > SHOWN else "")
                    overlaps.append(
                        Overlap(
                            row=row,
                            set=part.set,
                            held_out_row=part.row,
                            kind=kind,
                            part=part.name,
                            share=round(share, 4),
                            other_numbers=other_numbers,
                            words=text,
                        )
                    )
    return overlaps


def _masked(turn: list[str]) -> tuple[str, ...]:
    return tuple(map(masked, turn))


def _grams(turn: tuple[str, ...], n: int) -> Iterator[tuple[str, ...]]:
    return (turn[at : at + n] for at in range(len(turn) - n + 1))


def _overlapping(part: list[str], form: Callable, n: int, grams: set[tuple[str, ...]]) -> list[str]:
    """The words of a part that are in one of `grams`, with … between two stretches."""
    inside = np.zeros(len(part) + n, dtype=bool)
    for at, gram in enumerate(_grams(form(part), n)):
        if gram in grams:
            inside[at : at + n] = True
    shown = []
    for at in np.flatnonzero(inside):
        if shown and not inside[at - 1]:
            shown.append("…")
        shown.append(part[at])
    return shown
