"""Selections side by side: each over its seeds, against random rows and against the untrained model, with a verdict."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from near.evaluation.design import Design
from near.evaluation.intervals import LEVEL, holds_zero, over_pairs, over_seeds
from near.evaluation.racing import LEAST
from near.report.races import level_of_run
from near.report.runs import Examples, Run

BASELINE = "random"
NOTHING = "no difference shown"
TOO_FEW = "too few seeds"
Interval = tuple[float, float] | None
Kind = tuple[str, dict, dict[object, Run]]  # a selector, the settings its runs have in common, and the runs by seed


@dataclass(frozen=True)
class Difference:
    """One selection's target loss minus another's.

    Attributes:
        mean: over seeds.
        seeds: the 95% interval over seeds; in a race that may end at several looks, a wider one.
        examples: the same over paired examples.
        count: how many seeds, where that is known.
        design: the variances that the power depends on, where they are known.
    """

    mean: float
    seeds: Interval
    examples: Interval
    count: int | None = None
    design: Design | None = None

    @property
    def interval(self) -> Interval:
        """The span of both intervals, as far as they are known: zero is outside where both agree on the sign."""
        known = [interval for interval, _ in self._known()]
        return (min(low for low, _ in known), max(high for _, high in known)) if known else None

    @property
    def verdict(self) -> str:
        """better or worse only where both intervals, as far as they are known, exclude zero, and never for fewer than
        LEAST seeds."""
        if self.count is not None and self.count < LEAST:
            return TOO_FEW
        if self.interval is None or holds_zero(self.interval):
            return NOTHING
        return "worse" if self.mean > 0 else "better"

    def __str__(self) -> str:
        parts = [f"{self.mean:+.4f}"]
        parts += [f"[{i[0]:+.4f}, {i[1]:+.4f}] {over}" for i, over in self._known()]
        return " ".join(parts)

    def _known(self) -> list[tuple[tuple[float, float], str]]:
        return [(i, o) for i, o in ((self.seeds, "seeds"), (self.examples, "examples")) if i is not None]


@dataclass
class Group:
    """Runs that differ in the seed alone, by seed."""

    label: str
    runs: dict[object, Run]

    @property
    def one(self) -> Run:
        """Any of them: they have all but the seed in common."""
        return next(iter(self.runs.values()))

    def mean(self, of: Callable[[Run], float | None]) -> float | None:
        values = [of(run) for run in self.runs.values()]
        return None if None in values else statistics.mean(values)


def groups_of(runs: list[Run]) -> list[Group]:
    """Trained runs grouped by their settings. A label is the selector, and the settings that set the group apart from
    others of that selector. The order is that of the jobs of a sweep; of other runs, by target loss, lowest first."""
    kinds: dict[str, Kind] = {}
    for run in runs:
        if not run.is_trained:
            continue
        settings = run.settings
        key = repr((run.selector, sorted(settings.items(), key=repr), run.evaluated, run.metrics.model))
        kinds.setdefault(key, (run.selector, settings, {}))[2].setdefault(run.seed, run)
    labels = numbered([label_of(kind, list(kinds.values())) for kind in kinds.values()])
    groups = [Group(label, same) for label, (_, _, same) in zip(labels, kinds.values(), strict=True)]
    groups.sort(key=lambda g: g.mean(lambda r: r.metrics.target_loss))
    numbers = {id(g): [run.number for run in g.runs.values()] for g in groups}
    one_sweep = len({run.folder.parent for g in groups for run in g.runs.values()}) == 1
    if one_sweep and not any(None in of for of in numbers.values()):
        groups.sort(key=lambda g: min(numbers[id(g)]))
    return groups


def label_of(kind: Kind, kinds: list[Kind]) -> str:
    """The selector, and the overrides that were typed for this kind and not for others of that selector; where those
    are the same, the settings that differ."""
    name, settings, _ = kind
    others = [other for other in kinds if other[0] == name and other is not kind]
    apart = sorted(_typed(kind).difference(*([set.intersection(*map(_typed, others))] if others else [])))
    if any(set(apart) <= _typed(other) for other in others):
        named = {word.partition("=")[0] for other in kinds for word in _typed(other)}
        keys = _distinguishing(settings, [other[1] for other in others], named)
        apart = [f"{key}={settings.get(key)}" for key in keys]
    words = [f"{_short(k)}={v}" for k, _, v in (word.partition("=") for word in apart[:4])] if others else []
    return " ".join([name, *words])


def _distinguishing(
    settings: Mapping[str, object], others: Sequence[Mapping[str, object]], named: set[str]
) -> list[str]:
    """Few keys whose values set `settings` apart from all `others`: those that do so from most of them first; of equal
    ones those that somebody typed (`named`), and short values, since one option often decides longer ones."""
    keys: list[str] = []
    left = [other for other in others if other != settings]

    def rank(key: str) -> tuple:
        value = settings.get(key)
        differing = sum(other.get(key) != value for other in left)
        return -differing, value is None, key not in named, len(str(value)), key

    while left:
        keys.append(min({*settings}.union(*left), key=rank))
        left = [other for other in left if other.get(keys[-1]) == settings.get(keys[-1])]
    return sorted(keys)


def _short(key: str) -> str:
    """The last part of an option's name; of a class, its group."""
    return key.removesuffix("._target_").rpartition(".")[2]


