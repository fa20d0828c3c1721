"""The table that ends a comparison: each selection against random rows and the base model, its verdict and its cost."""

import statistics

from rich.console import Console

from near.common import tables
from near.common.errors import visible
from near.common.records import ModelMetrics, Score
from near.common.tables import console
from near.common.text import plural
from near.evaluation.benchmarks import first
from near.evaluation.graders.base import NO_ANSWER, no_answers
from near.report import left_out, quantiles, targets
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
    contaminated,
    groups_of,
)
from near.report.runs import Run
from near.report.sensitivity import powers
from near.report.targets import targets_of

# The share of 20,000 comparisons without a true difference whose interval over k seeds contained zero, where
# differences are as skewed as an exponential; 95% where they are normal (bench/intervals.py, 2026-11-25).
SKEWED = {2: "91%", 3: "88%", 4: "88%", 5: "88%"}
VERDICT = 6  # columns of the first table
FEW = 3  # selections whose intervals are in the answer
WIDE = 12  # columns of a table whose cells may be broken into lines
MANY = 16  # selections on several targets: more are in the report alone
BROKEN = 9  # columns of each further one
INTERVALS = (3, 6)  # columns that may be broken
HEADS = ("selection", "seeds", "target loss", f"vs. {BASELINE}", "verdict", "vs. base", "at equal tokens")
COSTS = ("distinct rows", "tokens", "training (s)", "selection (s)")


