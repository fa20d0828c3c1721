"""hydra/sweeper=race: the jobs of a sweep in stages; selections that are surely behind stop, the others go on.

Every value of the swept options of `data` is a race of its own, since another target has another winner; all races go
through a stage together. A run goes on from its checkpoint (stop_at), so that one that reaches the end is that of the
sweep without a race. race.jsonl of the sweep's folder has every decision, and a race that was killed goes on after the
last one.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.app.race_plan import Compose, RaceBudget, RaceJob, Words, active_in, planned, steps_of, todo_of
from near.common.config import differences
from near.common.errors import UserError, one_line
from near.common.files import append_jsonl, write_jsonl
from near.common.run_folder import RunFolder
from near.common.text import plural
from near.evaluation.racing import gaps, leader_of, level_of
from near.report.compare import LEAST, Group, beside_random
from near.report.races import FILE, Look, RacePlan, RaceRecord, shown_gap
from near.report.runs import Examples, Run, examples_of

log = logging.getLogger(__name__)

FAILED = "failed: "

Launch = Callable[[list[Words], int], list[Exception | None]]


def race(options: DictConfig, folder: Path, jobs: list[Words], compose: Compose, launch: Launch) -> list[Look]:
    """Run a race, or go on with one.

    Args:
        options: the configuration's `race`.
        folder: of the sweep.
        jobs: the overrides of all jobs of the sweep.
        compose: a job's overrides to its configuration, and to the name of its folder.
        launch: runs jobs; the error of each, None for those that are done.

    Raises:
        UserError: there is nothing to race, or the folder has another race.
    """
    plan, entries = planned(options, jobs, compose)
    record = _started(folder, plan)
    looks, number = list(record.looks), 0
    for stage in range(len(plan.stages)):
        decided = {look.race for look in looks if look.stage == stage + 1}
        going = [name for name in plan.races if name not in decided and not _is_over(looks, name)]
        budget = RaceBudget(options, plan, looks)
        cut = budget.cut(entries, going, stage)
        if cut is None:
            undone = f"{budget} leaves no room for the next stage: {_left(plan, looks, stage)}"
            append_jsonl(folder / FILE, {"undone": undone})
            log.info(f"race: {undone}")
            return looks
        todo = {name: todo_of(plan, entries, active_in(plan, looks, name, cut), name, stage) for name in going}
        steps = {name: steps_of(of, stage) for name, of in todo.items()}
        batch = [job for of in todo.values() for job, _ in of if not _is_there(folder, job, stage)]
        started = time.perf_counter()
        errors = launch([_launched(job, stage) for job in batch], number) if batch else []
        seconds, number = time.perf_counter() - started, number + len(batch)
        failed = {job.folder: one_line(e) for job, e in zip(batch, errors, strict=True) if e is not None}
        for name in going:
            look = looked(plan, folder, looks, name, stage, cut[name], failed)
            share = steps[name] / max(1, sum(steps.values()))
            look = replace(look, steps=steps[name], seconds=round(seconds * share, 1))
            append_jsonl(folder / FILE, look.to_json())
            looks.append(look)
            for line in _lines(plan, look):
                log.info(line)
    return looks


def _started(folder: Path, plan: RacePlan) -> RaceRecord:
    """The race in the folder, begun now if there is none. UserError if it has another plan."""
    if (record := RaceRecord.read(folder)) is None:
        write_jsonl(folder / FILE, [plan.to_json()])
        return RaceRecord(plan, [])
    if differing := differences(record.plan.to_json(), plan.to_json()):
        raise UserError(f"{folder / FILE} is of another race ({differing[0]}); set another sweep_name")
    failed = [look.stage for look in record.looks if any(why.startswith(FAILED) for why in look.stopped.values())]
    looks = [look for look in record.looks if look.stage < min(failed, default=math.inf)]  # the others are tried again
    write_jsonl(folder / FILE, [line.to_json() for line in (plan, *looks)])  # without a line that was cut
    return RaceRecord(plan, looks)


def _is_over(looks: list[Look], race: str) -> bool:
    return any(look.over for look in looks if look.race == race)


def _left(plan: RacePlan, looks: list[Look], stage: int) -> str:
    """What is left undone from a stage on."""
    going = [race for race in plan.races if not _is_over(looks, race)]
    count = sum(len(active_in(plan, looks, race)) for race in going)
    return (
        f"{plural(len(plan.stages) - stage, 'stage')} of {len(plan.stages)} with {plural(count, 'selection')} in "
        f"{plural(len(going), 'race')} left undone"
    )


def _launched(job: RaceJob, stage: int) -> Words:
    stop = job.stops[stage]
    return [*job.words, f"stop_at={stop}"] if stop < job.stops[-1] else job.words


def _is_there(folder: Path, job: RaceJob, stage: int) -> bool:
    """Whether a stage that was killed had stopped the job already."""
    return job.stops[stage] < job.stops[-1] and RunFolder(folder / job.folder).stopped_file(job.stops[stage]).is_file()


def looked(
    plan: RacePlan, folder: Path, looks: list[Look], race: str, stage: int, cut: dict[str, str], failed: dict[str, str]
) -> Look:
    """What is decided after a stage. cut: who gave way before it. failed: the error lines of jobs, by folder."""
    contenders, seeds = plan.contenders(race), int(plan.stages[stage][1])
    found: dict[str, list[Examples]] = {}
    stopped = {}
    for name in active_in(plan, looks, race, {race: cut}):
        one = contenders[name]
        errors = [failed[run] for run in one.folders[:seeds] if run in failed]
        at = [_examples(RunFolder(folder / run), one.stops[stage], one.stops[-1]) for run in one.folders[:seeds]]
        if errors:
            stopped[name] = f"{FAILED}{errors[0]}"
        elif all(at):
            found[name] = at
    look = Look(race=race, stage=stage + 1, stopped=stopped, cut=cut)
    if found:
        sums, tokens = _stacked(found)
        looks_there, comparisons = len(plan.stages), len(contenders) - 1
        apart = frozenset(name for name in found if contenders[name].stays)
        behind = gaps(sums, tokens, level_of(plan.alpha, looks_there, comparisons), apart)
        leader = leader_of(sums)
        for name, gap in behind.items():
            if gap.behind(plan.margin) and not contenders[name].stays:
                stopped[name] = f"behind {leader} by {shown_gap(*gap)}"
        losses = {name: float(s.sum() / tokens.sum() / len(s)) for name, s in sums.items()}
        written = {name: [gap.mean, *(gap.interval or (None, None))] for name, gap in behind.items()}
        look = replace(look, leader=leader, losses=losses, gaps=written)
    return replace(look, over=_over(plan, folder, [*looks, look], race, stage))


def _examples(files: RunFolder, stop: int, total: int) -> Examples | None:
    """The losses at a stage's stop; None if they are unknown, as of a run that was complete before the race."""
    return examples_of(files.answers() if stop == total and files.is_evaluated else files.stopped(stop))


