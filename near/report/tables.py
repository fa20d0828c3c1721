"""Every run as a row of a table, for the terminal and the page, and what a reader of it must know."""

from pathlib import Path

from near.evaluation.graders.base import NO_ANSWER
from near.report.runs import Run
from near.report.standing import Standing

COLUMNS = (
    "selector",
    "seed",
    "run",
    "model",
    "target loss",
    "answers right",
    "distinct rows",
    "training (s)",
    "selection (s)",
)
SEEN = "evaluated on the queries, which selection saw"


def cells(run: Run, root: Path) -> list[str]:
    """A run's row of the table."""
    m, t = run.metrics, run.training
    right = "-" if m.answers_right is None else f"{m.answers_right}/{m.rows}"
    name = "-" if run.folder is None else str(run.folder.relative_to(root))
    found = [run.selector, _dash(run.seed), name, run.model, f"{m.target_loss:.4f}", right + _no_answer(run)]
    distinct = _dash(t.distinct_rows)
    if run.picked not in (None, t.distinct_rows):
        distinct += f" ({run.picked} picked)"
    return [*found, distinct, _dash(t.train_seconds), _dash(run.selecting)]


def _no_answer(run: Run) -> str:
    """By grader, how many answers held nothing to grade; older runs do not say."""
    counts = {name: score.no_answer for name, score in run.metrics.scores.items()}
    found = [f"{name} {count}" for name, count in counts.items() if count]
    return f" ({NO_ANSWER}: {', '.join(found)})" if found else ""


def _dash(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def shown(runs: list[Run], root: Path) -> tuple[list[str], list[list[str]]]:
    """The table's columns and rows; the model is a column only where there are several."""
    rows = [cells(run, root) for run in runs]
    at = COLUMNS.index("model")
    keep = [i for i in range(len(COLUMNS)) if i != at or len({row[at] for row in rows}) > 1]
    return [COLUMNS[i] for i in keep], [[row[i] for i in keep] for row in rows]


def notes(runs: list[Run], unfinished: list[Standing]) -> list[str]:
    """What a reader of the table must know."""
    found = []
    if any(r.metrics.selection_saw_them for r in runs):
        found.append(f"The rows were {SEEN}: the losses are not of unseen data.")
    if len({r.evaluated for r in runs}) > 1:
        found.append("These runs were evaluated on different rows: their losses can't be compared.")
    models = {r.model for r in runs}
    if len(models) == 1:
        found.insert(0, f"Model: {models.pop()}.")
    return found + [f"{s.name}: {s.told}." for s in unfinished]
