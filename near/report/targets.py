"""Selectors over many targets: in how many each beats random rows and the base model, and by how much on average.

A target is what runs were evaluated on; a method is a selector with its settings, whatever the data. The unit of the
verdict is the target: a method's value on one is the mean over seeds of its target loss minus random rows'.
"""

import statistics
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from near.common.text import plural
from near.evaluation.intervals import holds_zero, over_targets
from near.evaluation.power import detectable, needed, smallest_effect_over_targets
from near.report import races
from near.report.compare import (
    BASELINE,
    NOTHING,
    Difference,
    Group,
    Interval,
    baseline_of,
    beside_base,
    beside_random,
    label_of,
    numbered,
)
from near.report.runs import Run

LEAST = 5  # targets for a verdict
FREE = 0.1  # seconds: a selection that takes less has no gain per second
TOO_FEW = "too few targets"
STOPPED = "stopped on some"
BASE = "base"
HEADS = ("selection", "targets", f"below {BASELINE}", "better / worse", f"vs. {BASELINE}", "verdict", "could show")
PARTS = (range(7), (0, *range(7, 12)))  # columns of the two tables into which it is split
HEADS += ("vs. base", "below base", "mean rank", "selection (s)", "gain / s")


@dataclass
class TargetRuns:
    """What some runs were evaluated on. `groups`: by the label of their method."""

    label: str
    groups: dict[str, Group] = field(default_factory=dict)

    @property
    def base(self) -> float | None:
        """The base model's target loss minus random rows', a mean over seeds; None where either is missing."""
        known = [d.mean for g in self.groups.values() if g.one.selector == BASELINE and (d := beside_base(g))]
        return -statistics.mean(known) if known else None


@dataclass(frozen=True)
class Method:
    """A selection over the targets that have both it and random rows; all arrays are (n_targets,).

    Attributes:
        targets: their labels.
        differences: to random rows, over seeds.
        base: target loss minus the base model's; NaN where a run did not evaluate it.
        rank: the mean rank of its target loss among the selections, 1 the lowest, over targets that have all of them;
            None without any.
        seconds: of a run's selections, embedding and searching included; None where it was not recorded.
        stopped: on how many targets a race stopped it: the others are those on which it did well.
    """

    label: str
    targets: list[str]
    differences: list[Difference]
    base: np.ndarray
    rank: float | None
    seconds: float | None
    stopped: int = 0

    @property
    def values(self) -> np.ndarray:
        """Target loss minus random rows', float64 (n_targets,)."""
        return np.array([one.mean for one in self.differences])

    @property
    def interval(self) -> Interval:
        """The 95% interval of their mean (near/evaluation/intervals.py); None for a single target."""
        return interval_of(self.values)

    @property
    def verdict(self) -> str:
        """better or worse only where the interval over at least LEAST targets excludes zero."""
        if self.stopped:
            return STOPPED
        if len(self.values) < LEAST:
            return TOO_FEW
        if self.interval is None or holds_zero(self.interval):
            return NOTHING
        return "worse" if self.values.mean() > 0 else "better"

    def count(self, verdict: str) -> int:
        """On how many targets alone that is the verdict over its seeds and examples."""
        return sum(one.verdict == verdict for one in self.differences)


@dataclass(frozen=True)
class Targets:
    """Attributes:
    targets: in the order of the groups.
    methods: in their order, without random rows, and without those of `alone`.
    ranked: targets that have all selections, over which ranks are means.
    alone: selections that have random rows beside them on no target.
    """

    targets: list[TargetRuns]
    methods: list[Method]
    ranked: int = 0
    alone: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return len(self.targets) > 1 and bool(self.methods)


def targets_of(groups: list[Group]) -> Targets:
    """The targets and methods of `groups`, as of compare.groups_of; empty for a single target."""
    by_target: dict[str, list[Group]] = {}
    for group in groups:
        by_target.setdefault(group.one.metrics.eval_fingerprint, []).append(group)
    if len(by_target) < 2:
        return Targets([], [])
    labels, methods = _labels(by_target), _methods(groups)
    targets = [
        TargetRuns(label, {methods[id(group)]: group for group in same})
        for label, same in zip(labels, by_target.values(), strict=True)
    ]
    names = list(dict.fromkeys(methods[id(group)] for group in groups))
    ranks, whole = _ranks(targets, names)
    beside = {name: _method(name, targets, groups, ranks.get(name)) for name in names}
    baselines = {methods[id(group)] for group in groups if group.one.selector == BASELINE}
    alone = tuple(name for name, method in beside.items() if method is None and name not in baselines)
    return Targets(targets, [method for method in beside.values() if method is not None], whole, alone)