def _stacked(found: dict[str, list[Examples]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Summed losses of each contender, (n_seeds, n_examples), and the tokens, (n_examples,). UserError if contenders
    were evaluated on different rows or tokens."""
    every = [one for of in found.values() for one in of]
    if any(not np.array_equal(a, b) for one in every for a, b in zip(one[1:], every[0][1:], strict=True)):
        raise UserError(
            "a race compares the losses of the same rows and tokens, and these selections have different ones"
        )
    return {name: np.stack([one.sums for one in of]) for name, of in found.items()}, every[0].tokens


def _over(plan: RacePlan, folder: Path, looks: list[Look], race: str, stage: int) -> str | None:
    """Why a race is over; None if it goes on."""
    contenders, active = plan.contenders(race), active_in(plan, looks, race)
    left = [name for name in active if not contenders[name].stays]
    if len(active) == len(left):
        return "random rows failed"
    if not left:
        return "no selection is left beside random rows"
    if stage + 1 == len(plan.stages):
        return "all stages are done"
    seeds = int(plan.stages[stage][1])
    if len(left) == 1 and plan.is_whole(stage) and seeds >= LEAST:
        groups = [
            Group(name, {seed: Run.at(folder / run) for seed, run in enumerate(contenders[name].folders[:seeds])})
            for name in (left[0], next(name for name in active if contenders[name].stays))
        ]
        difference = beside_random(*groups)
        if difference is not None and difference.verdict in ("better", "worse"):
            return f"{left[0]} alone is left, and it is {difference.verdict}"
    return None


def _lines(plan: RacePlan, look: Look) -> list[str]:
    """A look for the log."""
    share, seeds = plan.stages[look.stage - 1]
    where = f"race{' of ' + look.race if look.race else ''}, stage {look.stage} of {len(plan.stages)}"
    head = f"{where} ({share:.0%} of the steps, {plural(int(seeds), 'seed')})"
    lines = [f"{head}: {look.leader or 'nobody'} leads" + (f"; over: {look.over}" if look.over else "")]
    return lines + [f"{where}: {name} stops, {why}" for name, why in {**look.cut, **look.stopped}.items()]
