"""The table that a comparison ends in: each selection beside random rows and the base, what is shown, and costs."""

import statistics

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from near.common.errors import visible
from near.common.records import ModelMetrics, Score
from near.evaluation.benchmarks import first
from near.evaluation.graders.base import NO_ANSWER, no_answers
from near.report.compare import (
    BASELINE,
    LEAST,
    NOTHING,
    TOO_FEW,
    Difference,
    Group,
    at_equal_tokens,
    baseline_of,
    beside_base,
    beside_random,
    groups_of,
)
from near.report.runs import Run

# Of 20,000 comparisons of nothing with nothing, the share whose interval over k seeds held zero where differences are
# skewed like an exponential; 95% where they are normal (bench/intervals.py, 2026-11-25).
SKEWED = {2: "91%", 3: "88%", 4: "88%", 5: "88%"}
WIDTH = 150  # columns of a table that goes into a file
VERDICT = 6  # columns of the first table
FEW = 3  # selections whose intervals are in the answer
BROKEN = 9  # columns of each further one
INTERVALS = (3, 6)  # columns that may be broken
HEADS = ("selection", "seeds", "target loss", f"vs. {BASELINE}", "verdict", "vs. base", "at equal tokens")
COSTS = ("distinct rows", "tokens", "training (s)", "selection (s)")


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each selection."""
    groups = groups_of(runs)
    sets = sorted({name for run in runs for name in run.metrics.more})
    graders = sorted({name for run in runs for name in run.metrics.scores})
    tasks = sorted({name for run in runs for name in run.metrics.lm_eval or {} if name in _asked(run)})
    heads = [*HEADS, *graders, *tasks, *(f"{name} loss" for name in sets), *COSTS]
    cells = []
    for group in groups:
        other = baseline_of(group, groups)
        itself = other is None or other is group
        difference = None if itself else beside_random(group, other)
        equal = None if itself else at_equal_tokens(group, other)
        base = beside_base(group)
        losses = [run.metrics.target_loss for run in group.runs.values()]
        spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
        row = [group.label, str(len(losses)), f"{statistics.mean(losses):.4f}{spread}"]
        row += [difference.told(), difference.verdict] if difference else ["-", "-"]
        row += [f"{base.mean:+.4f} ({base.verdict})" if base else "-", equal.told() if equal else "-"]
        row += [_score(group, name) for name in graders] + [_benchmark(group, name) for name in tasks]
        row += [_more(group, name) for name in sets]
        row += [_distinct(group), _number(group.mean(lambda r: r.training.tokens_trained), 0)]
        row += [_number(group.mean(of), 1) for of in (lambda r: r.training.train_seconds, lambda r: r.selecting)]
        cells.append(row)
    return heads, cells


def parts(heads: list[str]) -> list[list[int]]:
    """The columns of the tables that the whole one is shown as: what a reader looks at first, then the rest."""
    rest = range(VERDICT, len(heads))
    return [list(range(VERDICT)), *([0, *rest[at : at + BROKEN]] for at in range(0, len(rest), BROKEN))]


def answer(runs: list[Run]) -> str:
    """Whether choosing helped, in a sentence; empty where nothing was trained."""
    groups = groups_of(runs)
    if not groups:
        return ""
    known = [(g, d) for g in groups if (o := baseline_of(g, groups)) not in (None, g) and (d := beside_random(g, o))]
    if not any(g.one.selector == BASELINE for g in groups):
        return f"That can't be said: no run on random rows is among these. Add selector={BASELINE} with the same seeds."
    if all(g.one.selector == BASELINE for g in groups):
        return "That can't be said: no other selection than random rows is among these."
    if not known:
        return "That can't be said: no selection has a seed and evaluation rows in common with random rows."
    by = {name: [(g, d) for g, d in known if d.verdict == name] for name in ("better", "worse", NOTHING, TOO_FEW)}
    told = []
    if by["better"]:
        told.append(f"Yes: the target loss is below random rows' with {_listed(by['better'])}.")
    if by["worse"]:
        told.append(f"{'It' if told else 'No: the target loss'} is above random rows' with {_listed(by['worse'])}.")
    if by[NOTHING]:
        told.append(f"No difference to random rows is shown with {_listed(by[NOTHING])}.")
    if by[TOO_FEW]:
        seeds = max(d.count for _, d in by[TOO_FEW])
        few = f"{seeds} seed{'s are' if seeds > 1 else ' is'} too few for a verdict ({LEAST} are the least)"
        start = few if told else f"That can't be said yet: {few}"
        told.append(f"{start}; so far the target loss minus random rows' is {_listed(by[TOO_FEW])}.")
    if any(run.metrics.selection_saw_them for g in groups for run in g.runs.values()):
        told.append("All of this is on the queries, which selection saw.")
    return " ".join(told)


def _listed(found: list[tuple[Group, Difference]]) -> str:
    """Selections with their differences to random rows; of a few also the intervals, which the table has of all."""
    shown = []
    for group, difference in found:
        low_high = difference.interval if len(found) <= FEW else None
        interval = f", 95% interval {low_high[0]:+.4f} to {low_high[1]:+.4f}" if low_high else ""
        shown.append(f"{group.label} ({difference.mean:+.4f}{interval})")
    return ", ".join(shown)


def _distinct(group: Group) -> str:
    """Rows that a run trained, a mean over seeds, and how many of them its selector picked: the others are of the
    warm-up."""
    trained, picked = group.mean(lambda r: r.training.distinct_rows), group.mean(lambda r: r.picked)
    alike = trained is None or picked is None or trained == picked
    return _number(trained, 0) if alike else f"{trained:.0f} ({picked:.0f} picked)"


def _score(group: Group, name: str) -> str:
    """A grader's mean, and how many answers of all seeds held nothing to grade; older runs do not say."""
    scores = [run.metrics.scores.get(name, Score()) for run in group.runs.values()]
    if (mean := group.mean(lambda r: r.metrics.scores.get(name, Score()).mean)) is None:
        return "-"
    nothing = sum(score.no_answer or 0 for score in scores)
    return f"{mean:.3f}" + no_answers(nothing, sum(score.graded for score in scores))


