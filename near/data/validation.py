"""The validation part of the eval rows: rows that choose the best round, apart from those that are reported."""

import dataclasses
import logging
from collections.abc import Iterable

import numpy as np

from near.common.errors import UserError
from near.common.files import digest
from near.common.text import plural
from near.data.row_keys import normalised_turns, prompt_key
from near.data.rows import Rows
from near.data.sampling import SEED

log = logging.getLogger(__name__)

NAME = "eval.validation"
FIRST = 8  # ids in the log line


def validation_split(rows: Rows, part: float, others: Iterable[Rows] = ()) -> tuple[Rows, Rows]:
    """Split eval rows into the reported and the validation part. Ids stay.

    The draw depends on the rows alone, so all runs on them have the same parts, whatever their seed. Drawn rows that
    share their prompt (near/data/row_keys.py) with a row that was not drawn, or of `others`, stay reported, so that no
    prompt is in both parts.

    Args:
        rows: of data.eval.
        part: below 1: a share of the eligible rows, rounded; else their number.
        others: further sets that are reported.

    Returns:
        the reported and the validation rows.

    Raises:
        UserError: one of the parts would be empty.
    """
    if part > 1 and part != int(part):
        raise UserError(
            f"data.eval.validation={part:g} is neither a share below 1 nor a number of rows; use 0.3, or 20"
        )
    eligible = rows.eligible()
    count = max(1, round(part * len(eligible))) if part < 1 else int(part)
    if count >= len(eligible):
        raise UserError(
            f"data.eval.validation={part:g} leaves none of the {plural(len(eligible), 'eval row')} to report; use a "
            "smaller share or number"
        )
    drawn = np.zeros(len(eligible), dtype=bool)
    drawn[np.random.default_rng(SEED).permutation(len(eligible))[:count]] = True
    prompts = _prompts(rows)
    reported = [prompts[~drawn], *map(_prompts, others)]
    validation = drawn & ~np.isin(prompts, np.concatenate(reported))
    if not validation.any():
        raise UserError(
            f"data.eval.validation={part:g}: every drawn row has the prompt of a reported row; use a larger share or "
            "number"
        )
    returned = int(drawn.sum() - validation.sum())
    ids = eligible[validation]
    first = ", ".join(map(str, ids[:FIRST])) + (", ..." if len(ids) > FIRST else "")
    log.info(
        f"data.eval: {plural(len(ids), 'row')} for validation ({first}), {len(eligible) - len(ids)} reported"
        + (f"; {plural(returned, 'drawn row')} with the prompt of a reported row stay reported" if returned else "")
    )
    return _part(rows, eligible[~validation], rows.name), _part(rows, ids, NAME)


def _prompts(rows: Rows) -> np.ndarray:
    """The prompts of the eligible rows, as hex digits (n,)."""
    return np.array([prompt_key(normalised_turns(chat)).hex() for chat in rows.chats(rows.eligible())])


def _part(rows: Rows, ids: np.ndarray, name: str) -> Rows:
    """`rows` with `ids`, int64 (n,), alone eligible."""
    excluded = np.ones(len(rows), dtype=bool)
    excluded[ids] = False
    fingerprint = digest([rows.fingerprint, "part", ids.tolist()])
    return dataclasses.replace(rows, name=name, fingerprint=fingerprint, excluded=excluded)
