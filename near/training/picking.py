"""Which rows each round trains, and in which order.

For selectors that do not use the model this is a pure function, computed ahead of training by near/training/twins.py.
"""

import hashlib
import time
from dataclasses import dataclass

import numpy as np
import torch

from near.models.tokens import lengths
from near.selection.round import Round, Subset, checked
from near.training.job import Job, Planned
from near.training.rounds.sampler import draws, grouped_by_length
from near.training.rounds.schedule import Phase, Schedule


@dataclass(frozen=True)
class Batching:
    """How rows are batched.

    Args:
        draws_per_step: rows of an optimizer step, over all processes.
        batch: rows of one forward pass, over all processes.
        group_by_length: see near/training/rounds/sampler.py.
    """

    draws_per_step: int
    batch: int
    group_by_length: bool = False

    @classmethod
    def of(cls, args, group_by_length: bool = False) -> "Batching":
        """From TrainingArguments."""
        batch = args.train_batch_size * args.world_size
        return cls(batch * args.gradient_accumulation_steps, batch, group_by_length)


class Picker:
    """Selects the rounds of one run, one after the other.

    subsets: row ids of every round so far, int64 (rows,) each.
    orders: draws int64 (draws,) by round, of rounds whose selector returned an order.
    trained: int64 (n_pool,), how often each row was drawn, the current round included.
    """

    def __init__(self, job: Job, schedule: Schedule, batching: Batching):
        self.job, self.schedule, self.batching = job, schedule, batching
        self.subsets: list[np.ndarray] = []
        self.orders: dict[int, np.ndarray] = {}
        self.trained = np.zeros(len(job.pool), dtype=np.int64)
        self._lengths = lengths(job.tokens.table) if batching.group_by_length else None

    def round(self, phase: Phase, **model: object) -> Round:
        """The selector's input. model: model, optimizer, accelerator and collator, during training."""
        size = phase.steps * self.batching.draws_per_step
        rounds, eligible = self.schedule.rounds(), self.job.tokens.eligible
        limit = None if phase.warmup else self.job.selector.most(len(eligible))
        return Round(
            index=phase.index,
            count=len(rounds),
            step=phase.start,
            size=min(size, limit or size),
            seed=self.job.seed,
            eligible=eligible,
            draws=size,
            trained=self.trained,
            previous=tuple(self.subsets),
            pool=self.job.pool,
            queries=self.job.queries,
            columns=self.job.columns,
            query_columns=self.job.query_columns,
            update=self.schedule.update(phase),
            updates=sum(not r.warmup for r in rounds),
            scorer=self.job.scorer,
            tokens=self.lengths,
            **model,
        )

    def pick(self, phase: Phase, round: Round) -> Subset:
        """The selector's subset, not checked yet."""
        with torch.random.fork_rng():  # a selector's random numbers must not change the training's dropout
            if phase.warmup:
                return self.job.selector.warm_up(round)
            return self.job.selector.select(self.job.represent(round))

    def planned(self) -> list[str]:
        """Select all rounds ahead of training, into `job.planned`; returns the digest of each round's draws."""
        digests = []
        for phase in self.schedule.rounds():
            started = time.perf_counter()
            round = self.round(phase)
            subset = self.checked(self.pick(phase, round), phase, round)
            seconds, state = time.perf_counter() - started, self.job.selector.state_dict()
            self.job.planned[phase.index] = Planned(subset, seconds, state)
            digests.append(hashlib.sha256(self.take(subset, phase).tobytes()).hexdigest())
        return digests

    def checked(self, subset: Subset, phase: Phase, round: Round) -> Subset:
        """`subset`; raises UserError if it breaks the selector's contract."""
        return checked(subset, round, self.job.selector_name)

    def take(self, subset: Subset, phase: Phase) -> np.ndarray:
        """Make `subset` the round's; returns its draws, int64 (draws,)."""
        self.subsets.append(subset.ids)
        if subset.order is not None:
            self.orders[phase.index] = subset.order
        order = self.order(phase)
        np.add.at(self.trained, order, 1)
        return order

    def restore(self, subsets: list[np.ndarray], orders: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Restore the subsets of a checkpoint, and the orders that selectors returned; returns all rounds' draws."""
        self.subsets, self.orders = subsets, orders
        drawn = [self.order(phase) for phase in self.schedule.rounds()[: len(subsets)]]
        for order in drawn:
            np.add.at(self.trained, order, 1)
        return drawn

    def order(self, phase: Phase) -> np.ndarray:
        """The draws of a round that has been selected, int64 (draws,)."""
        order = self.orders.get(phase.index)
        rows = len(self.subsets[phase.index]) if order is None else len(order)
        if order is None:
            size = phase.steps * self.batching.draws_per_step
            order = draws(self.subsets[phase.index], size, self.job.seed, phase.index)
        if self._lengths is None:
            return order
        return grouped_by_length(order, rows, self._lengths, self.batching.batch, self.job.seed, phase.index)

    def tokens(self, order: np.ndarray) -> int:
        """The number of tokens of the draws `order`, without padding."""
        ids, counts = np.unique(order, return_counts=True)
        return int(self.lengths(ids) @ counts)  # (rows,) @ (rows,)

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        """The tokens of rows, int64 (m,)."""
        return lengths(self.job.tokens.table.select(ids))
