"""What a command would take (`dry_run=true`): a table, and dry_run.json beside the results to come."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from near.common.disk import existing
from near.common.files import provenance
from near.common.outputs import claim
from near.common.records import Provenance
from near.common.run_folder import DRY_RUN
from near.common.schema import JsonRecord, container, only_if_set

log = logging.getLogger(__name__)

HOUR = 3600.0
HEADS = ("stage", "rows", "tokens", "time", "from", "to", "peak memory", "disk", "")


@dataclass(frozen=True, kw_only=True)
class StageCost(JsonRecord):
    """A part of a command's work.

    Args:
        rows, tokens: that it computes, counting repeats; None if they are unknown or say nothing.
        seconds, low, high: estimated, with a range; None if they are not estimated.
        memory: bytes at its peak, of the accelerator if the work is there, else of the process; None if unknown.
        disk: bytes that it writes and keeps.
        note: for people.
        key: equal for the same work in two jobs of a sweep, which is done once; None: each job does it.
    """

    rows: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    memory: int | None = None
    disk: int | None = 0
    note: str = ""
    key: str | None = only_if_set()

    @classmethod
    def whole(cls, seconds: float, **others: Any) -> "StageCost":
        """A stage of `seconds` that were measured whole."""
        return cls(seconds=seconds, low=seconds, high=seconds, **others)


@dataclass(frozen=True, kw_only=True)
class Cost(Provenance):
    """dry_run.json: what a command would take.

    Args:
        script: train or select; "sweep" for the sum over jobs.
        timed: whether work was timed (dry_run=true); False: only counted (dry_run=count).
        done: it has finished already and takes nothing.
        processes: that share the work.
        stages: by name, in order.
        seconds, low, high, memory, disk: of all stages; seconds are None if those of one are.
        shortlist: what a shortlist of `rows` rows would take (`seconds`, `saved`); None if there is nothing to save.
        downloads: what would be downloaded first.
        not_counted: parts of the work that are in no stage.
        training_key: equal for jobs of a sweep that train the same rows, of which one is trained; None if unknown.
        overrides, number: of a sweep's job.
        jobs: of a sweep: the seconds of each, and what it shares.
    """

    schema_version: int = 1
    script: str
    timed: bool
    done: bool = False
    processes: int = 1
    stages: dict[str, StageCost] = container(StageCost, each=True, default_factory=dict)
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    memory: int | None = None
    disk: int = 0
    shortlist: dict[str, Any] | None = container(dict, default=None)
    downloads: list[str] = container(list, default_factory=list)
    not_counted: list[str] = container(list, default_factory=list)
    training_key: str | None = only_if_set()
    overrides: list[str] = container(list, default_factory=list)
    number: int | None = only_if_set()
    jobs: list[dict[str, Any]] = container(list, default_factory=list)

    def summed(self) -> "Cost":
        """With the sums over its stages."""
        stages = list(self.stages.values())
        memory = [stage.memory for stage in stages if stage.memory is not None]
        sums = {name: _sum(getattr(stage, name) for stage in stages) for name in ("seconds", "low", "high")}
        disk = sum(stage.disk or 0 for stage in stages)
        return replace(self, **sums, memory=max(memory, default=None), disk=disk)

    def report(self, folder: Path) -> "Cost":
        """Print the table, and write dry_run.json into `folder`; returns it with its sums."""
        from near.common.tables import console, table

        cost = replace(self.summed(), **provenance())
        if not cost.done:
            console().print(table(HEADS, cost.rows(), breaking=(8,)))
        claim(folder, cost.script, (DRY_RUN,))
        cost.write(folder / DRY_RUN)
        return cost

    def log(self, folder: Path) -> None:
        """Log what the table has no place for. `folder`: on the disk that is written."""
        for download in self.downloads:
            log.info(f"to download first: {download}; nothing is timed that needs it")
        if self.not_counted:
            log.info(f"not counted: {'; '.join(self.not_counted)}")
        if (few := self.shortlist) is not None:
            log.info(
                f"{few['option']}: {duration(few['seconds'])} of scoring for {few['rows']} of {few['of']} rows, "
                f"{duration(few['saved'])} less"
            )
        free = free_disk(folder)
        short = "" if self.disk < free else f"; that is too little, free {size(self.disk - free)}"
        log.info(f"disk: {size(self.disk)} of {size(free)} free{short}")

    def rows(self) -> list[Sequence[str]]:
        """The cells of the table, the sum last."""
        cells = [_cells(name, stage) for name, stage in self.stages.items()]
        total = StageCost(seconds=self.seconds, low=self.low, high=self.high, memory=self.memory, disk=self.disk)
        return [*cells, _cells("all", total)]


def _cells(name: str, stage: StageCost) -> Sequence[str]:
    def shown(value: float | None, how) -> str:
        return "-" if value is None else how(value)

    times = (shown(value, duration) for value in (stage.seconds, stage.low, stage.high))
    counts = (shown(value, "{:,}".format) for value in (stage.rows, stage.tokens))
    return (name, *counts, *times, shown(stage.memory, size), shown(stage.disk, size), stage.note)


def _sum(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else sum(values)


def free_disk(path: str | Path) -> int:
    """Free bytes on the disk of `path`, which may be still to be made."""
    return shutil.disk_usage(existing(Path(path).expanduser().resolve())).free


def size(count: float) -> str:
    """Bytes for people.

    >>> size(999), size(1500), size(2_345_678)
    ('999 bytes', '2 kB', '2.3 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("bytes", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(0.04), duration(119), duration(600), duration(9000)
    ('0.0 s', '119 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"
