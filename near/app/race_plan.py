"""Before a race: its jobs, contenders and stages; in it: the jobs of a stage, and what a budget has room for."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from near.app.jobs import labels
from near.common.config import key_of
from near.common.errors import UserError
from near.common.signature import attribute
from near.report.compare import BASELINE, LEAST
from near.report.races import Contender, Look, RacePlan, RaceRecord
from near.training.rounds.schedule import Schedule
from near.training.warm_up import shares_warm_up

Words = list[str]
Compose = Callable[[Words], tuple[DictConfig, str]]


@dataclass(frozen=True)
class RaceJob:
    """A run of a race.

    Attributes:
        words: its overrides.
        folder: the name of its folder.
        stops: the step at which each stage stops it.
        seed: the index of its seed.
        warm_up: steps that it shares with the other runs of its race and seed.
    """

    words: Words
    folder: str
    stops: list[int]
    seed: int = 0
    warm_up: int = 0


Entries = dict[tuple[str, str, int], RaceJob]  # by race, contender and the seed's index
Todo = list[tuple[RaceJob, int]]  # jobs, and the step at which each starts by plan


def planned(options: DictConfig, jobs: list[Words], compose: Compose) -> tuple[RacePlan, Entries]:
    """The plan, and the jobs."""
    keyed = [{key_of(word): word for word in words} for words in jobs]
    seeds = list(dict.fromkeys(of.get("seed", "") for of in keyed))
    stages = stages_of(options.stages, len(seeds))
    targets = [tuple(word for key, word in of.items() if _is_target(key)) for of in keyed]
    kinds = [tuple(w for key, w in of.items() if key != "seed" and not _is_target(key)) for of in keyed]
    names = _names(dict.fromkeys(kinds))
    common = set.intersection(*map(set, targets))
    races: dict[str, dict[str, Contender]] = {}
    entries: Entries = {}
    for words, of, target, kind in zip(jobs, keyed, targets, kinds, strict=True):
        race = " ".join(word.partition("=")[2] for word in target if word not in common)
        cfg, name = compose(words)
        if "update_step" not in cfg.trainer:
            raise UserError("a race compares selections, and this trainer has no rounds; use trainer=dynamic_select")
        schedule = Schedule.of(cfg.trainer)
        first = min(schedule.warmup_step, schedule.total - 1)
        stops = [first + max(1, round(share * (schedule.total - first))) for share, _ in stages]
        seed = seeds.index(of.get("seed", ""))
        own = attribute(cfg.selector._target_, "trains_on_queries") is True or not shares_warm_up(cfg)
        job = RaceJob(words, name, stops, seed, 0 if own else schedule.warmup_step)
        one = races.setdefault(race, {}).setdefault(
            names[kind], Contender(stops=stops, stays=of.get("selector") == f"selector={BASELINE}" and "plan" not in of)
        )
        one.folders.append(job.folder)
        entries[race, names[kind], seed] = job
    for contenders in races.values():
        if len(contenders) < 2 or not any(one.stays for one in contenders.values()):
            raise UserError(
                f"a race needs selector={BASELINE}, which stays in as the baseline, and another selection; got "
                f"{', '.join(contenders)}"
            )
    values = {race: {name: one.to_json() for name, one in of.items()} for race, of in races.items()}
    every = {name: [(job, 0) for (race, *_), job in entries.items() if race == name] for name in races}
    return RacePlan(
        alpha=options.alpha,
        margin=options.margin,
        stages=stages,
        seeds=[seed.partition("=")[2] for seed in seeds],
        races=values,
        steps=sum(steps_of(of, -1) for of in every.values()),
    ), entries


def _names(kinds: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Names of contenders: what sets them apart, of selectors the value alone."""
    shown = labels({" ".join(kind): list(kind) for kind in kinds})
    return {kind: shown[" ".join(kind)].replace("selector=", "") for kind in kinds}


def _is_target(key: str) -> bool:
    return key == "data" or key.startswith("data.")


def stages_of(written: Sequence[Sequence[float]], seeds: int) -> list[list[float]]:
    """The stages as they are run: of at most so many seeds, the last one whole, and then one for each further seed.

    >>> stages_of([[0.25, 2], [1, 3]], 4)
    [[0.25, 2], [1, 3], [1, 4]]
    """
    stages: list[list[float]] = []
    for stage in written:
        if len(stage) != 2 or not 0 < stage[0] <= 1 or stage[1] < 1 or int(stage[1]) != stage[1]:
            raise UserError(f"race.stages has {list(stage)}; write [share, seeds], a share up to 1, such as [0.25, 2]")
        this = [stage[0], min(int(stage[1]), seeds)]
        if stages and (this[0] < stages[-1][0] or this[1] < stages[-1][1]):
            raise UserError(
                f"race.stages has {list(stage)} behind {stages[-1]}; no stage may be smaller than one before"
            )
        stages += [this] if this not in stages else []
    if not stages or stages[-1][0] < 1:
        stages.append([1, stages[-1][1] if stages else min(LEAST, seeds)])
    return stages + [[1, count] for count in range(int(stages[-1][1]) + 1, seeds + 1)]


