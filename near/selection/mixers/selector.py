"""Rows by their source, in the proportions that a mixer computes for each round."""

from collections.abc import Callable

import numpy as np

from near.common.errors import UserError
from near.selection.mixers.base import Mixer, Sources
from near.selection.round import Round, Subset
from near.selection.selectors.base import Required, Selector
from near.selection.selectors.ranking import least_trained_first


class Mix(Selector):
    """Makes `round.draws` draws, of each source its proportion, spread evenly over the round, so that every part of it
    has the same mix; also in warm-ups. Within a source, the rows trained least so far come first, each once before any
    twice (warm-ups count), in seeded order.

    Counts are a systematic sample: within one of proportion x draws, and exactly that on average over rounds. With the
    largest remainder, a source whose share is below half a row would never be drawn; single draws would spread around
    the proportions.
    """

    has_scores = False

    def __init__(self, mixer: Mixer):
        super().__init__(None)
        self.mixer = mixer
        self._cached: tuple | None = None  # a pool, its eligible rows and its sources

    @property
    def requires(self) -> Required | None:  # type: ignore[override]
        return self.mixer.requires

    @property
    def only_in_training(self) -> str | None:  # type: ignore[override]
        return f"measures {self.mixer.requires} from round to round" if self.mixer.requires else None

    def check_pool(self, pool, eligible: np.ndarray) -> None:
        self.sources(pool, eligible)

    def check_model(self, config) -> None:
        self.mixer.check_model(config)

    def warm_up(self, round: Round) -> Subset:
        """Rows in the proportions that the mixer starts with."""
        sources = self.sources(round.pool, round.eligible)
        return self._drawn(round, sources, self.mixer.first(round, sources), {})

    def select(self, round: Round) -> Subset:
        sources = self.sources(round.pool, round.eligible)
        proportions = self.mixer.proportions(round, sources)
        return self._drawn(round, sources, proportions, self.mixer.metrics())

    def _drawn(self, round: Round, sources: Sources, proportions: np.ndarray, metrics: dict) -> Subset:
        return spread(round, sources, self.shares(proportions, sources), metrics, evenly(round))

    def shares(self, proportions: np.ndarray, sources: Sources) -> np.ndarray:
        """`proportions` as float64 (n,); UserError if the mixer breaks its contract."""
        shares, name = np.asarray(proportions), type(self.mixer).__name__
        if shares.shape != (len(sources),) or shares.dtype.kind not in "iuf":
            raise UserError(
                f"mixer {name} returned shares of {shares.dtype} {shares.shape}; return one number for each of the "
                f"{len(sources)} sources"
            )
        if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
            raise UserError(f"mixer {name} returned the shares {shares.tolist()}; return none below 0, and one above 0")
        return shares.astype(np.float64)

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.mixer.state_dict()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.mixer.load_state_dict(state)

    def sources(self, pool, eligible: np.ndarray) -> Sources:
        """The sources of the eligible rows; UserError for those that the mixer can't use."""
        if self._cached is None or self._cached[0] is not pool or self._cached[1] is not eligible:
            if pool is None:
                raise UserError("selector=mix picks rows by their source, which vectors don't have; give the rows")
            sources = Sources.of(pool, eligible)
            self.mixer.check(sources)
            self._cached = pool, eligible, sources
        return self._cached[2]


def spread(
    round: Round,
    sources: Sources,
    proportions: np.ndarray,
    metrics: dict,
    pick: Callable[[np.ndarray, int], np.ndarray],
) -> Subset:
    """The draws of a round, of each source its proportion, spread evenly over the round.

    Args:
        round: whose draws they are.
        sources: n of them.
        proportions: float64 (n,), none below 0.
        metrics: further numbers of the sources for the record, (n,) each.
        pick: makes a number of draws, int64, of a source's rows.
    """
    rng = np.random.default_rng((round.seed, round.index, 4))  # 4: not the stream of the sampler
    draws = counts(proportions, round.draws, rng.random())
    rows, times = [], []
    for source, count in zip(sources.rows, draws, strict=True):
        rows.append(pick(source, count))
        times.append((np.arange(count) + rng.random(count)) / max(1, count))
    order = np.concatenate(rows)[np.argsort(np.concatenate(times), kind="stable")]
    _, first = np.unique(order, return_index=True)
    record = {"proportions": proportions, "draws": draws, **metrics}
    mix = {name: sources.by_name(values) for name, values in record.items()}
    return Subset(order[np.sort(first)], order=order, mix=mix)


def evenly(round: Round) -> Callable[[np.ndarray, int], np.ndarray]:
    """Draws of a source's rows, those trained least first."""
    return lambda rows, count: least_trained(rows, count, round.trained, round.seed)


def counts(proportions: np.ndarray, draws: int, offset: float) -> np.ndarray:
    """How many of `draws` are of each source, int64 (n,): how many of the numbers offset, offset + 1, ... lie in its
    interval of the cumulated proportions x draws. offset: in [0, 1).

    >>> counts(np.array([0.5, 0.3, 0.2]), 4, offset=0.9)
    array([2, 1, 1])
    """
    ends = np.cumsum(proportions)
    before = np.ceil(np.concatenate([[0.0], ends / ends[-1] * draws]) - offset)
    return np.diff(before).astype(np.int64)


def least_trained(rows: np.ndarray, count: int, trained: np.ndarray, seed: int) -> np.ndarray:
    """Draws of the rows of a source, int64 (count,): pass after pass, those trained least so far first.

    Args:
        rows: of the source, int64 (m,).
        count: how many draws.
        trained: how often each row of the pool was trained, int64 (n,).
        seed: of the order within a pass.
    """
    times, draws = trained[rows], [np.empty(0, dtype=np.int64)]
    while count > 0:
        order = least_trained_first(times, seed, 7)[:count]  # 7: not the stream of selector=full
        draws.append(rows[order])
        times[order] += 1
        count -= len(order)
    return np.concatenate(draws)