def _labels(by_target: dict[str, list[Group]]) -> list[str]:
    """The values of the overrides that only one target's runs have in common; else the evaluated rows' fingerprint."""
    typed = [set.intersection(*(run.typed for g in same for run in g.runs.values())) for same in by_target.values()]
    shared = set.intersection(*typed)
    labels = []
    for words, rows in zip(typed, by_target, strict=True):
        apart = sorted(word for word in words - shared if word.startswith("data"))
        labels.append(" ".join(word.partition("=")[2] for word in apart) or str(rows)[:8])
    return numbered(labels)


def _methods(groups: list[Group]) -> dict[int, str]:
    """The label of each group's method, by id(group).

    A method's settings are those of its groups without `data`, but for what sets groups apart that have the same target
    and everything else in common, such as data.candidates.limit.
    """
    own, rest, alike = {}, {}, {}
    for group in groups:
        settings = group.one.settings
        own[id(group)] = {k: v for k, v in settings.items() if k.startswith("data.")}
        rest[id(group)] = {k: v for k, v in settings.items() if not k.startswith("data.")}
        key = repr((group.one.selector, sorted(rest[id(group)].items()), group.one.metrics.model))
        alike.setdefault(key, []).append(group)
    kinds: dict[str, tuple[str, dict, dict]] = {}
    keys = {}
    for same, members in alike.items():
        apart = _apart([(group.one.metrics.eval_fingerprint, own[id(group)]) for group in members])
        for group in members:
            settings = rest[id(group)] | {k: own[id(group)].get(k, "") for k in apart}
            key = keys[id(group)] = repr((same, sorted(settings.items())))
            runs = {(group.one.evaluated, seed): run for seed, run in group.runs.items()}
            kinds.setdefault(key, (group.one.selector, settings, {}))[2].update(runs)
    labels = numbered([label_of(kind, list(kinds.values())) for kind in kinds.values()])
    by_key = dict(zip(kinds, labels, strict=True))
    return {group: by_key[key] for group, key in keys.items()}


def _apart(members: list[tuple[str, dict[str, str]]]) -> set[str]:
    """The keys of `data` whose values differ between members with the same target."""
    keys: set[str] = set()
    for target in {target for target, _ in members}:
        of = [data for name, data in members if name == target]
        keys |= {k for data in of for k in data if any(other.get(k) != data[k] for other in of)}
    return keys


def _ranks(targets: list[TargetRuns], names: list[str]) -> tuple[dict[str, float], int]:
    """The mean rank of each method over the targets that have all of them, and how many these are."""
    whole = [target for target in targets if all(name in target.groups for name in names)]
    if not whole:
        return {}, 0
    losses = np.array([[_loss(target.groups[name]) for name in names] for target in whole])  # (n_targets, n_methods)
    return dict(zip(names, rankdata(losses, axis=1).mean(axis=0).tolist(), strict=True)), len(whole)


def _method(name: str, targets: list[TargetRuns], groups: list[Group], rank: float | None) -> Method | None:
    """None for random rows themselves, and where no target has random rows beside it."""
    labels, differences, base, seconds = [], [], [], []
    stopped = races.stopped_on(run.folder for t in targets if name in t.groups for run in t.groups[name].runs.values())
    for target in targets:
        group = target.groups.get(name)
        other = None if group is None else baseline_of(group, groups)
        if group is None or other is None or other is group or (difference := beside_random(group, other)) is None:
            continue
        labels.append(target.label)
        differences.append(difference)
        beside = beside_base(group)
        base.append(np.nan if beside is None else beside.mean)
        seconds.append(group.mean(_selection_seconds))
    if not differences:
        return None
    cost = None if None in seconds else statistics.mean(s for s in seconds if s is not None)
    return Method(name, labels, differences, np.array(base), rank, cost, stopped)


def _selection_seconds(run: Run) -> float | None:
    return None if run.selecting is None else run.selecting + sum(run.preparing or (0.0, 0.0))


def _loss(group: Group) -> float:
    return statistics.mean(run.metrics.target_loss for run in group.runs.values())


def table(over: Targets) -> tuple[list[str], list[list[str]]]:
    """Columns and cells: a row for each method."""
    return list(HEADS), [_cells(method) for method in over.methods]


