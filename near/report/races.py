"""race.jsonl of a sweep's folder: the plan of a race, what each look decided, and each contender's place."""

import contextlib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from near.common.errors import UserError
from near.common.files import read_jsonl
from near.common.schema import JsonRecord, container
from near.common.text import plural
from near.evaluation.racing import LEAST, level_of_verdict
from near.report.runs import Run

FILE = "race.jsonl"
HEADS = ("race", "place", "selection", "seeds", "steps", "state")


def shown_gap(mean: float, interval: Sequence[float | None] | None) -> str:
    """`+0.0500 [+0.0100, +0.0900]`"""
    known = interval is not None and None not in interval
    return f"{mean:+.4f}" + (f" [{interval[0]:+.4f}, {interval[1]:+.4f}]" if known and interval else "")


@dataclass(frozen=True, kw_only=True)
class Contender(JsonRecord):
    """A selection in a race.

    Args:
        folders: of its runs, one for each seed of the plan.
        stops: the optimizer steps of each stage; the last is the whole run.
        stays: random rows, which are not stopped.
    """

    folders: list[str] = container(list, default_factory=list)
    stops: list[int] = container(list, default_factory=list)
    stays: bool = False


@dataclass(frozen=True, kw_only=True)
class RacePlan(JsonRecord):
    """The first line of race.jsonl.

    Args:
        alpha, margin: options of the race.
        stages: of each its share of the steps after the warm-up, and its number of seeds.
        seeds: as swept.
        steps: optimizer steps of all runs; a warm-up that several share counts once.
        races: by name (the swept options of `data`; empty without any), the contenders by name.
    """

    schema_version: int = 1
    alpha: float
    margin: float
    stages: list[list[float]] = container(list, default_factory=list)
    seeds: list[str] = container(list, default_factory=list)
    races: dict[str, dict[str, Any]] = container(dict, default_factory=dict)
    steps: int = 0

    def contenders(self, race: str) -> dict[str, Contender]:
        return {name: Contender.from_json(one, FILE) for name, one in self.races[race].items()}

    def is_whole(self, stage: int) -> bool:
        """Whether a stage, from 0, trains to the end."""
        return self.stages[stage][0] == 1

    @property
    def level(self) -> float:
        """The coverage of intervals for verdicts: of several looks with LEAST complete seeds each may end the race."""
        return level_of_verdict(sum(share == 1 and seeds >= LEAST for share, seeds in self.stages))


@dataclass(frozen=True, kw_only=True)
class Look(JsonRecord):
    """A further line: what was decided on one race after a stage.

    Args:
        race, stage: the stage from 1.
        leader: the lowest loss; None if nothing was compared.
        losses: of each contender that was compared, its mean target loss at the stage's step.
        gaps: of all but the leader, how much higher it is, and its interval (null with one seed).
        stopped: why, by contender.
        cut: those that were left out of this stage, as the budget had no room for them.
        over: why the race is over; None if it goes on.
        steps, seconds: that the stage took, by plan; shared warm-ups count once.
    """

    race: str
    stage: int
    leader: str | None = None
    losses: dict[str, float] = container(dict, default_factory=dict)
    gaps: dict[str, list[Any]] = container(dict, default_factory=dict)
    stopped: dict[str, str] = container(dict, default_factory=dict)
    cut: dict[str, str] = container(dict, default_factory=dict)
    over: str | None = None
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class RaceRecord:
    """A race.jsonl. undone: the last line, if a budget ended the race."""

    plan: RacePlan
    looks: list[Look]
    undone: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "RaceRecord | None":
        """None if the folder has none. UserError if it is damaged."""
        if not (path := folder / FILE).is_file():
            return None
        lines = read_jsonl(path, growing=True)
        if not lines:
            return None
        looks = [Look.from_json(line, path) for line in lines[1:] if "race" in line]
        return cls(RacePlan.from_json(lines[0], path), looks, lines[-1].get("undone"))

    def of(self, race: str) -> list[Look]:
        return [look for look in self.looks if look.race == race]

    def stopped(self, race: str) -> dict[str, tuple[int, str]]:
        """The stage after which each contender stopped, and why."""
        looks = self.of(race)
        cut = {name: (look.stage - 1, why) for look in looks for name, why in look.cut.items()}
        return cut | {name: (look.stage, why) for look in looks for name, why in look.stopped.items()}

    def standing(self, race: str, name: str) -> str:
        """How far a contender was from the leader when it was last compared."""
        for look in reversed(self.of(race)):
            if name in look.gaps:
                mean, *interval = look.gaps[name]
                return f"{shown_gap(mean, interval)} to {look.leader}, which is not surely better"
        return "not compared"

    def place(self, race: str) -> list[str]:
        """The contenders, the best first: by the last look that compared them."""
        places: list[str] = []
        for look in self.of(race):
            ranked = sorted(look.losses, key=lambda name: look.losses[name])
            here = [name for name in ranked if name not in look.stopped]
            places = [
                *here,
                *(name for name in ranked if name in look.stopped),
                *(p for p in places if p not in ranked),
            ]
        return [*places, *(name for name in self.plan.races[race] if name not in places)]

    def reached(self, race: str, name: str) -> tuple[int, int, int]:
        """Seeds, the step at which a contender is, and the steps of a whole run."""
        stops, stages = self.plan.contenders(race)[name].stops, self.plan.stages
        looks = [look.stage for look in self.of(race)]
        last = self.stopped(race).get(name, (max(looks, default=0), ""))[0]
        return (int(stages[last - 1][1]), stops[last - 1], stops[-1]) if last else (0, 0, stops[-1])

    def state(self, race: str, name: str) -> str:
        """What came of a contender, in words."""
        if (found := self.stopped(race).get(name)) is not None:
            seeds, step, steps = self.reached(race, name)
            return f"stopped after stage {found[0]} (step {step} of {steps}, {plural(seeds, 'seed')}): {found[1]}"
        looks = self.of(race)
        if looks and looks[-1].over:
            return "the lowest loss at the end" if self.place(race)[0] == name else "at the end"
        return f"not decided: {self.undone}" if self.undone else "goes on"