def table(runs: list[Run]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each selection."""
    groups = groups_of(runs)
    sets = sorted({name for run in runs for name in run.metrics.more})
    graders = sorted({name for run in runs for name in run.metrics.scores})
    tasks = sorted({name for run in runs for name in run.metrics.lm_eval or {} if name in _benchmarks(run)})
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
        row += [str(difference), difference.verdict] if difference else ["-", "-"]
        row += [f"{base.mean:+.4f} ({base.verdict})" if base else "-", str(equal) if equal else "-"]
        row += [_score(group, name) for name in graders] + [_benchmark(group, name) for name in tasks]
        row += [_more(group, name) for name in sets]
        row += [_distinct(group), _number(group.mean(lambda r: r.training.tokens_trained), 0)]
        row += [_number(group.mean(of), 1) for of in (lambda r: r.training.train_seconds, lambda r: r.selecting)]
        cells.append(row)
    return heads, cells


def parts(heads: list[str]) -> list[list[int]]:
    """The columns of each of the tables into which the whole is split: those a reader looks at first, then the rest."""
    rest = range(VERDICT, len(heads))
    return [list(range(VERDICT)), *([0, *rest[at : at + BROKEN]] for at in range(0, len(rest), BROKEN))]


def answer(runs: list[Run]) -> str:
    """Whether choosing helped, in a sentence or two; empty where no run was trained."""
    groups = groups_of(runs)
    if not groups:
        return ""
    if of_parts := _parts_answer(groups):
        return of_parts
    known = [(g, d) for g in groups if (o := baseline_of(g, groups)) not in (None, g) and (d := beside_random(g, o))]
    if not any(g.one.selector == BASELINE for g in groups):
        return f"Can't tell: no run on random rows is among these. Add selector={BASELINE} with the same seeds."
    if all(g.one.selector == BASELINE for g in groups):
        return "Can't tell: no other selection than random rows is among these."
    if not known:
        return "Can't tell: no selection has a seed and evaluation rows in common with random rows."
    by = {name: [(g, d) for g, d in known if d.verdict == name] for name in ("better", "worse", NOTHING, TOO_FEW)}
    sentences = []
    if by["better"]:
        sentences.append(f"Yes: the target loss is below random rows' with {_listed(by['better'])}.")
    if by["worse"]:
        sentences.append(
            f"{'It' if sentences else 'No: the target loss'} is above random rows' with {_listed(by['worse'])}."
        )
    if by[NOTHING]:
        sentences.append(f"No difference to random rows is shown with {_listed(by[NOTHING])}.")
    if by[TOO_FEW]:
        seeds = max(d.count for _, d in by[TOO_FEW])
        few = f"{seeds} seed{'s are' if seeds > 1 else ' is'} too few for a verdict (at least {LEAST} are needed)"
        start = few if sentences else f"Can't tell yet: {few}"
        sentences.append(f"{start}; so far, target loss minus random rows': {_listed(by[TOO_FEW])}.")
    if any(run.metrics.selection_saw_them for g in groups for run in g.runs.values()):
        sentences.append("All of this is on the queries, which selection saw.")
    return " ".join([*sentences, *clean(groups)])


def _parts_answer(groups: list[Group]) -> str:
    """What parts of a ranking or a choice show, where there are no other runs."""
    curves, worths = quantiles.curves_of(groups), left_out.worths_of(groups)
    kinds = {group.one.settings.get("selector._target_", "").rpartition(".")[2] for group in groups}
    if kinds - {quantiles.SELECTOR, left_out.SELECTOR} or not (curves or worths):
        return ""
    said = [f"{c.of}: {c.verdict} (rank correlation {c.correlation:+.2f} over {len(c.quantiles)})" for c in curves]
    said += [f"{w.of}: {w.verdict}" for w in worths if len(w.loss)]
    said += [f"{w.of}: its scores add up to {w.halves.mean():+.2f}" for w in worths if len(w.halves)]
    return f"Of parts of a selection: {'; '.join(said)}."


def clean(groups: list[Group]) -> list[str]:
    """The verdicts without the evaluated rows that a row of the pool resembles, a sentence for each evaluation; empty
    where none is known to."""
    sentences = []
    for one in {g.one.evaluated: g for g in groups}.values():
        if not (without := contaminated(one, groups)):
            continue
        pairs, rows = [], one.one.metrics.rows
        for group in (g for g in groups if g.one.evaluated == one.one.evaluated):
            other = baseline_of(group, groups)
            if other not in (None, group) and (difference := beside_random(group, other, without)):
                pairs.append((group, difference))
        resembled = f"{len(without)} of the {rows} evaluated rows"
        if not pairs:
            sentences.append(f"Rows of the pool resemble {resembled}: there is no verdict without these.")
            continue
        by = {}
        for group, difference in pairs:
            by.setdefault(difference.verdict, []).append((group, difference))
        listed = "; ".join(f"{name} with {_listed(of)}" for name, of in by.items())
        sentences.append(f"Without the {resembled} that a row of the pool resembles: {listed}.")
    return sentences


def _listed(pairs: list[tuple[Group, Difference]]) -> str:
    """Selections with their differences to random rows; with the intervals where they are few (the table has all)."""
    parts = []
    for group, difference in pairs:
        low_high = difference.interval if len(pairs) <= FEW else None
        interval = f", 95% interval {low_high[0]:+.4f} to {low_high[1]:+.4f}" if low_high else ""
        parts.append(f"{group.label} ({difference.mean:+.4f}{interval})")
    return ", ".join(parts)


def _distinct(group: Group) -> str:
    """How many distinct rows a run trained, as a mean over seeds, and how many of them the selector picked; the warm-up
    drew the others."""
    trained, picked = group.mean(lambda r: r.training.distinct_rows), group.mean(lambda r: r.picked)
    alike = trained is None or picked is None or trained == picked
    return _number(trained, 0) if alike else f"{trained:.0f} ({picked:.0f} picked)"


def _score(group: Group, name: str) -> str:
    """A grader's mean, and how many answers of all seeds contained nothing to grade; older runs do not record it."""
    scores = [run.metrics.scores.get(name, Score()) for run in group.runs.values()]
    if (mean := group.mean(lambda r: r.metrics.scores.get(name, Score()).mean)) is None:
        return "-"
    empty, graded = sum(score.no_answer or 0 for score in scores), sum(score.graded for score in scores)
    return f"{mean:.3f}" + no_answers(empty, graded)


def _benchmarks(run: Run) -> list[str]:
    """The benchmarks that the configuration names, without the tasks inside a group of them."""
    return (run.metrics.evaluation.get("lm_eval") or {}).get("tasks") or []


def _benchmark(group: Group, name: str) -> str:
    """A benchmark's first metric, and how much training changed it."""
    value = group.mean(lambda r: _first(r.metrics, name))
    base = group.mean(lambda r: _first(r.metrics.base, name))
    return "-" if value is None else f"{value:.3f}" + ("" if base is None else f" ({value - base:+.3f})")


def _first(metrics: ModelMetrics | None, task: str) -> float | None:
    scores = metrics.lm_eval if metrics else None
    return first((scores or {}).get(task) or {})


def _more(group: Group, name: str) -> str:
    """The loss on a further evaluation set, and how much training changed it."""
    loss = group.mean(lambda r: _loss_on(r.metrics, name))
    base = group.mean(lambda r: _loss_on(r.metrics.base, name))
    return "-" if loss is None else f"{loss:.4f}" + ("" if base is None else f" ({loss - base:+.4f})")


def _loss_on(metrics: ModelMetrics | None, name: str) -> float | None:
    return metrics.more[name].target_loss if metrics and name in metrics.more else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def notes(runs: list[Run]) -> list[str]:
    """The notes under the table: how to read it."""
    groups = groups_of(runs)
    lines = []
    if any(baseline_of(g, groups) not in (None, g) for g in groups):
        lines.append(
            f"vs. {BASELINE}, vs. base: the target loss minus that of random rows with the same seeds, and of the "
            "model before training; below zero is better."
        )
    if not any(g.one.selector == BASELINE for g in groups):
        lines.append(f"No run on random rows is among these: add selector={BASELINE} to see what choosing was worth.")
    lines += powers(groups) if len(groups) <= MANY else []
    lines += [line for group in groups if (line := _fidelity(group))]
    if prepared := _prepared(groups):
        lines.append(prepared)
    if any("picked" in _distinct(g) for g in groups):
        lines.append("Distinct rows are all rows that a run trained on; the warm-up drew those that were not picked.")
    seeds = min((len(g.runs) for g in groups), default=0)
    if seeds == 1:
        lines.append("One seed: the intervals are over its examples alone, and a difference may be due to that seed.")
    elif seeds in SKEWED:
        lines.append(
            f"{seeds} seeds: the 95% interval over seeds contains the true difference in 95% of cases where "
            f"differences between seeds are normal, and in {SKEWED[seeds]} where they are as skewed as an exponential."
        )
    if any(score.no_answer for run in runs for score in run.metrics.scores.values()):
        lines.append(
            f"{NO_ANSWER}: the answer contained nothing that the grader compares, such as a number. It counts as "
            "wrong, perhaps for its form alone."
        )
    for run in runs:
        if twin := run.metrics.same_rows_as:
            lines.append(f"{run.folder.name}: same rows as {twin}.")
    return lines


def _fidelity(group: Group) -> str | None:
    """How far a selection by a part of the gradients is exact LESS's: a mean over the rounds of all seeds."""
    known = fidelities(group)
    if not known:
        return None
    mean = {name: statistics.mean(one[name] for one in known) for name in ("gradients", "rows", "overlap")}
    low = min(one["overlap_interval"][0] for one in known)
    high = max(one["overlap_interval"][1] for one in known)
    return (
        f"{group.label}: gradients of {mean['gradients']:.0f} of {mean['rows']:.0f} rows; by its own estimate it chose "
        f"{mean['overlap']:.0%} of exact LESS's rows (a mean over {plural(len(known), 'round')}; intervals from "
        f"{low:.0%} to {high:.0%})."
    )


def fidelities(group: Group) -> list[dict]:
    """What the rounds of all seeds say of it (RoundRecord)."""
    return [line.fidelity for run in group.runs.values() for line in run.rounds if line.fidelity]


def _prepared(groups: list[Group]) -> str | None:
    """The seconds of embedding and searching, once for all selections that use the same vectors."""
    times: dict[tuple, list[str]] = {}
    for group in groups:
        for spent in {run.preparing for run in group.runs.values() if run.preparing is not None}:
            times.setdefault(spent, []).append(group.label)
    parts = [f"{', '.join(of)}: {embed:.1f} s and {search:.1f} s" for (embed, search), of in times.items()]
    if not parts:
        return None
    return f"selection (s) leaves out embedding and searching, which are cached. They took: {'; '.join(parts)}."


def show_parts(runs: list[Run], out: Console) -> None:
    """Print the verdict over targets, the curves of selector=quantile and the losses of selector=left_out, if there
    are any."""
    groups = groups_of(runs)
    if over := targets_of(groups):
        out.print(visible(f"Over {len(over.targets)} targets: {targets.answer(over)}"), markup=False, soft_wrap=True)
        heads, cells = targets.table(over)
        for at in targets.PARTS:
            out.print(tables.table([heads[i] for i in at], [[row[i] for i in at] for row in cells]))
        heads, cells = targets.grid(over)
        out.print(tables.table(heads, cells, breaking=None if len(heads) > WIDE else ()))
        for note in targets.notes(over):
            out.print(visible(note), style="dim", markup=False, soft_wrap=True)
    for of, parts in ((quantiles, quantiles.curves_of(groups)), (left_out, left_out.worths_of(groups))):
        if parts:
            out.print(tables.table(*of.table(parts)))
            out.print(of.NOTE, style="dim", markup=False, soft_wrap=True)


def show(runs: list[Run]) -> None:
    """Print the comparison in the terminal: whether choosing helped, the verdicts, then scores and costs.

    Of several targets, the verdict over them comes first; if there are many selections on them, the report alone has
    the table of each.
    """
    heads, cells = table(runs)
    if not cells:
        return
    out = console()
    show_parts(runs, out)
    over = targets_of(groups_of(runs))
    if over and len(cells) > MANY:
        out.print(f"{len(cells)} selections on {len(over.targets)} targets: report.html has the table of each.")
        for note in (*clean(groups_of(runs)), *notes(runs)):
            out.print(visible(note), style="dim", markup=False, soft_wrap=True)
        return
    out.print(visible(f"Did choosing help? {answer(runs)}"), markup=False, soft_wrap=True)
    for at in parts(heads):
        breaking = [at.index(i) for i in INTERVALS if i in at]
        out.print(tables.table([heads[i] for i in at], [[row[i] for i in at] for row in cells], breaking))
    for note in notes(runs):
        out.print(visible(note), style="dim", markup=False, soft_wrap=True)