def _asked(run: Run) -> list[str]:
    """The benchmarks that were asked for, without a group's own tasks."""
    return (run.metrics.evaluation.get("lm_eval") or {}).get("tasks") or []


def _benchmark(group: Group, name: str) -> str:
    """A benchmark's first metric, and what training changed of it."""
    value = group.mean(lambda r: _first(r.metrics, name))
    base = group.mean(lambda r: _first(r.metrics.base, name))
    return "-" if value is None else f"{value:.3f}" + ("" if base is None else f" ({value - base:+.3f})")


def _first(metrics: ModelMetrics | None, task: str) -> float | None:
    scores = metrics.lm_eval if metrics else None
    return first((scores or {}).get(task) or {})


def _more(group: Group, name: str) -> str:
    """The loss on a further set, and what training changed of it."""
    loss = group.mean(lambda r: _loss_on(r.metrics, name))
    base = group.mean(lambda r: _loss_on(r.metrics.base, name))
    return "-" if loss is None else f"{loss:.4f}" + ("" if base is None else f" ({loss - base:+.4f})")


def _loss_on(metrics: ModelMetrics | None, name: str) -> float | None:
    return metrics.more[name].target_loss if metrics and name in metrics.more else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def notes(runs: list[Run]) -> list[str]:
    """How the table is to be read."""
    groups = groups_of(runs)
    found = []
    if any(baseline_of(g, groups) not in (None, g) for g in groups):
        found.append(
            f"vs. {BASELINE}, vs. base: the target loss minus that of random rows with the same seeds, and of the "
            "untrained model; below zero is better."
        )
    if not any(g.one.selector == BASELINE for g in groups):
        found.append(f"No random selection is among these: add selector={BASELINE} to see what choosing was worth.")
    if prepared := _prepared(groups):
        found.append(prepared)
    if any("picked" in _distinct(g) for g in groups):
        found.append("Distinct rows are all that a run trained; those that are not picked were drawn by the warm-up.")
    seeds = min((len(g.runs) for g in groups), default=0)
    if seeds == 1:
        found.append("One seed: differences are over its examples alone, and may be that seed's.")
    elif seeds in SKEWED:
        found.append(
            f"{seeds} seeds: the 95% interval over seeds holds the true difference in 95% of cases where differences "
            f"between seeds are normal, and in {SKEWED[seeds]} where they are as skewed as an exponential."
        )
    if any(score.no_answer for run in runs for score in run.metrics.scores.values()):
        found.append(
            f"{NO_ANSWER}: the answer held nothing that the grader compares, such as a number; it counts as wrong, and "
            "may have failed by its form alone."
        )
    for run in runs:
        if twin := run.metrics.same_rows_as:
            found.append(f"{run.folder.name}: same rows as {twin}.")
    return found


def _prepared(groups: list[Group]) -> str | None:
    """What embedding and searching took, once for all selections that use the same vectors."""
    times: dict[tuple, list[str]] = {}
    for group in groups:
        for spent in {run.preparing for run in group.runs.values() if run.preparing is not None}:
            times.setdefault(spent, []).append(group.label)
    told = [f"{', '.join(of)}: {embed:.1f} s and {search:.1f} s" for (embed, search), of in times.items()]
    if not told:
        return None
    return f"Embedding and searching are done once and kept, and are not in selection (s); {'; '.join(told)}."


def show(runs: list[Run]) -> None:
    """Print the comparison in the terminal: whether choosing helped, the verdicts, then what it took and cost
    elsewhere."""
    heads, cells = table(runs)
    if not cells:
        return
    console = Console(highlight=False, emoji=False)
    console = console if console.is_terminal else Console(highlight=False, emoji=False, width=WIDTH)
    console.print(visible(f"Did choosing help? {answer(runs)}"), markup=False, soft_wrap=True)
    for columns in parts(heads):
        shown = Table(*(Column(heads[i], no_wrap=i not in INTERVALS) for i in columns), box=box.SIMPLE, pad_edge=False)
        for row in cells:
            shown.add_row(*(escape(visible(row[i])) for i in columns))
        console.print(shown)
    for note in notes(runs):
        console.print(visible(note), style="dim", markup=False, soft_wrap=True)