def numbered(labels: list[str]) -> list[str]:
    """The labels, with a number behind those that are there twice."""
    twice = {label for label in labels if labels.count(label) > 1}
    return [f"{x} ({labels[: i + 1].count(x)})" if x in twice else x for i, x in enumerate(labels)]


def _typed(kind: Kind) -> set[str]:
    return set.intersection(*(run.typed for run in kind[2].values()))


def baseline_of(group: Group, groups: list[Group]) -> Group | None:
    """The group of random rows that is most similar to `group`: the same evaluation, and the most settings and seeds in
    common."""
    one = group.one
    baselines = [g for g in groups if g.one.selector == BASELINE and g.one.evaluated == one.evaluated]
    mine = set(one.settings.items())

    def similarity(other: Group) -> tuple[int, int]:
        return len(mine & set(other.one.settings.items())), len(group.runs & other.runs.keys())

    return max(baselines, key=similarity, default=None)


def contaminated(group: Group, groups: list[Group]) -> frozenset[int]:
    """Ids of the rows that `group` was evaluated on and that a row of the pool resembles, of any run with that
    evaluation: so all selections are compared on the same rows."""
    runs = [run for g in groups if g.one.evaluated == group.one.evaluated for run in g.runs.values()]
    return frozenset().union(*(run.contaminated for run in runs))


def beside_random(group: Group, other: Group, without: frozenset[int] = frozenset()) -> Difference | None:
    """The difference to `other` over the seeds that both have; None where they share none.

    Args:
        without: ids of evaluated rows to leave out; None is returned if that leaves none, or if losses of single rows
            were not recorded.
    """
    pairs = [(group.runs[seed], other.runs[seed]) for seed in group.runs if seed in other.runs]
    if not pairs:
        return None
    level = max(level_of_run(run.folder) for pair in pairs for run in pair)
    if not without:
        losses = [(a.metrics.target_loss, b.metrics.target_loss, a.examples, b.examples) for a, b in pairs]
        return _difference(losses, level)
    examples = [(a.examples, b.examples) for a, b in pairs]
    if any(one is None for pair in examples for one in pair):
        return None
    examples = [(a.without(without), b.without(without)) for a, b in examples]
    if not all(one.tokens.sum() > 0 for pair in examples for one in pair):
        return None
    losses = [(a.sums.sum() / a.tokens.sum(), b.sums.sum() / b.tokens.sum(), a, b) for a, b in examples]
    return _difference(losses, level)


def beside_base(group: Group) -> Difference | None:
    """The difference to the untrained model, as every run evaluated it; None where one did not."""
    runs = list(group.runs.values())
    pairs = [
        (r.metrics.target_loss, r.metrics.base.target_loss, r.examples, r.base_examples) for r in runs if r.metrics.base
    ]
    return _difference(pairs) if len(pairs) == len(runs) else None


def _difference(pairs: list[tuple[float, float, Examples | None, Examples | None]], level: float = LEVEL) -> Difference:
    """pairs: of each seed the two target losses, and the examples of both runs; None where they are unknown."""
    differences = np.array([first - second for first, second, _, _ in pairs])
    examples = sums = weights = None
    if all(a is not None and b is not None and len(a.sums) == len(b.sums) for _, _, a, b in pairs):
        sums, weights = np.stack([a.sums - b.sums for _, _, a, b in pairs]), pairs[0][2].tokens  # (k, n), (n,)
        examples = over_pairs(sums.mean(axis=0), weights, level=level)
    design = Design.of(differences, sums, weights)
    return Difference(float(differences.mean()), over_seeds(differences, level), examples, len(differences), design)


def at_equal_tokens(group: Group, other: Group) -> Difference | None:
    """The difference at the token count that both runs of a seed reached: selectors differ in how long their rows are.

    Target losses are interpolated between the starts of rounds. The longer run's learning rate had not decayed to its
    end at that point. None where a run did not evaluate at its rounds (evaluation.at_rounds).
    """
    differences = []
    for seed in (s for s in group.runs if s in other.runs):
        curves = [_curve(g.runs[seed]) for g in (group, other)]
        if None in curves:
            return None
        tokens = min(curve[0][-1] for curve in curves)
        first, second = (float(np.interp(tokens, *curve)) for curve in curves)
        differences.append(first - second)
    if not differences:
        return None
    return Difference(statistics.mean(differences), over_seeds(np.array(differences)), None, len(differences))


def _curve(run: Run) -> tuple[list[float], list[float]] | None:
    """Tokens trained and target loss, at the start of every round and at the end. Where the weights of an earlier round
    were kept, the end was not evaluated."""
    tokens, points = 0, []
    for line in run.rounds:
        if line.target_loss is None or line.tokens is None:
            return None
        points.append((tokens, line.target_loss))
        tokens += line.tokens
    if points and run.kept_last:
        points.append((tokens, run.metrics.target_loss))
    return tuple(map(list, zip(*points, strict=True))) if points else None
