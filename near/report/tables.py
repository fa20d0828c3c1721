"""The table of every run, for the terminal and the page, and the notes under it."""

from pathlib import Path

from near.common.text import plural, shortened
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
    first = [run.selector, _dash(run.seed), name, shortened(run.model), f"{m.target_loss:.4f}", right + _no_answer(run)]
    distinct = _dash(t.distinct_rows)
    if run.picked not in (None, t.distinct_rows):
        distinct += f" ({run.picked} picked)"
    return [*first, distinct, _dash(t.train_seconds), _dash(run.selecting)]


def _no_answer(run: Run) -> str:
    """By grader, how many answers contained nothing to grade; older runs do not record it."""
    counts = {name: score.no_answer for name, score in run.metrics.scores.items()}
    parts = [f"{name} {count}" for name, count in counts.items() if count]
    return f" ({NO_ANSWER}: {', '.join(parts)})" if parts else ""


def _dash(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def run_table(runs: list[Run], root: Path) -> tuple[list[str], list[list[str]]]:
    """The table's columns and rows; the model is a column only where there are several, the kept round only where there
    are validation rows."""
    rows = [cells(run, root) for run in runs]
    at = COLUMNS.index("model")
    columns = [i for i in range(len(COLUMNS)) if i != at or len({row[at] for row in rows}) > 1]
    names, rows = [COLUMNS[i] for i in columns], [[row[i] for i in columns] for row in rows]
    if all(run.kept_round is None for run in runs):
        return names, rows
    return [*names, "kept round"], [[*row, _dash(run.kept_round)] for row, run in zip(rows, runs, strict=True)]


def notes(runs: list[Run], unfinished: list[Standing]) -> list[str]:
    """The notes under the table of runs."""
    lines = []
    if any(r.metrics.selection_saw_them for r in runs):
        lines.append(f"The rows were {SEEN}: the losses are not of unseen data.")
    if len({r.evaluated for r in runs}) > 1:
        lines.append("These runs were evaluated on different rows: only losses on the same rows can be compared.")
    if any(r.metrics.start is not None for r in runs):
        lines.append("start: the base model with the adapter that training went on from, which vs. base compares with.")
    lines += _validation(runs)
    models = {r.model for r in runs}
    if len(models) == 1:
        lines.insert(0, f"Model: {models.pop()}.")
    return lines + [f"{s.name}: {s.description}." for s in unfinished]


def _validation(runs: list[Run]) -> list[str]:
    """That validation rows chose rounds, and what ending early saved."""
    lines, known = [], [(run, run.training.validation) for run in runs if run.training.validation is not None]
    if not known:
        return lines
    counts = "/".join(map(str, sorted({len(one.rows) for _, one in known})))
    lines.append(
        f"Kept rounds: chosen or measured on {counts} validation rows of data.eval, which are not reported; the "
        "reported rows had no part in it (trainer.keep)."
    )
    if ended := [one for _, one in known if one.saved_steps]:
        steps, planned = sum(one.saved_steps for one in ended), sum(one.steps for one in ended)
        tokens, seconds = (sum(getattr(one, name) or 0 for one in ended) for name in ("saved_tokens", "saved_seconds"))
        lines.append(
            f"{plural(len(ended), 'run')} ended early (trainer.patience): {steps:,} of {planned:,} steps saved, about "
            f"{tokens:,} tokens and {seconds:,.0f} s."
        )
    return lines
