"""Races on made losses, and on those of a finished sweep: are verdicts right, is the winner the sweep's, at what cost?

    python bench/race.py [runs=runs/targets stages=0.25:2,0.5:2,1:2,1:3 alpha=0.05 margin=0.0 steps=0.34 times=2000
        without=queries only=verdict|replay]

`only=verdict`: `times` races of six selections, one of them random rows. Losses are means by seed, example and both, as
in bench/intervals.py; random rows differ twice as much between seeds; losses of earlier stages correlate with those at
the end by 0.8. Without a true difference: in how many races any selection is called better than random rows, how often
each is, and the same in the sweep of three seeds. In a quarter as many races, with one selection below the others by
what the sweep shows in 80% of cases: how often it is shown, how often it is stopped by mistake, and the share of the
steps. With five seeds, a race may end at three looks.

`only=replay`: the race of near/app/race.py, whose jobs take the files of the runs below `runs` in place of training. Of
a stage before the end, the selections are compared whose runs recorded their losses there (stopped/; a race with
race.alpha=1e-9 stops nobody and records all). steps: the race's budget. For each target the winner of the whole sweep
and of the race, and the share of the steps; then the same without the selection that won most often, and so on.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import logging
import tempfile
from collections.abc import Callable

import numpy as np
from omegaconf import DictConfig, OmegaConf

from bench import common
from bench.intervals import SHAPES, SPREADS
from near.app.race import race
from near.common.errors import UserError
from near.common.files import link
from near.common.run_folder import ANSWERS, METRICS, STOPPED, RunFolder
from near.evaluation.design import Design
from near.evaluation.intervals import over_pairs, over_seeds
from near.evaluation.racing import LEAST, gaps, leader_of, level_of, level_of_verdict
from near.report.compare import BASELINE, Difference, groups_of
from near.report.races import RaceRecord
from near.report.runs import Run, collect
from near.report.targets import TargetRuns, targets_of
from near.training.rounds.schedule import Schedule

Stages = list[tuple[float, int]]
Losses = dict[str, list[np.ndarray]]  # of each selection and stage, summed losses by seed and example
EXAMPLES, EARLIER, RESAMPLES = 32, 0.8, 300


def raced(
    losses: Losses, weights: np.ndarray, stages: Stages, alpha: float, margin: float = 0.0, resamples: int = RESAMPLES
) -> tuple[list[str], dict[str, int], int]:
    """The selections that are left (random rows among them), the stage after which each of the others stopped, and the
    number of stages until the race is over."""
    active, out = list(losses), {}
    level = level_of(alpha, len(stages), len(losses) - 1)
    for at, (share, seeds) in enumerate(stages):
        sums = {name: losses[name][at][:seeds] for name in active}
        behind = gaps(sums, weights, level, frozenset({BASELINE}), resamples)
        for name, gap in behind.items():
            if name != BASELINE and gap.behind(margin):
                active.remove(name)
                out[name] = at
        left = [name for name in active if name != BASELINE]
        if not left:
            return active, out, at + 1
        if len(left) == 1 and share == 1 and seeds >= LEAST and at + 1 < len(stages):
            end = losses[left[0]][at][:seeds], losses[BASELINE][at][:seeds]
            if verdict(*end, weights, verdict_level(stages), resamples) in ("better", "worse"):
                return active, out, at + 1
    return active, out, len(stages)


def verdict_level(stages: Stages) -> float:
    return level_of_verdict(sum(share == 1 and seeds >= LEAST for share, seeds in stages))


def verdict(first: np.ndarray, second: np.ndarray, weights: np.ndarray, level: float, resamples: int) -> str:
    """Of two selections' summed losses, (n_seeds, n_examples)."""
    sums = first - second
    values = sums.sum(axis=1) / weights.sum()
    over = over_pairs(sums.mean(axis=0), weights, 0, resamples, level)
    return Difference(float(values.mean()), over_seeds(values, level), over, len(values)).verdict


def steps(losses: Losses, out: dict[str, int], ended: int, stages: Stages, schedule: Schedule) -> tuple[int, int]:
    """Optimizer steps of a race, and of the whole sweep of LEAST seeds."""
    first, total = schedule.warmup_step, 0
    stops = [first + max(1, round(share * (schedule.total - first))) for share, _ in stages]
    for name in losses:
        last = min(out.get(name, ended - 1), ended - 1)
        seeds_at = [0] * stages[last][1]
        for at in range(last + 1):
            for seed in range(stages[at][1]):
                seeds_at[seed] = stops[at]
        total += sum(seeds_at)
    return total, len(losses) * min(LEAST, stages[-1][1]) * schedule.total


