"""The stages of a plan. Each has a component of another group (`by`), a first step and a period.

A stage acts in rounds that start at `start` or later, and never in a warm-up. (A mix does: with its initial shares.)
In every `period`-th of these rounds it acts anew; in between, filters, mix and draw keep their last result, and order
and weights do nothing. What is kept is part of every checkpoint.
"""

import dataclasses
from abc import ABC
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np

from near.common.bounds import Positive, between
from near.common.errors import UserError
from near.common.text import plural
from near.selection.mixers.base import Mixer, Sources
from near.selection.mixers.selector import Mix
from near.selection.orders.base import Order
from near.selection.plan.kinds import Kind
from near.selection.round import Round, Subset, checked
from near.selection.selectors.base import Selector, SubsetSize

Step = Annotated[int, between(0, 100_000_000)]
Limit = Annotated[float, between(-1e15, 1e15)]


class Stage(ABC):
    """A part of a plan.

    Attributes:
        kind: what it does, and so its place in the plan.
        by: its component: a selector, mixer, order or weighter.
        name: its key in the plan, which the plan sets.
    """

    kind: ClassVar[Kind]
    name = ""

    def __init__(self, by: Any, start: int, period: int):
        self.by, self.start, self.period = by, start, period
        self._first: int | None = None  # the round (round.update) in which it acted first
        self._acted: int | None = None  # and last

    def has_started(self, round: Round) -> bool:
        return round.step >= self.start

    def is_due(self, round: Round) -> bool:
        """Whether it acts anew in a round: its first one, and every `period`-th from that on."""
        return self._first is None or (round.update - self._first) % self.period == 0

    def acts(self, round: Round) -> None:
        """Note that it acts anew in a round, be it due or not."""
        self._first = round.update if self._first is None else self._first
        self._acted = round.update

    def has_acted(self, round: Round) -> bool:
        """Whether it acted anew in this round."""
        return self._acted == round.update

    def fault(self, what: str) -> UserError:
        return UserError(f"plan.{self.name}{what}")

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays that must survive a restart: the stage's own (`stage.NAME`), and its component's."""
        own = {f"stage.{name}": array for name, array in self._kept().items()}
        if self._acted is not None:
            own |= {"stage.first": np.array(self._first), "stage.acted": np.array(self._acted)}
        return own | (self.by.state_dict() if hasattr(self.by, "state_dict") else {})

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        own = {name.removeprefix("stage."): array for name, array in state.items() if name.startswith("stage.")}
        self._acted = int(own.pop("acted")) if "acted" in own else None
        self._first = int(own.pop("first")) if "first" in own else self._acted  # older checkpoints lack it
        self._keep(own)
        if hasattr(self.by, "load_state_dict"):
            self.by.load_state_dict({name: array for name, array in state.items() if not name.startswith("stage.")})

    def _kept(self) -> dict[str, np.ndarray]:
        """The last result, as arrays."""
        return {}

    def _keep(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore what `_kept` returned."""
        del arrays


class FilterStage(Stage):
    """Keeps a part of the rows that may be selected: those that a selector picks, or those of a score.

    by: a selector. It picks `keep` rows as those of a round: near the nearest, column the highest; loss draws them.
    keep: how many rows: a number (int), or a share of those that come in (float, up to 1.0).
    above, below: instead of `keep`, the rows with such a score, ends included. Rows without a score are taken away.
    """

    kind = "filter"

    def __init__(
        self,
        by: Selector,
        keep: SubsetSize | None = None,
        above: Limit | None = None,
        below: Limit | None = None,
        start: Step = 0,
        period: Positive = 1,
    ):
        super().__init__(_selector(by), start, period)
        if (keep is None) == (above is None and below is None):
            raise UserError(
                f"a filter has keep={keep}, above={above} and below={below}; set keep (rows, or their share), or above "
                "or below (a score)"
            )
        if by.subset_size is not None:
            raise UserError(f"subset_size={by.subset_size} of a filter's selector has no effect; set the filter's keep")
        if keep is None and not by.has_scores:
            raise UserError(f"by={type(by).__name__} of a filter has no scores for above or below; set keep")
        self.keep, self.above, self.below = keep, above, below
        self._rows: np.ndarray | None = None

    def rows(self, round: Round) -> np.ndarray:
        """The rows of round.eligible that are kept, int64 (m,), ascending. It acts anew, too, if the filters before it
        have taken away all that it kept.

        Raises:
            UserError: it keeps none, or the selector has no scores for a threshold.
        """
        if not self.is_due(round) and self._rows is not None:
            rows = np.intersect1d(round.eligible, self._rows, assume_unique=True)
            if len(rows):
                return rows
        self._rows = np.sort(self._picked(round))
        self.acts(round)
        return self._rows

    def _picked(self, round: Round) -> np.ndarray:
        count, keep = len(round.eligible), self.keep
        size = count if keep is None else max(1, int(keep * count + 0.5)) if isinstance(keep, float) else keep
        subset = _picks(self.by, round, min(size, count), self.name)
        if keep is not None:
            return subset.ids
        option = ", ".join(f"{name}={end:g}" for name in ("above", "below") if (end := getattr(self, name)) is not None)
        if subset.scores is None:
            raise self.fault(f": {option} is a threshold of scores, and {type(self.by).__name__} has none; set keep")
        scores = subset.scores
        low, high = (-np.inf if self.above is None else self.above), (np.inf if self.below is None else self.below)
        ids = subset.ids[(scores >= low) & (scores <= high)]
        if not len(ids):
            known = scores[np.isfinite(scores)]
            ends = f"they are {known.min():g} to {known.max():g}" if len(known) else "none is a number"
            raise self.fault(
                f": {option} keeps none of {plural(count, 'row')} by their score in round {round.index} ({ends})"
            )
        return ids

    def _kept(self) -> dict[str, np.ndarray]:
        return {} if self._rows is None or self.period == 1 else {"rows": self._rows}

    def _keep(self, arrays: dict[str, np.ndarray]) -> None:
        self._rows = arrays.get("rows")