def active_in(plan: RacePlan, looks: list[Look], race: str, cut: dict[str, dict[str, str]] | None = None) -> list[str]:
    """The contenders that go on. cut: by race those that a budget has no room for in the next stage."""
    out = {name for look in looks if look.race == race for name in (*look.stopped, *look.cut)}
    return [name for name in plan.races[race] if name not in {*out, *(cut or {}).get(race, ())}]


def todo_of(plan: RacePlan, entries: Entries, names: list[str], race: str, stage: int) -> Todo:
    """The jobs of a stage for some contenders of a race."""
    todo = []
    for name in names:
        for seed in range(int(plan.stages[stage][1])):
            job, new = entries[race, name, seed], stage == 0 or seed >= plan.stages[stage - 1][1]
            before = 0 if new else job.stops[stage - 1]
            todo += [(job, before)] if job.stops[stage] > before else []
    return todo


def steps_of(todo: Todo, stage: int) -> int:
    """The optimizer steps of a stage's jobs of a race; a warm-up that several of them share counts once."""
    sharing = Counter((job.seed, job.warm_up) for job, before in todo if before == 0)
    return sum(job.stops[stage] - before for job, before in todo) - sum(
        (count - 1) * steps for (_, steps), count in sharing.items()
    )


class RaceBudget:
    """race.steps and race.seconds, and what they have room for after some looks.

    Seconds are estimated from those of the steps so far. A stage has room only if the best selection of each race can
    then go on to a verdict beside random rows; selections that are last give way to that.
    """

    def __init__(self, options: DictConfig, plan: RacePlan, looks: list[Look]):
        self.options, self.plan, self.looks, self.record = options, plan, looks, RaceRecord(plan, looks)
        self.spent, self.seconds = sum(look.steps for look in looks), sum(look.seconds for look in looks)
        self.left = math.inf
        if options.steps is not None:
            self.left = options.steps * (plan.steps if options.steps < 1 else 1) - self.spent
        if options.seconds is not None and self.seconds:
            self.left = min(self.left, (options.seconds - self.seconds) * self.spent / self.seconds)

    def __str__(self) -> str:
        given = [f"race.{name}={self.options[name]}" for name in ("steps", "seconds") if self.options[name] is not None]
        return f"{' and '.join(given)} ({self.spent:,} steps and {self.seconds:,.0f} s are spent)"

    def cut(self, entries: Entries, races: list[str], stage: int) -> dict[str, dict[str, str]] | None:
        """By race, the selections that have to give way in a stage, and why; None if there is no room for it."""
        cut: dict[str, dict[str, str]] = {race: {} for race in races}
        while True:
            active = {race: active_in(self.plan, self.looks, race, cut) for race in races}
            if self.left >= sum(self._needed(entries, race, names, stage) for race, names in active.items()):
                return cut
            ranked = {race: self._ranked(names, race) for race, names in active.items()}
            longest = max(races, key=lambda race: len(ranked[race]), default="")
            if stage == 0 or len(ranked.get(longest, ())) < 2:
                return None
            last = ranked[longest][-1]
            cut[longest][last] = f"no room in the budget, {self.record.standing(longest, last)}"

    def _ranked(self, active: list[str], race: str) -> list[str]:
        """The selections of a race beside random rows, the best first."""
        contenders = self.plan.contenders(race)
        return [name for name in self.record.place(race) if name in active and not contenders[name].stays]

    def _needed(self, entries: Entries, race: str, active: list[str], stage: int) -> int:
        """The steps of a stage, and of those after it up to a verdict for one selection beside random rows."""
        plan, contenders = self.plan, self.plan.contenders(race)
        stays = [name for name in active if contenders[name].stays]
        one = [*stays, *(name for name in active if name not in stays)][: len(stays) + 1]
        enough = min(LEAST, len(plan.seeds))
        last = next(at for at, (share, seeds) in enumerate(plan.stages) if share == 1 and seeds >= enough)
        later = sum(steps_of(todo_of(plan, entries, one, race, at), at) for at in range(stage + 1, last + 1))
        return steps_of(todo_of(plan, entries, active, race, stage), stage) + later
