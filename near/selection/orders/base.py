"""The contract of an order: in which order the rows of a round are trained."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from near.common.bounds import between
from near.common.errors import UserError
from near.common.moved import Contract
from near.common.processes import is_main
from near.common.text import plural
from near.data.columns import numbers_of
from near.selection.round import Round, Subset
from near.selection.selectors.base import Required

log = logging.getLogger(__name__)

STREAM = 8  # of random numbers; others belong to selectors, mixers and the sampler


@dataclass(eq=False, kw_only=True)
class Order(Contract, ABC):
    """Ranks rows by a number, and arranges the ranking. A pure function of its configuration, the seed, the round, its
    state, and of the model if it requires one.

    Args:
        score: the number of a row:
            loss: the model's mean loss on its answer tokens when the round starts, in nats a token.
            selector: the selector's own score (Subset.scores).
            column: the finite number in `column` of the pool; numbers written as text count.
            similarity: the mean similarity to all queries (Similarity.means).
            length: tokens of the row as it is trained.
        column: of score=column; `a.b` is the key b of objects in column a.
        ascending: rank low numbers first; false: high numbers first. Ties stay in the order of the subset; rows without
            a number come last either way; the log counts those of a column.
        window: shuffle the arrangement within windows of so many rows, one after the other; 1: not at all.
        every: compute losses anew every so many rounds; None: only once. A row that joins in between is scored then.
        consume_once: draw a row that was trained before (warm-ups count) again only when all rows of the subset were
            trained as often; false: each row is drawn, whether it was trained before or not; None: true if the order
            chooses among more rows than there are draws, else false.
    """

    scored = True  # whether it reads numbers at all

    score: Literal["loss", "selector", "column", "similarity", "length"] = "loss"
    column: str = "score"
    ascending: bool = True
    window: Annotated[int, between(1, 1_000_000_000)] = 1
    every: Annotated[int, between(1, 1_000_000)] | None = 1
    consume_once: bool | None = None
    _block: int = field(default=-1, init=False)  # the rounds whose losses are stored, counted in `every`
    _rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64), init=False)  # with a stored loss
    _losses: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32), init=False)
    _logged: set[str] = field(default_factory=set, init=False)  # options of which something was logged

    def __post_init__(self) -> None:
        if self.every != 1 and self.score != "loss":
            raise UserError(
                f"order.every={self.every} has no effect under order.score={self.score}; only losses are computed"
            )

    @property
    def requires(self) -> Required | None:
        """What it takes from round.scorer; None: it does without the model."""
        return "losses" if self.scored and self.score == "loss" else None

    @property
    def needs_neighbours(self) -> bool:
        """Whether it reads round.similarity."""
        return self.scored and self.score == "similarity"

    @property
    def needs_scores(self) -> bool:
        """Whether it reads the scores of the subset."""
        return self.scored and self.score == "selector"

    @property
    def columns(self) -> tuple[str, ...]:
        """Further columns of the pool that it reads from round.columns."""
        return (self.column,) if self.scored and self.score == "column" else ()

    @abstractmethod
    def positions(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """The arrangement of `n` ranked rows: their ranks, from 0, in training order, int64 (n,), each once."""

    def arrange(self, round: Round, subset: Subset) -> np.ndarray:
        """The draws of a round in training order.

        With at least as many draws as rows, pass after pass, each arranged by itself; a last, shorter pass takes the
        first rows of the subset, as the sampler does. With fewer draws than rows, the first of the arrangement; the
        other rows are left for later rounds. If the subset has an order, each row keeps its number of draws, spread
        evenly over the round, and `consume_once` has no effect.

        Args:
            round: `trained` and `draws` count; for the scores also scorer and model, columns, similarity or tokens.
            subset: its ids, with their scores for score=selector.

        Returns:
            int64 (round.draws,), of ids of `subset` only. All of its ids, except with fewer draws than rows or with
            `consume_once`.

        Raises:
            UserError: the subset has no scores for score=selector.
        """
        numbers = self.numbers(round, subset) if self.scored else np.zeros(len(subset.ids))
        if subset.order is not None:
            if self.consume_once and is_main() and "consume_once" not in self._logged:
                self._logged.add("consume_once")
                log.warning("order.consume_once=true has no effect: the mix decides how often each row is drawn")
            return self._spread(round, subset, numbers)
        ids, left, draws = subset.ids, round.draws, []
        chooses = len(ids) > left
        once = chooses if self.consume_once is None else self.consume_once
        times = round.trained[ids] if once else np.zeros(len(ids), dtype=np.int64)
        while left:
            due = np.flatnonzero(times == times.min())
            if not chooses:
                due = due[:left]
            part = due[self._arranged(numbers[due], round, len(draws))][:left]
            times[part] += 1
            left -= len(part)
            draws.append(part)
        return ids[np.concatenate(draws)]

    def numbers(self, round: Round, subset: Subset) -> np.ndarray:
        """The number of each row of `subset`, float64 (m,); NaN for a row without one. UserError as for `arrange`."""
        if self.score == "loss":
            return self._stored_losses(round, subset.ids)
        if self.score == "selector":
            if subset.scores is None:
                raise UserError(
                    "order.score=selector: this selector returns no scores; use order.score=loss, column, similarity "
                    "or length"
                )
            return np.asarray(subset.scores, dtype=np.float64)
        if self.score == "column":
            values = round.columns[self.column]
            return numbers_of([values[row] for row in subset.ids.tolist()])
        if self.score == "similarity":
            return round.similarity.means()[subset.ids].astype(np.float64)
        return round.tokens(subset.ids).astype(np.float64)

    def check_columns(self, columns: Mapping[str, list], eligible: np.ndarray) -> None:
        """Raise UserError if no eligible row has a number in the column; log how many have none."""
        if not self.columns:
            return
        values = columns[self.column]
        missing = int((~np.isfinite(numbers_of([values[row] for row in eligible.tolist()]))).sum())
        if missing == len(eligible):
            raise UserError(
                f"order.column={self.column}: no row that may be selected has a finite number there; name another one"
            )
        if missing and is_main() and "column" not in self._logged:
            self._logged.add("column")
            log.info(
                f"order.column={self.column}: {plural(missing, 'row')} of {len(eligible)} without a finite number are "
                "ranked last"
            )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays that must survive a restart; part of every checkpoint."""
        if self._block < 0 or self.every == 1:
            return {}
        return {"block": np.array([self._block]), "rows": self._rows, "losses": self._losses}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore what state_dict returned."""
        if "block" in state:
            self._block, self._rows, self._losses = int(state["block"][0]), state["rows"], state["losses"]

    def _stored_losses(self, round: Round, ids: np.ndarray) -> np.ndarray:
        """The losses of rows `ids`, float64 (m,): stored ones, and those of other rows under the model as it is."""
        block = 0 if self.every is None else round.update // self.every
        if block != self._block:
            self._block, self._rows, self._losses = block, self._rows[:0], self._losses[:0]
        new = np.setdiff1d(ids, self._rows)
        if len(new):
            rows = np.concatenate([self._rows, new])
            losses = np.concatenate([self._losses, round.scorer.losses(round.model, new)])
            order = np.argsort(rows)
            self._rows, self._losses = rows[order], losses[order]
        return self._losses[np.searchsorted(self._rows, ids)].astype(np.float64)

    def _arranged(self, numbers: np.ndarray, round: Round, number: int) -> np.ndarray:
        """Positions of rows with `numbers`, float64 (m,), in training order, int64 (m,). number: of the pass."""
        finite = np.where(np.isfinite(numbers), numbers, np.nan)  # NaN sorts last, in both directions
        ranking = np.argsort(finite if self.ascending else -finite, kind="stable")
        rng = np.random.default_rng((round.seed, round.index, STREAM, number))
        order = ranking[self.positions(len(ranking), rng)]
        if self.window == 1:
            return order
        parts = (order[start : start + self.window] for start in range(0, len(order), self.window))
        return np.concatenate([rng.permutation(part) for part in parts])

    def _spread(self, round: Round, subset: Subset, numbers: np.ndarray) -> np.ndarray:
        """The subset's draws, int64 (draws,): a row drawn c times, and at place p of n in the arrangement, has its k-th
        draw at (k + p / n) / c of the round."""
        ids = subset.ids[self._arranged(numbers, round, 0)]
        counts = np.bincount(np.searchsorted(np.sort(ids), subset.order), minlength=len(ids))  # by ascending id
        counts = counts[np.searchsorted(np.sort(ids), ids)]  # in the arrangement
        rows = np.repeat(np.arange(len(ids)), counts)
        turns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)  # k, from 0
        times = (turns + rows / len(ids)) / counts[rows]
        return ids[rows[np.lexsort((rows, times))]]
