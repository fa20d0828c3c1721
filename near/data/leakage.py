"""Rows of a pool that ask what a query or an eval row asks, compared by what is said and not by bytes.

Only user turns count, as near/data/row_keys.py normalises them; not the system text, not the answers. A row is a leak
of a query

    whose user turns together are the row's user turns together, however they are split,
    whose user turns all stand in the row, one right after another, or
    whose last user turn is all that the row asks.

A row of several turns that shares no more than the last of a query's several turns ("Go on.") is no leak. How many
there are is said.
"""

import numpy as np

from near.common.keys import Sorted
from near.data.row_keys import normalised_turns, prompt_key, text_key
from near.data.rows import Rows


def leaks(pool: Rows, held_out: Rows) -> tuple[np.ndarray, int]:
    """(n,) bool: the rows of `pool` that ask what a usable row of `held_out` asks; and how many others share no more
    than the last turn of one."""
    queries = [normalised_turns(chat) for chat in held_out.chats(np.flatnonzero(held_out.usable()))]
    leaked = np.zeros(len(pool), dtype=bool)
    whole = _sorted([prompt_key(turns) for turns in queries] + [text_key(turns[-1]) for turns in queries])
    for start, keys in pool.keys("prompt_key"):
        leaked[start : start + len(keys)] = whole.find(keys) >= 0
    by_last: dict[str, set[tuple[str, ...]]] = {}
    for turns in queries:
        by_last.setdefault(turns[-1], set()).add(tuple(turns))
    last, shared = _sorted([text_key(turn) for turn in by_last]), 0
    for rows, keys in pool.turns():
        near = np.unique(rows[last.find(keys) >= 0])
        near = near[~leaked[near]]
        for row, chat in zip(near, pool.chats(near), strict=True):
            leaked[row] = _follows(normalised_turns(chat), by_last)
        shared += int((~leaked[near]).sum())
    return leaked, shared


def _follows(turns: list[str], by_last: dict[str, set[tuple[str, ...]]]) -> bool:
    """Whether all turns of a query stand in `turns`, one right after another."""
    for end, turn in enumerate(turns, start=1):
        if any(turns[max(0, end - len(query)) : end] == list(query) for query in by_last.get(turn, ())):
            return True
    return False


def _sorted(keys: list[bytes]) -> Sorted:
    high, low = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2).T
    return Sorted(np.ascontiguousarray(high), np.ascontiguousarray(low))