@functools.lru_cache(64)
def _read(folder: Path, changed: int) -> RaceRecord | None:
    with contextlib.suppress(UserError):
        return RaceRecord.read(folder)
    return None


def record_of(folder: Path) -> RaceRecord | None:
    """The race of a sweep's folder; None without one, or if its file is damaged."""
    path = folder / FILE
    return _read(folder, path.stat().st_mtime_ns) if path.is_file() else None


def contender_of(run: Path) -> tuple[RaceRecord, str, str] | None:
    """The record, the race and the contender of a run's folder; None outside a race."""
    if (record := record_of(run.parent)) is not None:
        for race in record.plan.races:
            for name, one in record.plan.contenders(race).items():
                if run.name in one.folders:
                    return record, race, name
    return None


def level_of_run(run: Path | None) -> float:
    """The coverage of a run's intervals beside others of its sweep."""
    record = None if run is None else record_of(run.parent)
    return level_of_verdict(1) if record is None else record.plan.level


def stopped(run: Path) -> str | None:
    """Why a run of a race was stopped; None if it was not."""
    if (found := contender_of(run)) is None or found[2] not in found[0].stopped(found[1]):
        return None
    return found[0].state(*found[1:])


def stopped_on(runs: Iterable[Path | None]) -> int:
    """In how many races the contenders that these runs belong to were stopped."""
    found = {(id(one[0]), one[2]): one for run in runs if run is not None and (one := contender_of(run)) is not None}
    return sum(name in record.stopped(race) for record, _, name in found.values() for race in record.plan.races)


def records_of(runs: list[Run]) -> list[RaceRecord]:
    """The races that runs belong to."""
    folders = dict.fromkeys(run.folder.parent for run in runs if run.folder is not None)
    return [record for folder in folders if (record := record_of(folder)) is not None]


def table(records: list[RaceRecord]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each contender, by place."""
    cells = []
    for record in records:
        for race in record.plan.races:
            for place, name in enumerate(record.place(race), 1):
                seeds, step, steps = record.reached(race, name)
                cells.append(
                    [race or "-", str(place), name, str(seeds), f"{step} of {steps}", record.state(race, name)]
                )
    return list(HEADS), cells


def notes(records: list[RaceRecord]) -> list[str]:
    """How to read the table, what it cost, and what was left undone."""
    lines = []
    for record in records:
        steps, seconds = (sum(getattr(look, name) for look in record.looks) for name in ("steps", "seconds"))
        whole = record.plan.steps
        lines.append(
            f"Race: {steps:,} of the {whole:,} steps of all runs ({steps / whole:.0%}), {seconds:,.0f} s. A selection "
            "that stopped was surely behind the leader: its interval over examples and seeds, corrected for "
            f"{plural(len(record.plan.stages), 'look')} and all comparisons, was above zero, at equal steps and seeds. "
            "Its loss there is in no other table."
        )
        if record.plan.level > level_of_verdict(1):
            lines.append(
                f"Intervals of the race's verdicts are {record.plan.level:.1%} ones, since several looks may end it: "
                "all of them together hold with 95%."
            )
        if record.undone:
            lines.append(f"Left undone: {record.undone}.")
    return lines
