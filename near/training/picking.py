"""Which rows each round trains and in which order, apart from the Trainer: for selectors that do not look at the model
a pure function, which can be told ahead of training (near/training/twins.py)."""

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from near.models.tokens import lengths
from near.selection.round import Round, Subset, checked
from near.training.rounds.sampler import draws, grouped_by_length
from near.training.rounds.schedule import Schedule, Stretch

if TYPE_CHECKING:
    from near.training.job import Job


@dataclass(frozen=True)
class Batching:
    """draws_per_step: rows that an optimizer step trains; batch: rows that all processes go through at once;
    group_by_length: see near/training/rounds/sampler.py."""

    draws_per_step: int
    batch: int
    group_by_length: bool = False

    @classmethod
    def of(cls, args, group_by_length: bool = False) -> "Batching":
        """Of TrainingArguments."""
        batch = args.train_batch_size * args.world_size
        return cls(batch * args.gradient_accumulation_steps, batch, group_by_length)


class Picker:
    """The rounds of one run, one after the other. `subsets`: of every round so far; `trained`: how often each row of
    the pool was drawn, those of the running round included, (n,)."""

    def __init__(self, job: "Job", schedule: Schedule, batching: Batching):
        self.job, self.schedule, self.batching = job, schedule, batching
        self.subsets: list[np.ndarray] = []
        self.orders: dict[int, np.ndarray] = {}  # of rounds whose selector said it
        self.trained = np.zeros(len(job.pool), dtype=np.int64)
        self._lengths = lengths(job.tokens.table) if batching.group_by_length else None

    def round(self, stretch: Stretch, **model: object) -> Round:
        """What the selector is told; `model`: what it may look at while training runs."""
        size = stretch.steps * self.batching.draws_per_step
        rounds, eligible = self.schedule.rounds(), self.job.tokens.eligible
        most = None if stretch.warmup else self.job.selector.most(len(eligible))
        return Round(
            index=stretch.index,
            count=len(rounds),
            step=stretch.start,
            size=min(size, most or size),
            seed=self.job.seed,
            eligible=eligible,
            draws=size,
            trained=self.trained,
            previous=tuple(self.subsets),
            pool=self.job.pool,
            queries=self.job.queries,
            update=sum(not r.warmup for r in rounds[: stretch.index]),
            updates=sum(not r.warmup for r in rounds),
            scorer=self.job.scorer,
            **model,
        )

    def pick(self, stretch: Stretch, round: Round) -> Subset:
        """The selector's choice, before it is checked."""
        with torch.random.fork_rng():  # what a selector draws must not move the training's dropout
            if stretch.warmup:
                return self.job.selector.warm_up(round)
            return self.job.selector.select(self.job.represent(round))

    def planned(self) -> list[str]:
        """Digests of all rounds' draws, picked ahead of training; the job keeps what was picked, and the seconds."""
        found = []
        for stretch in self.schedule.rounds():
            begun = time.perf_counter()
            round = self.round(stretch)
            subset = self.checked(self.pick(stretch, round), stretch, round)
            self.job.planned[stretch.index] = subset, time.perf_counter() - begun
            found.append(hashlib.sha256(self.take(subset, stretch).tobytes()).hexdigest())
        return found

    def checked(self, subset: Subset, stretch: Stretch, round: Round) -> Subset:
        return checked(subset, round, self.job.selector_name)

    def take(self, subset: Subset, stretch: Stretch) -> np.ndarray:
        """Make `subset` the round's; its order, int64 (draws,)."""
        self.subsets.append(subset.ids)
        if subset.order is not None:
            self.orders[stretch.index] = subset.order
        order = self.order(stretch)
        np.add.at(self.trained, order, 1)
        return order

    def restore(self, subsets: list[np.ndarray], given: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Take back the rounds of a checkpoint, and the orders that selectors said; the orders of all."""
        self.subsets, self.orders = subsets, given
        orders = [self.order(stretch) for stretch in self.schedule.rounds()[: len(subsets)]]
        for order in orders:
            np.add.at(self.trained, order, 1)
        return orders

    def order(self, stretch: Stretch) -> np.ndarray:
        """The draws of a round whose subset is known."""
        order = self.orders.get(stretch.index)
        rows = len(self.subsets[stretch.index]) if order is None else len(order)
        if order is None:
            size = stretch.steps * self.batching.draws_per_step
            order = draws(self.subsets[stretch.index], size, self.job.seed, stretch.index)
        if self._lengths is None:
            return order
        return grouped_by_length(order, rows, self._lengths, self.batching.batch, self.job.seed, stretch.index)

    def tokens(self, order: np.ndarray) -> int:
        """Tokens of the draws `order`, padding not counted."""
        ids, counts = np.unique(order, return_counts=True)
        return int(lengths(self.job.tokens.table.select(ids)) @ counts)
