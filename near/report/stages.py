"""Plans: what each stage of a round took away, over the seeds of a selection."""

import statistics
from dataclasses import dataclass

from near.report.compare import Group
from near.report.runs import Run

NOTE = (
    "Rows that each stage of a round got and left, means over seeds. Orders leave all rows, and mixes all but those of "
    "sources without a share. (as before): the stage did not act; it kept its last result, or had not started. Weights "
    "are in the log of the training."
)
HEADS = ["selection", "round", "stage", "by", "rows before", "rows after", "taken away", "seconds"]


@dataclass(frozen=True)
class StageRow:
    """A stage in a round of a selection: rows before and after it, and its seconds, means over seeds."""

    selection: str
    round: int
    stage: str
    by: str
    acted: bool
    before: float
    after: float
    seconds: float

    @property
    def cells(self) -> list[str]:
        share = f"{1 - self.after / self.before:.0%}" if self.before else "-"
        stage = self.stage if self.acted else f"{self.stage} (as before)"
        rows = [f"{number:.1f}".removesuffix(".0") for number in (self.before, self.after)]
        return [self.selection, str(self.round), stage, self.by, *rows, share, f"{self.seconds:.2f}"]


def stage_rows(groups: list[Group]) -> list[StageRow]:
    """The stages of every round of every selection by a plan, in turn."""
    rows = []
    for group in groups:
        runs = [_stages(run) for run in group.runs.values()]
        for key, one in runs[0].items():
            same = [stages[key] for stages in runs if key in stages]
            mean = {
                name: statistics.mean(stage.get(name) or 0 for stage in same)
                for name in ("rows_before", "rows_after", "seconds")
            }
            described = (group.label, key[0], key[1], str(one.get("by")), any(stage.get("acted") for stage in same))
            rows.append(StageRow(*described, mean["rows_before"], mean["rows_after"], mean["seconds"]))
    return rows


def _stages(run: Run) -> dict[tuple[int, str, str], dict]:
    """The stages of a run by round, name and kind. (A filter may have the name of the draw that no stage names.)"""
    return {
        (line.round, str(stage.get("name")), str(stage.get("kind"))): stage
        for line in run.rounds
        for stage in line.stages or ()
    }


def table(rows: list[StageRow]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells."""
    return HEADS, [row.cells for row in rows]
