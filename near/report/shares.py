"""What selections looked at: the share of their rows that has each value of a label, beside the pool's and the
target's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from near.common.errors import printable, visible
from near.common.tables import console, table
from near.report.labels import Label

SHOWN = 6  # values of a label that have a column; the rest are "others"
NAME, SELECTION = 22, 40  # characters of a value and of a selection's name
DRAWS = 9999  # of random rows, for a share of one value
DRAWS_OF_ALL = 1999  # for the shares of all values
VALUES = 100  # of a label that are compared one by one
LEVEL = 0.05
ORACLE = "oracle"
ROUNDS = "Shares are of the rows that a selector picked, over all rounds and seeds, without warm-ups."
CHANCE = (
    "= chance: as many random rows may differ as much from the pool (at the 5% level, for all comparisons of a target "
    "together, by Holm's procedure)."
)
NOTE = (
    "A sentence names the value that most rows of the target have, or, where the pool lacks it, the value that was "
    f"picked most above its share of the pool. {CHANCE}"
)

OVER_TARGETS = (
    "own: the mean over targets of the share of rows with the value that most rows of the target have; above: on how "
    "many targets it is above the pool's share by more than chance."
)


@dataclass(frozen=True)
class Picks:
    """The rows of a selection.

    Attributes:
        name: of the selection.
        ids: int64 (m,), distinct rows of the pool.
        times: int64 (m,), in how many rounds of all seeds each was picked.
        oracle: whether its selector is the oracle.
    """

    name: str
    ids: np.ndarray
    times: np.ndarray
    oracle: bool = False


@dataclass(frozen=True)
class Line:
    """One selection's rows, or the pool's or the target's, by the values of a label.

    Attributes:
        name: of the selection, "pool" or "target".
        counts: int64 (n_values,).
        value: the position of the value that its sentence names; None for pool and target.
        p: how often as many random rows differ as much from the pool in it, 0 to 1.
        chance: whether that is often, in view of all comparisons of the target.
    """

    name: str
    counts: np.ndarray
    value: int | None = None
    p: float = 1.0
    chance: bool = False

    @property
    def shares(self) -> np.ndarray:
        """float64 (n_values,)."""
        return self.counts / max(1, self.counts.sum())


@dataclass(frozen=True)
class LabelShares:
    """A label with the lines of its table: the pool, the target if it has the label, the oracle, the selections."""

    label: Label
    lines: list[Line]

    @property
    def selections(self) -> list[Line]:
        return [line for line in self.lines if line.value is not None]

    @property
    def compared(self) -> bool:
        """Whether the pool's rows differ in the label at all."""
        return np.count_nonzero(self.label.pool) > 1

    @property
    def shown(self) -> list[int]:
        """Positions of the values that have a column: the target's own, and those with the highest shares; numbers in
        ascending order."""
        highest = np.sum([line.shares for line in self.lines], axis=0)
        order = np.argsort(-highest, kind="stable").tolist()
        own = [] if self.label.own is None else [self.label.own]
        shown = list(dict.fromkeys([*own, *order]))[:SHOWN]
        return sorted(shown) if self.label.ordered else shown

    def columns(self) -> list[tuple[str, np.ndarray]]:
        """The names of the values that are shown, each with its share in every line, float64 (n_lines,); the last one
        for all others, if there are any."""
        values = np.array([line.shares for line in self.lines])  # (n_lines, n_values)
        shown = self.shown
        columns = [(printable(self.label.values[i], NAME), values[:, i]) for i in shown]
        rest = len(self.label.values) - len(shown)
        return columns + ([(f"others ({rest})", 1 - values[:, shown].sum(axis=1))] if rest else [])

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and cells: a row for each line."""
        columns, shown = self.columns(), self.shown
        rows = []
        for at, line in enumerate(self.lines):
            cells = [percent(max(0.0, shares[at])) for _, shares in columns]
            if line.chance and line.value in shown:
                cells[shown.index(line.value)] += " = chance"
            rows.append([line.name, *cells])
        return [printable(self.label.name, NAME), *(name for name, _ in columns)], rows


@dataclass(frozen=True)
class TargetShares:
    """What the selections for one target looked at. `target`: its name; empty where there is one target alone."""

    target: str
    shares: list[LabelShares]


def shares_of(labels: Sequence[Label], selections: Sequence[Picks], eligible: np.ndarray) -> list[LabelShares]:
    """The shares of every label. `eligible`: int64, the rows of the pool that may be selected."""
    picked = sorted((s for s in selections if len(s.ids)), key=lambda s: not s.oracle)
    names = _distinct([s.name for s in picked])
    selections = [replace(s, name=name) for s, name in zip(picked, names, strict=True)]
    return with_chance([_shares(label, selections, eligible) for label in labels])


def with_chance(shares: list[LabelShares]) -> list[LabelShares]:
    """The lines with `chance`, by Holm's procedure (1979) over the selections and labels of a target."""
    compared = sorted(line.p for one in shares if one.compared for line in one.selections)
    late = [p for number, p in enumerate(compared) if p * (len(compared) - number) >= LEVEL]
    lowest = min(late, default=1.0)  # the first that is not rejected, and all above it
    return [
        replace(one, lines=[replace(line, chance=line.value is not None and line.p >= lowest) for line in one.lines])
        for one in shares
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """The names cut to SELECTION characters, with numbers where two lines of a table would have one name.

    >>> _distinct(["near", "pool", "near"])
    ['near', 'pool (2)', 'near (2)']
    """
    used, distinct = {"pool", "target"}, []
    for name in names:
        cut = printable(name, SELECTION)
        numbered = (f"{cut} ({number})" for number in range(2, len(names) + 4))
        distinct.append(next(shown for shown in (cut, *numbered) if shown not in used))
        used.add(distinct[-1])
    return distinct


def _shares(label: Label, selections: list[Picks], eligible: np.ndarray) -> LabelShares:
    lines = [Line("pool", label.pool)]
    if label.target.any():
        lines.append(Line("target", label.target))
    for picks in selections:
        codes = label.codes[picks.ids]
        counts = np.bincount(codes, weights=picks.times, minlength=len(label.values)).astype(np.int64)
        value = label.own
        known = np.isin(picks.ids, eligible)
        if value is None:
            value = int(np.argmax(counts / counts.sum() - label.pool / label.pool.sum()))
            p = p_value_of_all(np.bincount(codes[known], minlength=len(label.values)), label.pool)
        else:
            p = p_value(codes[known] == value, picks.times[known], int(label.pool[value]), len(eligible))
        lines.append(Line(picks.name, counts, value, p))
    return LabelShares(label, lines)


def p_value(hits: np.ndarray, times: np.ndarray, rows: int, pool: int) -> float:
    """The share of DRAWS draws of random rows that differ as much from the pool.

    Args:
        hits: bool (m,), which of the distinct rows of a selection have the value.
        times: int64 (m,), how often each was picked; as many random rows are picked as often.
        rows: how many rows of the pool have the value.
        pool: how many rows it has.
    """
    rng = np.random.default_rng(0)
    with_it, left = np.full(DRAWS, rows), pool
    drawn = np.zeros(DRAWS, dtype=np.int64)
    for often, count in zip(*np.unique(times, return_counts=True), strict=True):
        here = rng.hypergeometric(with_it, left - with_it, count)  # (DRAWS,)
        drawn, with_it, left = drawn + often * here, with_it - here, left - count
    expected = times.sum() * rows / pool
    return _as_far(np.abs(drawn - expected), abs(times[hits].sum() - expected))


def p_value_of_all(counts: np.ndarray, pool: np.ndarray) -> float:
    """The same for the sum of the differences of all values' shares. counts, pool: int64 (n_values,)."""
    counts, pool = _first(counts), _first(pool)
    drawn = np.random.default_rng(0).multivariate_hypergeometric(
        pool, counts.sum(), DRAWS_OF_ALL
    )  # (DRAWS_OF_ALL, n_values)
    expected = counts.sum() * pool / pool.sum()
    return _as_far(np.abs(drawn - expected).sum(axis=1), np.abs(counts - expected).sum())


def _first(counts: np.ndarray) -> np.ndarray:
    """The VALUES first counts, and the sum of the others."""
    return np.concatenate([counts[:VALUES], [counts[VALUES:].sum()]])


def _as_far(drawn: np.ndarray, observed: float) -> float:
    """The share of draws at least as far away; the observed one counts as a draw."""
    return (1 + np.count_nonzero(drawn >= observed - 1e-9)) / (1 + len(drawn))


def sentences(shares: Sequence[LabelShares]) -> list[str]:
    """A sentence for each selection: the share of the target's own value of each label, and whether it is chance.

    >>> near: 100% wording 0 (pool 17%), 12% skill sort = chance
    """
    names = [line.name for line in shares[0].selections] if shares else []
    parts: list[list[str]] = [[] for _ in names]
    for one in shares:
        if not one.compared:
            continue
        pool = one.lines[0].shares
        for part, line in zip(parts, one.selections, strict=True):
            value = f"{printable(one.label.name, NAME)} {printable(one.label.values[line.value], NAME)}"
            end = " = chance" if line.chance else f" (pool {percent(pool[line.value])})"
            part.append(f"{percent(line.shares[line.value])} {value}{end}")
    return [f"{name}: {', '.join(part)}" for name, part in zip(names, parts, strict=True) if part]


def percent(share: float) -> str:
    """A share as text; no share above zero is shown as 0%, and none below one as 100%.

    >>> percent(0.123), percent(0.001), percent(0.999), percent(1.0)
    ('12%', '<1%', '>99%', '100%')
    """
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 - 1e-12 else f"{share:.0%}"


def over_targets(targets: Sequence[TargetShares]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells over several targets: for each selection and label the mean share of the target's own value,
    and on how many targets it is above the pool's by more than chance."""
    shares: dict[tuple[str, str], list[tuple[float, bool]]] = {}  # by selection and label, a pair for each target
    for one in (one for of in targets for one in of.shares if one.label.own is not None):
        pool = float(one.lines[0].shares[one.label.own])
        shares.setdefault(("pool", one.label.name), []).append((pool, False))
        for line in one.selections:
            share = float(line.shares[one.label.own])
            shares.setdefault((line.name, one.label.name), []).append((share, share > pool and not line.chance))
    lines, names = (list(dict.fromkeys(part)) for part in zip(*shares, strict=True)) if shares else ([], [])
    cells = [[line, *(_mean(line, shares.get((line, name), [])) for name in names)] for line in lines]
    return ["selection", *(f"own {printable(name, NAME)}" for name in names)], cells


def _mean(line: str, pairs: list[tuple[float, bool]]) -> str:
    if not pairs:
        return "-"
    mean = percent(float(np.mean([share for share, _ in pairs])))
    return mean if line == "pool" else f"{mean} (above in {sum(above for _, above in pairs)} of {len(pairs)})"


def show(targets: Sequence[TargetShares]) -> None:
    """Print, for one target, a table for each label and the sentences; for several the table over them."""
    if not targets:
        return
    out = console()
    out.print("What did the selections look at?", markup=False)
    if len(targets) > 1:
        out.print(table(*over_targets(targets), breaking=None))
        out.print(
            f"{OVER_TARGETS} report.html has the shares for each target.", style="dim", markup=False, soft_wrap=True
        )
        return
    (of,) = targets
    for one in of.shares:
        out.print(table(*one.table(), breaking=None))
    for line in sentences(of.shares):
        out.print(visible(line), markup=False, soft_wrap=True)
    out.print(f"{ROUNDS} {NOTE}", style="dim", markup=False, soft_wrap=True)