class MixStage(Stage):
    """Gives each source its share of the round's draws, by a mixer. Shares and measurements are of the rows that the
    filters left; sources without any get no share, and the others keep their proportions. Warm-ups get the mixer's
    initial shares, if `start` allows."""

    kind = "mix"

    def __init__(self, by: Mixer, start: Step = 0, period: Positive = 1):
        super().__init__(by, start, period)
        if not isinstance(by, Mixer):
            raise UserError(f"by={by} of a mix stage is not a mixer; use mixer=static, random, doremi or odm")
        self.mix = Mix(by)
        self._shares: np.ndarray | None = None

    def shares(self, round: Round, rows: np.ndarray) -> tuple[Sources, np.ndarray]:
        """The sources with their rows among `rows` (int64, ascending), and their shares, float64 (n_sources,)."""
        sources = self.mix.sources(round.pool, round.eligible)
        left, alive = sources.narrowed(rows)
        if self.is_due(round) or self._shares is None:
            self._shares = self.mix.shares(self.by.proportions(round, left), left)
            self.acts(round)
        shares = np.where(alive, self._shares, 0.0)
        if not shares.sum():
            raise self.fault(f": all shares are of sources of which no row is left in round {round.index}")
        return left, shares if alive.all() else shares / shares.sum()

    def _kept(self) -> dict[str, np.ndarray]:
        return {} if self._shares is None or self.period == 1 else {"shares": self._shares}

    def _keep(self, arrays: dict[str, np.ndarray]) -> None:
        self._shares = arrays.get("shares")


class Draw(Stage):
    """Picks the round's rows by a selector. Before `start` they are random.

    With a mix, each source's rows are the first of its own in the selector's ranking of all rows that are left. A
    selector whose order means nothing (`random`) draws those that were trained least.
    """

    kind = "draw"

    def __init__(self, by: Selector, start: Step = 0, period: Positive = 1):
        super().__init__(_selector(by), start, period)
        self._subset: Subset | None = None

    def picked(self, round: Round, size: int) -> Subset:
        """At most `size` rows of round.eligible, best first."""
        if not self.is_due(round) and self._subset is not None:
            left = np.isin(self._subset.ids, round.eligible)
            if left.any():
                scores = self._subset.scores
                return Subset(self._subset.ids[left][:size], None if scores is None else scores[left][:size])
        self._subset = _picks(self.by, round, size, self.name)
        self.acts(round)
        return self._subset

    def _kept(self) -> dict[str, np.ndarray]:
        if self._subset is None or self.period == 1:
            return {}
        arrays = {name: getattr(self._subset, name) for name in ("ids", "scores")}
        return {name: array for name, array in arrays.items() if array is not None}

    def _keep(self, arrays: dict[str, np.ndarray]) -> None:
        self._subset = Subset(arrays["ids"], arrays.get("scores")) if "ids" in arrays else None


class OrderStage(Stage):
    """Arranges the round's draws by an order. Each source keeps its number of draws."""

    kind = "order"

    def __init__(self, by: Order, start: Step = 0, period: Positive = 1):
        super().__init__(by, start, period)
        if not isinstance(by, Order):
            raise UserError(f"by={by} of an order stage is not an order; use order=saw, stair, sorting, ...")

    def arranged(self, round: Round, subset: Subset) -> Subset:
        """`subset` with its draws in the order's order; unchanged in rounds in which the stage does nothing."""
        if not self.is_due(round):
            return subset
        self.acts(round)
        order = self.by.arrange(round, subset)
        chosen = np.unique(order)
        if len(chosen) < len(subset.ids):  # an order without replacement may leave the last ones out
            left = np.isin(subset.ids, chosen)
            scores = None if subset.scores is None else subset.scores[left]
            subset = dataclasses.replace(subset, ids=subset.ids[left], scores=scores)
        return dataclasses.replace(subset, order=order)


def _selector(by: object) -> Selector:
    if not isinstance(by, Selector) or by.trains_on_queries:
        raise UserError(f"by={by} of a filter or draw is not a selector of rows of the pool; name another one")
    return by


def _picks(by: Selector, round: Round, size: int, name: str) -> Subset:
    """The rows that `by` picks in a round of `size` rows, checked."""
    sized = round if size == round.size else dataclasses.replace(round, size=size, draws=size)
    return checked(by.select(sized), sized, f"{type(by).__name__} (plan.{name})")
