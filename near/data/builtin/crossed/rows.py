"""The rows of data=crossed: lists of words under skills x wordings x lengths x forms, the same for the same options.

No prompt says what is to be done with its list: the same list under another skill has the same prompt, so that only
answers tell skills apart. Pool, queries and eval rows have no word in common, and no list is in two rows.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from near.common.errors import UserError
from near.common.files import write_jsonl
from near.data.builtin.crossed.options import Cell, CrossedOptions
from near.data.builtin.crossed.skills import FORMS, LENGTHS, SKILLS, WORDINGS
from near.data.builtin.crossed.words import WORDS
from near.data.builtin.demo_data import TASKS, read_task

SHARES = (0.6, 0.2)  # of the words: the pool's, the queries'; the rest are those of the eval rows
REPEATED = 0.5  # share of the lists that have one word twice, for skill "unique"
LONGEST_NOISE = 300  # characters of a row of the demo's tasks
JSON = json.JSONEncoder(separators=(",", ":"))
SHAPES = [(length, form) for form in FORMS for length in LENGTHS]


def write_crossed(options: CrossedOptions, folder: Path, evals: Callable[[], Path]) -> None:
    """Write pool.jsonl, queries.jsonl and eval.jsonl into `folder`.

    Args:
        options: what decides the rows.
        folder: an existing one.
        evals: returns the folder of the demo's tasks; called only for noise.

    Raises:
        UserError: the demo's tasks have fewer short rows than `options.noise` needs.
    """
    words = np.random.default_rng((options.seed, 0)).permutation(WORDS).tolist()
    ends = [int(SHARES[0] * len(words)), int(sum(SHARES) * len(words))]
    parts = words[: ends[0]], words[ends[0] : ends[1]], words[ends[1] :]
    noise = round(options.noise * options.rows)
    rng = np.random.default_rng((options.seed, 1))
    pool = list(_rows(rng, parts[0], options.cells, options.rows - noise))
    if noise:
        pool += _noise(rng, evals(), noise)
    write_jsonl(folder / "pool.jsonl", (pool[i] for i in rng.permutation(len(pool))))
    for stream, (name, count) in enumerate({"queries": options.queries, "eval": options.evals}.items(), 2):
        rng = np.random.default_rng((options.seed, stream))
        write_jsonl(folder / f"{name}.jsonl", _rows(rng, parts[stream - 1], [options.target], count))


def _rows(rng: np.random.Generator, words: Sequence[str], cells: Sequence[Cell], count: int) -> Iterator[dict]:
    """`count` rows, as many of each cell as of any other, and of each length and form within a cell, up to one."""
    order, shift = rng.permutation(len(cells)), rng.integers(len(SHAPES), size=len(cells))
    turns, at = np.divmod(np.arange(count), len(cells))
    shapes = [SHAPES[i] for i in (turns + shift[at]) % len(SHAPES)]
    lists = _lists(rng, words, [length for length, _ in shapes])
    for cell, (_, form), items in zip(order[at], shapes, lists, strict=True):
        skill, wording = cells[cell]
        yield row(skill, wording, form, items)


def _lists(rng: np.random.Generator, words: Sequence[str], lengths: Sequence[int]) -> list[list[str]]:
    """A list of words of each length, no two of them equal. A list's words are all different or, in a share REPEATED of
    the lists, one of them is there twice."""
    lists: dict[int, tuple[str, ...]] = {}
    seen: set[tuple[str, ...]] = set()
    while missing := [i for i in range(len(lengths)) if i not in lists]:
        drawn = rng.integers(len(words), size=(len(missing), max(LENGTHS))).tolist()
        repeated = rng.random(len(missing)) < REPEATED
        places = rng.integers(1 << 30, size=(len(missing), 2)).tolist()
        for i, chosen, twice, (to, step) in zip(missing, drawn, repeated, places, strict=True):
            chosen = chosen[: lengths[i]]
            if len(set(chosen)) < len(chosen):
                continue
            if twice:
                chosen[to % len(chosen)] = chosen[(to + 1 + step % (len(chosen) - 1)) % len(chosen)]
            items = tuple(words[word] for word in chosen)
            if items not in seen:
                seen.add(items)
                lists[i] = items
    return [list(lists[i]) for i in range(len(lengths))]


def row(skill: str, wording: int, form: str, items: list[str]) -> dict:
    """One row: its chat, its labels, and the answer as a list."""
    answer = SKILLS[skill](items)
    prompt = WORDINGS[wording].format(items=written(items, form))
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": written(answer, form)}]
    return {
        "messages": turns,
        "skill": skill,
        "wording": wording,
        "length": len(items),
        "form": form,
        "answer": answer,
    }


def written(values: Sequence, form: str) -> str:
    """A list as text: `a, b, c`, or as JSON."""
    return JSON.encode(values) if form == "json" else ", ".join(map(str, values))


def _noise(rng: np.random.Generator, evals: Path, count: int) -> list[dict]:
    """`count` short rows of the demo's tasks, whose names are in the place of the skill."""
    every = [row for task in sorted(TASKS) for row in read_task(evals, task)]
    short = [row for row in every if sum(len(turn["content"]) for turn in row["messages"]) <= LONGEST_NOISE]
    if count > len(short):
        raise UserError(
            f"data.noise needs {count:,} short rows of the demo's tasks, and there are {len(short):,}; use a smaller "
            "data.noise or fewer data.rows"
        )
    labels = dict.fromkeys(("wording", "length", "form", "answer"))
    chosen = (short[i] for i in rng.choice(len(short), count, replace=False))
    return [{"messages": row["messages"], "skill": row["domain"], **labels} for row in chosen]
