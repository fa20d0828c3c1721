"""What the losses or gradients of a selection would take, from a few rows that are computed."""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.batches import padded, spread
from near.common.budget import Budget
from near.common.cost import StageCost
from near.common.processes import world_size
from near.common.timing import measured
from near.models.budget import clock_of
from near.models.sample import TokenSample
from near.models.weights import trained
from near.selection.needs import Needs
from near.selection.scoring.scoring import MAX_ROWS, TOGETHER, Scorer, Scoring
from near.selection.selectors.base import Selector
from near.selection.selectors.model import Shortlist
from near.selection.selectors.parts import PartOf

LEAST = 100  # rows of the shortlist that is suggested, and WIDER times the rows of a round
WIDER = 4


@dataclass(frozen=True)
class Scored:
    """What a selection computes with the model.

    Attributes:
        rows: of the pool, each time.
        option: the option of a shortlist; None: this selector has none.
        shortlisted: whether it is set.
    """

    rows: int
    option: str | None
    shortlisted: bool

    @classmethod
    def of(cls, cfg: DictConfig, selector: Selector, eligible: int) -> "Scored":
        similarity, option = instantiate(cfg.similarity), "similarity.shortlist"
        shortlist = similarity.shortlist if similarity.requires else None
        if shortlist is None:
            option = "selector.shortlist"
            while isinstance(selector, PartOf):
                selector, option = selector.of, "selector.of.shortlist"
            shortlist = getattr(selector, "shortlist", None)
        if not isinstance(shortlist, Shortlist):
            return cls(selector.scored_rows(eligible, 1), None, False)
        if shortlist.cheap is None:
            return cls(selector.scored_rows(eligible, 1), option, False)
        return cls(selector.scored_rows(min(shortlist.size, eligible), 1), option, True)


def scoring_stage(
    cfg: DictConfig,
    needs: Needs,
    model: Any,
    optimizer: Any,
    tokenizer: Any,
    pool: TokenSample,
    queries: TokenSample | None,
    rows: tuple[int, int],
    times: int,
    stored: int = 0,
) -> tuple[StageCost, float]:
    """The losses or gradients of a run.

    Args:
        model: with its adapter.
        optimizer: whose moments turn gradients into Adam's direction; or the moments, by weight.
        pool, queries: samples of the rows; queries for gradients.
        rows: of the pool and of the queries, each time.
        times: selections, over all rounds and checkpoints.
        stored: rows of the pool, over all times, whose results are in the cache.

    Returns:
        the stage; seconds for a row of the pool, in all of these selections.
    """
    options: Scoring = instantiate(cfg.scoring, _convert_="all")
    budgets: dict[str, Budget] = {}  # measured once, on an accelerator in the real cache
    gradients = needs.requires == "gradients"
    clock = clock_of(model.device)

    def scorer(cache_dir: str) -> Scorer:
        made = Scorer(options, pool.tokens, None, tokenizer, cfg.data, cfg.cache_dir, "dry run")
        budgets["it"] = budgets.get("it") or made.budget(model, "gradients" if gradients else "losses")
        made.budgets["gradients" if gradients else "losses"] = budgets["it"]
        made.cache_dir = cache_dir
        return made

    def work(count: int) -> float:
        part = spread(pool.lengths, count)
        with tempfile.TemporaryDirectory() as folder:
            if gradients:
                scorer(folder).pool_gradients(model, optimizer, part)
            else:
                scorer(folder).losses(model, part)
        return padded(pool.lengths[part], budgets["it"].rows(MAX_ROWS), budgets["it"].tokens)

    rate = measured(work, len(pool.lengths), clock)
    budget = budgets["it"]
    chunk = options.chunk * (1 if budget.meter is None else TOGETHER)  # rows that are batched together
    each_row = _padded_row(pool.lengths, chunk, budget)
    each_query = 0.0 if queries is None else _padded_row(queries.lengths, chunk, budget)
    computed = times * rows[0] - stored
    units = (computed * each_row + times * rows[1] * each_query) / world_size()
    tokens = computed * pool.mean + times * rows[1] * (0.0 if queries is None else queries.mean)
    note = f"{needs.requires} of {rows[0]} rows" + (f" and {rows[1]} queries" if gradients else "")
    note += (f", {times} times" if times > 1 else "") + (f"; {stored} rows stored already" if stored else "")
    stage = StageCost(
        rows=computed + times * rows[1],
        tokens=round(tokens),
        memory=rate.memory,
        disk=(computed + times * rows[1]) * _bytes(options, model, gradients),
        note=note,
        **rate.seconds(units),
    )
    return stage, times * each_row * rate.each / world_size()


def _padded_row(lengths: np.ndarray, chunk: int, budget: Budget) -> float:
    """Tokens of a row with its part of the padding, where so many random rows are batched together."""
    parts = [lengths[start : start + chunk] for start in range(0, len(lengths), chunk)]
    whole = [part for part in parts if len(part) == chunk] or parts[:1]
    return sum(padded(part, budget.rows(MAX_ROWS), budget.tokens) for part in whole) / sum(map(len, whole))


def _bytes(options: Scoring, model: Any, gradients: bool) -> int:
    """Bytes of a row's result on the disk."""
    if not gradients:
        return 4
    dim = options.dim or sum(weight.numel() for weight in trained(model).values())
    return 2 * dim + 4


def shortlist_of(scored: Scored, stage: StageCost, row_seconds: float, needed: int) -> dict[str, Any] | None:
    """What a shortlist would save; None if it would save nothing.

    Args:
        row_seconds: of a row of the pool, over all selections.
        needed: the most rows of a round.
    """
    size = max(LEAST, WIDER * needed)
    if scored.option is None or scored.shortlisted or stage.seconds is None or size >= scored.rows:
        return None
    saved = (scored.rows - size) * row_seconds
    option = f"{scored.option}={{selector: near, size: {size}}}"
    return {"option": option, "rows": size, "of": scored.rows, "seconds": stage.seconds - saved, "saved": saved}


def unscored_stage(needs: Needs, rows: tuple[int, int], times: int) -> StageCost:
    """The stage without seconds."""
    return StageCost(rows=times * sum(rows), disk=None, note=f"{needs.requires}, not timed")