def _cells(method: Method) -> list[str]:
    values, base = method.values, method.base[~np.isnan(method.base)]
    smallest = detectable(values, smallest_effect_over_targets) if len(values) >= LEAST else None
    gain = None if method.seconds is None or method.seconds < FREE else -values.mean() / method.seconds
    return [
        method.label,
        str(len(values)),
        str(int((values < 0).sum())),
        f"{method.count('better')} / {method.count('worse')}",
        _mean(values),
        method.verdict,
        "-" if smallest is None else f"{smallest:.4f}",
        _mean(base) if len(base) else "-",
        f"{int((base < 0).sum())} of {len(base)}" if len(base) else "-",
        "-" if method.rank is None else f"{method.rank:.1f}",
        "-" if method.seconds is None else f"{method.seconds:.1f}",
        "-" if gain is None else f"{gain:+.4f}",
    ]


def interval_of(values: np.ndarray) -> Interval:
    return tuple(over_targets(values).tolist()) if len(values) > 1 else None


def _mean(values: np.ndarray) -> str:
    interval = interval_of(values)
    return f"{values.mean():+.4f}" + (f" [{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else "")


def grid(over: Targets) -> tuple[list[str], list[list[str]]]:
    """The difference to random rows of each method on each target, with the sign of its verdict there; a row for each
    target."""
    heads = ["target", *(method.label for method in over.methods)]
    marks = {"better": " ↓", "worse": " ↑"}
    cells = []
    for target in over.targets:
        row = [target.label]
        for method in over.methods:
            one = dict(zip(method.targets, method.differences, strict=True)).get(target.label)
            row.append("-" if one is None else f"{one.mean:+.3f}{marks.get(one.verdict, '')}")
        cells.append(row)
    return heads, cells


def answer(over: Targets) -> str:
    """Which methods are better than random rows over the targets, in a sentence or two."""
    by = {v: [m for m in over.methods if m.verdict == v] for v in ("better", "worse", NOTHING, TOO_FEW, STOPPED)}
    sentences = []
    if by["better"]:
        sentences.append(f"Better than {BASELINE} rows over targets: {_listed(by['better'])}.")
    if by["worse"]:
        sentences.append(f"Worse: {_listed(by['worse'])}.")
    if by[NOTHING]:
        sentences.append(f"No difference shown: {_listed(by[NOTHING])}.")
    if by[TOO_FEW]:
        fewest = ", ".join(f"{m.label} {len(m.values)}" for m in by[TOO_FEW])
        sentences.append(f"Too few targets for a verdict over targets, of which {LEAST} are needed: {fewest}.")
    if by[STOPPED]:
        counts = ", ".join(f"{m.label} {m.stopped}" for m in by[STOPPED])
        sentences.append(f"A race stopped some early, which have no verdict over targets: {counts}.")
    return " ".join(sentences)


def _listed(methods: list[Method]) -> str:
    return ", ".join(
        f"{m.label} ({m.values.mean():+.4f}, below in {int((m.values < 0).sum())} of {len(m.values)})" for m in methods
    )


def notes(over: Targets) -> list[str]:
    """How to read the tables."""
    lines = [
        f"vs. {BASELINE}, vs. base: the mean over targets of the target loss minus that of {BASELINE} rows and of the "
        "untrained model, with its 95% interval over targets (Student's t, widened where the differences are skewed); "
        "below zero is better. below: on how many targets the mean loss is lower; better / worse: on how many the "
        "seeds and examples of that target alone show it.",
        "could show: the smallest true mean difference that so many targets, varying like these, show in four of five "
        f"cases. gain / s: nats below {BASELINE} rows for each second of selection, embedding and searching counted in "
        "full.",
    ]
    for method in over.methods:
        count = needed(method.values) if method.verdict == NOTHING else None
        if count is not None and count > len(method.values):
            lines.append(
                f"{method.label}: about {count} targets would show a mean difference as large as the one seen."
            )
    lines.append(
        f"mean rank: over the {plural(over.ranked, 'target')} that have all selections; 1 is the lowest loss. All "
        f"targets have the same seeds, so luck of {BASELINE} rows that they share is in no interval."
    )
    if over.alone:
        lines.append(f"Not in the tables, as no target has {BASELINE} rows beside them: {', '.join(over.alone)}.")
    whole = {label for method in over.methods for label in method.targets}
    for method in over.methods:
        if lacking := sorted(whole - set(method.targets)):
            lines.append(f"{method.label}: without {', '.join(lacking[:5])}{' and others' * (len(lacking) > 5)}.")
    return lines
