"""The schedule: the optimizer steps of every round, and the slices that become epochs of the sampler."""

import math
from dataclasses import dataclass

from omegaconf import DictConfig


@dataclass(frozen=True)
class Phase:
    """The warm-up or one round: optimizer steps [start, start + steps). `warmup`: random rows, without the selector."""

    index: int
    start: int
    steps: int | None
    warmup: bool


@dataclass(frozen=True)
class Schedule:
    """`cycles` times: `warmup_step` steps on random rows, then `update_times` rounds of `update_step` steps.

    >>> s = Schedule(4, 6, 3)
    >>> [r.start for r in s.rounds()], s.total, s.slice_steps
    ([0, 4, 10, 16], 22, 2)
    """

    warmup_step: int
    update_step: int
    update_times: int
    cycles: int = 1

    @classmethod
    def of(cls, trainer: DictConfig) -> "Schedule":
        """From the options of a trainer with rounds."""
        return cls(*(trainer[key] for key in ("warmup_step", "update_step", "update_times", "cycles")))

    @property
    def total(self) -> int:
        return self.cycles * (self.warmup_step + self.update_step * self.update_times)

    @property
    def slice_steps(self) -> int:
        """Steps of the sampler's epoch: the most for which every round starts with an epoch."""
        if not self.warmup_step:
            return self.update_step
        return math.gcd(self.warmup_step, self.update_step) if self.update_times else self.warmup_step

    def rounds(self) -> list[Phase]:
        rounds, start = [], 0
        for _ in range(self.cycles):
            lengths = [(self.warmup_step, True)] * bool(self.warmup_step)
            for steps, warmup in lengths + [(self.update_step, False)] * self.update_times:
                rounds.append(Phase(len(rounds), start, steps, warmup))
                start += steps
        return rounds

    def at(self, step: int) -> Phase:
        """The round of optimizer step `step`, from 0."""
        per_cycle = self.warmup_step + self.update_step * self.update_times
        cycle, within = divmod(step, per_cycle)
        each = self.update_times + bool(self.warmup_step)
        if within < self.warmup_step:
            return Phase(cycle * each, cycle * per_cycle, self.warmup_step, True)
        nth = (within - self.warmup_step) // self.update_step
        start = cycle * per_cycle + self.warmup_step + nth * self.update_step
        return Phase(cycle * each + bool(self.warmup_step) + nth, start, self.update_step, False)

    def update(self, phase: Phase) -> int:
        """How many rounds without warm-ups there are before one."""
        cycle, within = divmod(phase.index, self.update_times + bool(self.warmup_step))
        return cycle * self.update_times + max(0, within - bool(self.warmup_step))

    def first_update(self, step: int) -> int:
        """The number, as of `update`, of the round that has optimizer step `step`, or that follows its warm-up."""
        return self.update(self.at(step))
