"""Parts of what another selector chooses or ranks, to see whether its scores mean anything.

`Quantile` trains on rows of one quantile of its scores, `LeftOut` on its choice without some rows.
"""

import dataclasses
import logging
import sys
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from omegaconf import DictConfig

from near.common.bounds import between
from near.common.errors import UserError
from near.common.processes import is_main
from near.common.text import plural
from near.data.rows import Rows
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize, selector_of
from near.selection.selectors.model import named

log = logging.getLogger(__name__)
Without = Literal["nothing", "best", "random", "half"]


class PartOf(Selector, ABC):
    """A selector whose rows come from another's. It needs what that one needs.

    of: a name under conf/selector, or a `_target_` with its options.
    """

    def __init__(self, of: str | dict | Selector, subset_size: SubsetSize | None = None):
        super().__init__(subset_size)
        inner: Any = of  # Hydra has already instantiated one with a _target_
        self.of = selector_of(named(of, "selector.of")) if isinstance(of, str) else inner
        if not isinstance(self.of, Selector):
            raise UserError(f"selector.of={of} is not a selector; name one, or give its _target_ and options")
        if self.of.subset_size is not None:
            raise UserError(f"selector.of.subset_size={self.of.subset_size} has no effect; set selector.subset_size")
        self.needs_neighbours, self.needs_queries = self.of.needs_neighbours, self.of.needs_queries
        self.reads_query_sources, self.needs_vectors = self.of.reads_query_sources, self.of.needs_vectors
        self.requires, self.only_in_training = self.of.requires, self.of.only_in_training
        self.columns, self.query_columns = self.of.columns, self.of.query_columns
        self.trains_on_queries, self.budgets = self.of.trains_on_queries, self.of.budgets
        self.has_scores = self.of.has_scores

    def reach(self, sizes: list[int]) -> int:
        return self.of.reach(sizes)

    def check(self, queries: Rows, scoring: DictConfig) -> None:
        self.of.check(queries, scoring)

    def check_pool(self, pool: Rows, eligible: np.ndarray) -> None:
        self.of.check_pool(pool, eligible)

    def check_model(self, config) -> None:
        self.of.check_model(config)

    def check_columns(self, columns: Mapping[str, list], eligible: np.ndarray) -> None:
        self.of.check_columns(columns, eligible)

    def check_queries(self, queries: Rows | None, sizes: Sequence[int]) -> None:
        self.of.check_queries(queries, sizes)

    def warm_up(self, round: Round) -> Subset:
        return self.of.warm_up(round)

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.of.state_dict()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.of.load_state_dict(state)


class Quantile(PartOf):
    """Random rows of one quantile of another selector's ranking of all eligible rows.

    The best have the highest scores (of `loss`, the highest loss). Rows that it does not rank (beyond max_K, for
    selectors over neighbours) follow the others in a random order.

    quantile: from 1, the best rows, to `quantiles`.
    """

    def __init__(
        self,
        of: str | dict | Selector,
        quantile: Annotated[int, between(1, 1000)],
        quantiles: Annotated[int, between(2, 1000)] = 10,
        subset_size: SubsetSize | None = None,
    ):
        super().__init__(of, subset_size)
        if quantile > quantiles:
            raise UserError(f"selector.quantile={quantile} is more than selector.quantiles={quantiles}; use 1 to that")
        self.quantile, self.quantiles, self.has_scores = quantile, quantiles, False

    def reach(self, sizes: list[int]) -> int:
        """All rows of the pool."""
        return sys.maxsize

    def check_pool(self, pool: Rows, eligible: np.ndarray) -> None:
        super().check_pool(pool, eligible)
        self._check(len(eligible))

    def _check(self, rows: int) -> None:
        if rows < self.quantiles:
            raise UserError(f"selector.quantiles={self.quantiles} is more than the {plural(rows, 'row')}; lower it")

    def select(self, round: Round) -> Subset:
        rows = round.eligible
        self._check(len(rows))
        ranked = self.of.select(dataclasses.replace(round, size=len(rows), draws=len(rows)))
        # by score where there are any: an order alone may be that of a walk over the queries
        ids = ranked.ids if ranked.scores is None else ranked.ids[np.argsort(-ranked.scores, kind="stable")]
        rest = np.setdiff1d(rows, ids)
        if len(rest) and is_main():
            log.warning(
                f"{plural(len(rest), 'row')} of {len(rows)} have no rank under this selector; they follow the others "
                "in a random order"
            )
        rest = np.random.default_rng(round.seed).permutation(rest)
        part = np.array_split(np.concatenate([ids, rest]), self.quantiles)[self.quantile - 1]
        return Subset(round.rng().permutation(part)[: round.size])


class LeftOut(PartOf):
    """Another selector's choice without some of its rows; the others are trained more often instead.

    without:
        nothing: its choice.
        best: without the `count` rows of the highest score (the first ones, where it has no scores).
        random: without `count` random ones.
        half: without a random half, for the linear datamodelling score (Park et al. 2023, TRAK, arXiv 2303.14186).
    count: a number of rows (int), or a share of the round's (float).
    draw: which of the random draws.
    """

    def __init__(
        self,
        of: str | dict | Selector,
        without: Without = "best",
        count: SubsetSize = 0.25,
        draw: Annotated[int, between(0, 1_000_000)] = 0,
        subset_size: SubsetSize | None = None,
    ):
        super().__init__(of, subset_size)
        if isinstance(count, float) and count > 1:
            raise UserError(f"selector.count={count} is no share up to 1; use that, or a whole number of rows")
        self.without, self.count, self.draw = without, count, draw

    def select(self, round: Round) -> Subset:
        chosen = self.of.select(round)
        rows = len(chosen.ids)
        if self.without == "nothing":
            return chosen
        if chosen.order is not None:
            raise UserError(
                f"selector.of: {type(self.of).__name__} returns a round's draws in order, of which no rows can be "
                "left out; use another selector"
            )
        left_out = min(int(self.count * rows + 0.5), rows - 1) if isinstance(self.count, float) else self.count
        count = rows // 2 if self.without == "half" else left_out
        if count >= rows:
            raise UserError(f"selector.count={count} leaves nothing of the {plural(rows, 'row')} of a round; lower it")
        order = np.random.default_rng((round.seed, self.draw)).permutation(rows)  # the same in each round
        if self.without == "best":
            order = np.arange(rows) if chosen.scores is None else np.argsort(-chosen.scores, kind="stable")
        kept = np.sort(order[count:])
        if is_main():
            log.info(f"{count} of the {plural(rows, 'row')} of the choice left out ({self.without})")
        return Subset(chosen.ids[kept], None if chosen.scores is None else chosen.scores[kept])