def made(
    rng: np.random.Generator,
    means: dict[str, float],
    stages: Stages,
    spreads: tuple[float, float, float],
    shape: Callable[[np.random.Generator, int], np.ndarray],
) -> Losses:
    """Losses of a race. spreads: standard deviations by seed, by example and by both. shape: of the seeds' effects of
    random rows, with a standard deviation of 1."""
    seeds, (by_seed, by_example, by_both) = stages[-1][1], spreads
    losses = {}
    for name, mean in means.items():
        end: list[np.ndarray] = []
        for share in sorted({share for share, _ in stages}, reverse=True):
            seed = 2 * shape(rng, seeds) if name == BASELINE else rng.normal(size=seeds)
            this = by_seed * seed[:, None] + by_example * rng.normal(size=EXAMPLES)
            this = this + by_both * rng.normal(size=(seeds, EXAMPLES))
            this = this if not end else EARLIER * end[0] + (1 - EARLIER**2) ** 0.5 * this
            end.append(this)
            losses[name, share] = this + mean
    return {name: [losses[name, share] for share, _ in stages] for name in means}


def print_verdicts(stages: Stages, alpha: float, times: int) -> None:
    weights, sweep = np.ones(EXAMPLES), [(1.0, LEAST)]
    schedule = Schedule(0, 100, 1)
    print(f"{times} races of {NAMES}; a sweep has {LEAST} seeds")
    for what, spreads in SPREADS.items():
        spreads = tuple(0.3 * spread for spread in spreads)
        for kind in ("normal", "skewed"):
            for plan in (stages, [*stages, (1.0, 4), (1.0, 5)]):
                print(_verdicts(what, spreads, kind, plan, sweep, weights, schedule, alpha, times), flush=True)


NAMES = ["a", "b", "c", "d", "e", BASELINE]


