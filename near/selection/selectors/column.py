"""Rows by a number that they have: a reward model's score, DEITA's complexity and quality, IFD, an age."""

import logging
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from near.common.bounds import between
from near.common.errors import UserError, printable
from near.common.processes import is_main
from near.common.text import plural
from near.data.columns import numbers_of
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.ranking import drawn

log = logging.getLogger(__name__)

Limit = Annotated[float, between(-1e15, 1e15)]


class Column(Selector):
    """Rows by the number in a column of the pool. Numbers written as text count, as in CSV files. Rows without a finite
    number (true and false are none) are left out, and counted in the log.

    column: its name; `a.b` is the key b of objects in column a.
    pick:
        highest, lowest: the rows with the highest or lowest numbers, ties by lower id; the same in every round. A
            row's score is its number, under lowest with the other sign.
        band: random rows among those whose number is in `band`, ends included; new in every round.
        weights: drawn without replacement with probability in proportion to the number, new in every round; rows with
            a negative number are left out, too, and those with 0 are never drawn.
    """

    def __init__(
        self,
        subset_size: SubsetSize | None = None,
        column: str = "score",
        pick: Literal["highest", "lowest", "band", "weights"] = "highest",
        band: tuple[Limit, Limit] | None = None,
    ):
        super().__init__(subset_size)
        if pick == "band" and (band is None or len(band) != 2 or band[0] > band[1]):
            raise UserError(
                f"selector.band={None if band is None else list(band)} is not two ascending numbers, which pick=band "
                "needs; write them like [0.2,0.8]"
            )
        if pick != "band" and band is not None:
            raise UserError(f"selector.band={list(band)} has no effect under selector.pick={pick}; use pick=band")
        self.columns, self._logged = (column,), False
        self.column, self.pick, self.band = column, pick, band

    def check_columns(self, columns: Mapping[str, list], eligible: np.ndarray) -> None:
        """See Selector.check_columns; logs how many rows are left out."""
        ids, values, reasons = self._numbers(columns, eligible)
        values_in = values[self._allowed(values)]
        if not len(ids):
            given = next((v for v in (columns[self.column][row] for row in eligible.tolist()) if v is not None), None)
            raise UserError(
                f"selector.column={self.column}: no row that may be selected has a finite number there (one has "
                f"{printable(str(given), 40)}); name another column"
            )
        if not len(values_in):
            needed = {"band": f"in selector.band={list(self.band or ())}", "weights": "above 0"}[self.pick]
            raise UserError(
                f"selector.column={self.column}: no number is {needed}; they are {values.min():g} to {values.max():g}"
            )
        if reasons and is_main() and not self._logged:
            self._logged = True
            shown = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            log.info(
                f"selector.column={self.column}: {plural(sum(reasons.values()), 'row')} of {len(eligible)} left out "
                f"({shown})"
            )

    def select(self, round: Round) -> Subset:
        ids, values, _ = self._numbers(round.columns, round.eligible)
        allowed = self._allowed(values)
        ids, values = ids[allowed], values[allowed]
        if self.pick in ("highest", "lowest"):
            order = np.argsort(-values if self.pick == "highest" else values, kind="stable")[: round.size]
        elif self.pick == "band":
            order = round.rng().permutation(len(ids))[: round.size]
        else:
            order = drawn(np.log(values), round)
        scores = -values if self.pick == "lowest" else values
        return Subset(ids[order], scores[order].astype(np.float32))

    def _allowed(self, values: np.ndarray) -> np.ndarray:
        """bool (n,): the numbers that `pick` may take."""
        if self.pick == "band":
            return (values >= self.band[0]) & (values <= self.band[1])
        return values > 0 if self.pick == "weights" else np.ones(len(values), dtype=bool)

    def _numbers(self, columns: Mapping[str, list], eligible: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict]:
        """Eligible rows with a number that can be used, int64 (m,), ascending; the numbers, float64 (m,); and how many
        other rows there are, by the reason."""
        given = [columns[self.column][row] for row in eligible.tolist()]
        values = numbers_of(given)
        usable = np.isfinite(values)
        reasons = {"without a value": sum(value is None for value in given)}
        reasons["without a finite number"] = int((~usable).sum()) - reasons["without a value"]
        if self.pick == "weights":
            reasons["with a negative number"] = int((values[usable] < 0).sum())
            usable &= ~(values < 0)
        return eligible[usable], values[usable], {reason: count for reason, count in reasons.items() if count}
