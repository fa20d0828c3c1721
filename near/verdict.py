"""The table that a comparison ends in: each selection beside random rows and the base, what is shown, and costs."""

import statistics

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from near.benchmarks import first
from near.compare import (
    BASELINE,
    NO_ANSWER,
    Group,
    at_equal_tokens,
    baseline_of,
    beside_base,
    beside_random,
    groups_of,
    no_answers,
)
from near.runs import Run

# Of 20,000 comparisons of nothing with nothing, the share whose interval over k seeds held zero where differences are
# skewed like an exponential; 95% where they are normal (bench/intervals.py, 2026-11-25).
SKEWED = {2: "91%", 3: "88%", 4: "88%", 5: "88%"}
WIDTH = 150  # columns of a table that goes into a file
VERDICT = 6  # columns of the first table
INTERVALS = (3, 5)  # columns that may be broken
HEADS = ("selection", "seeds", "target loss", f"less {BASELINE}'s", "shown", "at equal tokens", "less the base's")
COSTS = ("distinct rows", "tokens", "train s", "select s")


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each selection, the lowest loss first."""
    groups = groups_of(runs)
    sets = sorted({name for run in runs for name in run.metrics.get("more") or {}})
    graders = sorted({name for run in runs for name in run.metrics.get("scores") or {}})
    tasks = sorted({name for run in runs for name in run.metrics.get("lm_eval") or {} if name in _asked(run)})
    heads = [*HEADS, *graders, *tasks, *(f"{name} loss" for name in sets), *COSTS]
    cells = []
    for group in groups:
        other = baseline_of(group, groups)
        itself = other is None or other is group
        difference = None if itself else beside_random(group, other)
        equal = None if itself else at_equal_tokens(group, other)
        base = beside_base(group)
        losses = [run.metrics["target_loss"] for run in group.runs.values()]
        spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
        row = [group.label, str(len(losses)), f"{statistics.mean(losses):.4f}{spread}"]
        row += [difference.told(), difference.verdict] if difference else ["-", "-"]
        row += [equal.told() if equal else "-", f"{base.mean:+.4f} ({base.verdict})" if base else "-"]
        row += [_score(group, name) for name in graders] + [_benchmark(group, name) for name in tasks]
        row += [_more(group, name) for name in sets]
        row += [_number(group.mean(lambda r, k=k: r.training.get(k)), 0) for k in ("distinct_rows", "tokens_trained")]
        row += [_number(group.mean(of), 1) for of in (lambda r: r.training.get("train_seconds"), lambda r: r.selecting)]
        cells.append(row)
    return heads, cells


def _score(group: Group, name: str) -> str:
    """A grader's mean, and how many answers of all seeds held nothing to grade; older runs do not say."""
    scores = [(run.metrics.get("scores") or {}).get(name) or {} for run in group.runs.values()]
    mean = group.mean(lambda r: ((r.metrics.get("scores") or {}).get(name) or {}).get("mean"))
    if mean is None:
        return "-"
    nothing = sum(score.get("no_answer") or 0 for score in scores)
    of = sum(score.get("graded") or 0 for score in scores)
    return f"{mean:.3f}" + no_answers(nothing, of)


def _asked(run: Run) -> list[str]:
    """The benchmarks that were asked for, without a group's own tasks."""
    return ((run.metrics.get("evaluation") or {}).get("lm_eval") or {}).get("tasks") or []


def _benchmark(group: Group, name: str) -> str:
    """A benchmark's first metric, and what training changed of it."""
    value = group.mean(lambda r: first((r.metrics.get("lm_eval") or {}).get(name) or {}))
    base = group.mean(lambda r: first(((r.metrics.get("base") or {}).get("lm_eval") or {}).get(name) or {}))
    return "-" if value is None else f"{value:.3f}" + ("" if base is None else f" ({value - base:+.3f})")


def _more(group: Group, name: str) -> str:
    """The loss on a further set, and what training changed of it."""
    loss = group.mean(lambda r: ((r.metrics.get("more") or {}).get(name) or {}).get("target_loss"))
    base = group.mean(lambda r: (((r.metrics.get("base") or {}).get("more") or {}).get(name) or {}).get("target_loss"))
    return "-" if loss is None else f"{loss:.4f}" + ("" if base is None else f" ({loss - base:+.4f})")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def notes(runs: list[Run]) -> list[str]:
    """How the table is to be read."""
    groups = groups_of(runs)
    found = []
    if not any(g.one.selector == BASELINE for g in groups):
        found.append(f"No random selection is among these: add selector={BASELINE} to see what choosing was worth.")
    seeds = min((len(g.runs) for g in groups), default=0)
    if seeds == 1:
        found.append("One seed: differences are over its examples alone, and may be that seed's.")
    elif seeds in SKEWED:
        found.append(
            f"{seeds} seeds: the 95% interval over seeds holds the true difference in 95% of cases where differences "
            f"between seeds are normal, and in {SKEWED[seeds]} where they are as skewed as an exponential."
        )
    scores = [score for run in runs for score in (run.metrics.get("scores") or {}).values()]
    if any(score.get("no_answer") for score in scores):
        found.append(
            f"{NO_ANSWER}: the answer held nothing that the grader compares, such as a number; it counts as wrong, and "
            "may have failed by its form alone."
        )
    for run in runs:
        if twin := run.metrics.get("same_rows_as"):
            found.append(f"{run.folder.name}: same rows as {twin}.")
    return found


def show(runs: list[Run]) -> None:
    """Print the comparison in the terminal: first what is shown, then what it took and cost elsewhere."""
    heads, cells = table(runs)
    if not cells:
        return
    console = Console(highlight=False, emoji=False)
    console = console if console.is_terminal else Console(highlight=False, emoji=False, width=WIDTH)
    for columns in (range(VERDICT), (0, *range(VERDICT, len(heads)))):
        shown = Table(*(Column(heads[i], no_wrap=i not in INTERVALS) for i in columns), box=box.SIMPLE, pad_edge=False)
        for row in cells:
            shown.add_row(*(escape(row[i]) for i in columns))
        console.print(shown)
    for note in notes(runs):
        console.print(note, style="dim", markup=False, soft_wrap=True)