def _verdicts(what, spreads, kind, stages, sweep, weights, schedule, alpha, times) -> str:
    by_seed, by_example, by_both = (spread**2 for spread in spreads)
    design = Design(LEAST, EXAMPLES, 5 * by_seed / LEAST, 2 * by_example / EXAMPLES, 2 * by_both / EXAMPLES / LEAST)
    effect, level = design.smallest(), verdict_level(stages)
    counts = dict.fromkeys(
        ("race", "sweep", "race each", "sweep each", "shown", "sweep shows", "dropped", "steps"), 0.0
    )
    for better in (False, True):
        means = dict.fromkeys(NAMES, 0.0) | ({"a": -effect} if better else {})
        for seed in range(times // 4 if better else times):
            rng = np.random.default_rng((5, seed, better))
            losses = made(rng, means, stages, spreads, SHAPES[kind])
            active, out, ended = raced(losses, weights, stages, alpha)
            at, seeds = ended - 1, stages[ended - 1][1]
            end = {name: losses[name][at][:seeds] for name in active}
            whole = {name: losses[name][-1][:LEAST] for name in losses}
            called = _called(end, weights, level)
            fixed = _called(whole, weights, level_of_verdict(1))
            if better:
                counts["shown"] += "a" in called
                counts["sweep shows"] += "a" in fixed
                counts["dropped"] += "a" in out
                counts["steps"] += np.divide(*steps(losses, out, ended, stages, schedule))
            else:
                counts["race"] += bool(called)
                counts["sweep"] += bool(fixed)
                counts["race each"] += len(called) / (len(NAMES) - 1)
                counts["sweep each"] += len(fixed) / (len(NAMES) - 1)
    of_effect = ("shown", "sweep shows", "dropped", "steps")
    share = {name: f"{count / (times // 4 if name in of_effect else times):.1%}" for name, count in counts.items()}
    return (
        f"{what} differ most, random rows {kind}, up to {stages[-1][1]} seeds: false better in {share['race']} of "
        f"races ({share['race each']} of selections), in {share['sweep']} of sweeps ({share['sweep each']}); the best "
        f"of {effect:.3f} shown in {share['shown']} (sweep {share['sweep shows']}), stopped by mistake in "
        f"{share['dropped']}, steps {share['steps']} of the sweep's"
    )


def _called(sums: dict[str, np.ndarray], weights: np.ndarray, level: float) -> list[str]:
    """The selections that are called better than random rows."""
    return [
        name
        for name in sums
        if name != BASELINE and verdict(sums[name], sums[BASELINE], weights, level, RESAMPLES) == "better"
    ]


def print_replay(runs: str, options: dict, without: list[str]) -> None:
    targets = targets_of(groups_of(collect(Path(runs))[0])).targets
    if not targets:
        raise UserError(f"runs={runs} has no runs on several targets; train sweeps=targets first")
    while not any(len(_runs(target, without)) < 3 for target in targets):
        print(f"\nwithout {', '.join(without)}" if without else "\nall selections")
        best = [_winner(target, without) for target in targets]
        with tempfile.TemporaryDirectory() as folder:
            _replay(Path(folder), targets, best, options, without)
        without = [*without, max(sorted(set(best)), key=best.count)]


def _runs(target: TargetRuns, without: list[str]) -> dict[str, list[Run]]:
    """The first LEAST runs of every selection, by seed."""
    runs = {name: [run for _, run in sorted(of.runs.items())][:LEAST] for name, of in target.groups.items()}
    return {name: of for name, of in runs.items() if name not in without and len(of) == LEAST}


def _winner(target: TargetRuns, without: list[str]) -> str:
    return leader_of({name: np.stack([run.examples.sums for run in of]) for name, of in _runs(target, without).items()})


def _replay(folder: Path, targets: list[TargetRuns], best: list[str], options: dict, without: list[str]) -> None:
    """Run the race whose jobs take the files of finished runs in place of training."""
    known = {
        _words(target.label, name, seed): run
        for target in targets
        for name, of in _runs(target, without).items()
        for seed, run in enumerate(of)
    }

    def compose(words: list[str]) -> tuple[DictConfig, str]:
        return known[tuple(words)].files.config(), "_".join(words).replace("/", "-")

    def launch(jobs: list[list[str]], first: int) -> list[None]:
        for words in jobs:
            stop = int(words[-1].partition("=")[2]) if words[-1].startswith("stop_at=") else None
            source = known[tuple(words[:3])].files
            target = RunFolder(folder / compose(words[:3])[1])
            names = (METRICS, ANSWERS) if stop is None else (f"{STOPPED}/{stop}.jsonl",)
            for name in names:
                if (source / name).is_file():
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    link(source / name, target / name)
        return [None] * len(jobs)

    logging.getLogger("near").setLevel(logging.ERROR)
    race(OmegaConf.create(options), folder, [list(words) for words in known], compose, launch)
    record = RaceRecord.read(folder)
    same = alike = 0
    for target, winner in zip(targets, best, strict=True):
        name = target.label if len(targets) > 1 else ""
        won, runs = record.place(name)[0], _runs(target, without)
        sums = np.stack([a.examples.sums - b.examples.sums for a, b in zip(runs[won], runs[winner], strict=True)])
        weights = runs[won][0].examples.tokens
        values = sums.sum(axis=1) / weights.sum()
        same, shown = same + (won == winner), Design.of(values, sums, weights).smallest()
        alike += won == winner or float(values.mean()) <= shown
        places = ", ".join(f"{one} ({stage})" for one, (stage, _) in record.stopped(name).items())
        behind = "" if won == winner else f", {values.mean():+.4f} ({shown:.4f} would be shown)"
        print(f"{target.label:12} sweep {winner}, race {won}{behind}; stopped after stage: {places or '-'}")
    spent = sum(look.steps for look in record.looks)
    print(
        f"the same winner in {same} of {len(targets)} targets, that or one that can't be told from it in {alike}; "
        f"{spent / record.plan.steps:.0%} of the sweep's steps{f'; {record.undone}' if record.undone else ''}",
        flush=True,
    )


def _words(target: str, name: str, seed: int) -> tuple[str, ...]:
    return f"data.target={target}", f"selector={name}", f"seed={seed}"


def main(
    runs: str = "runs/targets",
    stages: list[str] = ("0.25:2", "0.5:2", "1:2", "1:3"),
    alpha: str = "0.05",
    margin: str = "0",
    steps: str = "1",
    times: int = 2000,
    without: list[str] = (),
    only: str | None = None,
) -> None:
    plan = [(float(share), int(seeds)) for share, seeds in (stage.split(":") for stage in stages)]
    if only in (None, "verdict"):
        print_verdicts(plan, float(alpha), times)
    if only in (None, "replay"):
        options = {"stages": plan, "alpha": float(alpha), "margin": float(margin), "seconds": None}
        options["steps"] = float(steps) if float(steps) != 1 else None
        print_replay(runs, options, list(without))


if __name__ == "__main__":
    common.script(main)
