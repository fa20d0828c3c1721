"""Rows by their source, in proportions that a mixer says for each round."""

import numpy as np

from near.common.errors import UserError
from near.selection.mixers.base import Mixer, Sources
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector


class Mix(Selector):
    """Makes `round.draws` draws, of each source its proportion, spread evenly over the round, so that every stretch of
    it is mixed alike; so do warm-ups. Within a source come the rows trained least so far, each once before any twice
    (warm-ups count), in seeded order.

    Counts are a systematic sample: within one of proportion x draws, and exactly that on average over rounds. The
    largest remainder would never draw a source whose share is below half a row, draws one by one would spread around
    the proportions.
    """

    def __init__(self, mixer: Mixer):
        super().__init__(None)
        self.mixer = mixer
        self._known: tuple | None = None  # a pool, its eligible rows and its sources

    @property
    def asks_model(self) -> str | None:  # type: ignore[override]
        return self.mixer.asks_model

    @property
    def only_in_training(self) -> str | None:  # type: ignore[override]
        return "measures losses from round to round" if self.mixer.asks_model else None

    def check_pool(self, pool, eligible: np.ndarray) -> None:
        self._sources(pool, eligible)

    def warm_up(self, round: Round) -> Subset:
        """Rows in the proportions that the mixer begins with."""
        sources = self._sources(round.pool, round.eligible)
        return self._drawn(round, sources, self.mixer.first(round, sources), {})

    def select(self, round: Round) -> Subset:
        sources = self._sources(round.pool, round.eligible)
        proportions = self.mixer.proportions(round, sources)
        return self._drawn(round, sources, proportions, self.mixer.told())

    def _drawn(self, round: Round, sources: Sources, proportions: np.ndarray, measured: dict) -> Subset:
        rng = np.random.default_rng((round.seed, round.index, 4))  # 4: another stream than the sampler's
        draws = counts(proportions, round.draws, rng.random())
        rows, times = [], []
        for own, count in zip(sources.rows, draws, strict=True):
            rows.append(least_trained(own, count, round.trained, round.seed))
            times.append((np.arange(count) + rng.random(count)) / max(1, count))
        order = np.concatenate(rows)[np.argsort(np.concatenate(times), kind="stable")]
        _, first = np.unique(order, return_index=True)
        lines = {"proportions": proportions, "draws": draws, **measured}
        return Subset(order[np.sort(first)], order=order, mix={k: sources.told(v) for k, v in lines.items()})

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.mixer.state_dict()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.mixer.load_state_dict(state)

    def _sources(self, pool, eligible: np.ndarray) -> Sources:
        if self._known is None or self._known[0] is not pool or self._known[1] is not eligible:
            if pool is None:
                raise UserError(
                    "selector=mix picks rows by their source, which vectors alone don't tell; give the rows"
                )
            found = Sources.of(pool, eligible)
            self.mixer.check(found)
            self._known = pool, eligible, found
        return self._known[2]


def counts(proportions: np.ndarray, draws: int, offset: float) -> np.ndarray:
    """How many of `draws` are of each source, int64 (n,): the numbers offset, offset + 1, ... that lie in its stretch
    of the cumulated proportions x draws. offset: in [0, 1).

    >>> counts(np.array([0.5, 0.3, 0.2]), 4, offset=0.9)
    array([2, 1, 1])
    """
    ends = np.cumsum(proportions)
    before = np.ceil(np.concatenate([[0.0], ends / ends[-1] * draws]) - offset)
    return np.diff(before).astype(np.int64)


def least_trained(rows: np.ndarray, count: int, trained: np.ndarray, seed: int) -> np.ndarray:
    """`count` draws of `rows`, int64 (count,): pass after pass, those trained least so far first. trained: how often
    each row of the pool was trained, (n,)."""
    times, found = trained[rows], []
    while count > 0:
        place = np.empty(len(rows), dtype=np.int64)  # within the pass that a row is due in
        for turn in np.unique(times):
            due = times == turn
            place[due] = np.random.default_rng((seed, turn, 7)).permutation(len(due))[due]
        taken = np.lexsort((place, times))[:count]
        found.append(rows[taken])
        times = times.copy()
        times[taken] += 1
        count -= len(taken)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
