"""What two selections share: `near diff A B`."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from omegaconf import DictConfig

from near.common.correlation import rank_correlation
from near.common.errors import UserError, one_line, printable, visible
from near.common.tables import console, table
from near.common.text import plural
from near.data.formats.formats import embedded_text
from near.data.loading import load, load_pool
from near.data.rows import Rows
from near.report.labels import labels_of
from near.report.picked import Picked
from near.report.runs import quiet
from near.report.shares import CHANCE, LabelShares, Picks, percent, shares_of
from near.selection.verifying.rows import match

TEXT = 70  # characters of a row that are shown
SIDES = ("A only", "both", "B only")


@dataclass(frozen=True)
class Row:
    """A row that one selection prefers.

    Attributes:
        side: "A" or "B", which prefers it.
        row: its id in that selection's pool.
        place, other: its place in that selection's order and in the other's, from 1; None: it is not in the other.
        score, other_score: None without one.
        text: the beginning of its prompt; None if the pool can't be read.
    """

    side: str
    row: int
    place: int
    other: int | None
    score: float | None
    other_score: float | None
    text: str | None = None


@dataclass
class Differences:
    """Attributes:
    a, b: the selections.
    b_ids: int64 (m,), the rows of B as ids of A's pool; -1: not in it.
    foreign: of the rows of A, how many are not in B's pool; None: the pools are the same.
    correlation: Spearman's, of the scores of `scored` common rows; None for fewer than three, or if all of one are
        equal.
    shares: of labels, of the rows of A only, both, B only.
    rows: that differ most.
    absent: why parts are missing.
    """

    a: Picked
    b: Picked
    b_ids: np.ndarray
    foreign: int | None
    scored: int = 0
    correlation: float | None = None
    shares: list[LabelShares] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def sides(self) -> dict[str, np.ndarray]:
        """Rows of A only, of both, of B only, as ids of A's pool, int64 each."""
        known = self.b_ids[self.b_ids >= 0]
        both = np.isin(self.a.ids, known)
        return dict(zip(SIDES, (self.a.ids[~both], self.a.ids[both], known[~np.isin(known, self.a.ids)]), strict=True))

    def counts(self) -> dict[str, float | int | None]:
        """Numbers of rows, the Jaccard index and the shares."""
        both, a, b = len(self.sides["both"]), len(self.a.ids), len(self.b.ids)
        return {
            "rows_of_a": a,
            "rows_of_b": b,
            "both": both,
            "a_only": a - both,
            "b_only": b - both,
            "jaccard": both / (a + b - both) if a + b else None,
            "share_of_a": both / a if a else None,
            "share_of_b": both / b if b else None,
            "a_not_in_pool_of_b": self.foreign,
            "b_not_in_pool_of_a": None if self.foreign is None else int((self.b_ids < 0).sum()),
        }

    def to_json(self) -> dict:
        labels = [
            {
                "label": one.label.name,
                "values": one.label.values,
                "rows": {line.name: line.counts.tolist() for line in one.lines},
            }
            for one in self.shares
        ]
        return {
            "schema_version": 1,
            "a": {"name": self.a.name, "what": self.a.what, "pool": self.a.fingerprint},
            "b": {"name": self.b.name, "what": self.b.what, "pool": self.b.fingerprint},
            **self.counts(),
            "scored": self.scored,
            "rank_correlation": self.correlation,
            "labels": labels,
            "rows": [vars(row) for row in self.rows],
            "absent": self.absent,
        }


Read = Callable[[], DictConfig]  # a folder's configuration, with the data here


def diff(a: Picked, b: Picked, read_a: Read, read_b: Read, cache_dir: str, rows: int) -> Differences:
    """Compare two selections.

    Args:
        read_a, read_b: return their configurations, for labels and texts.
        cache_dir: of the data.
        rows: that differ most, to list of each side.

    Raises:
        UserError: they are of different pools, and the content of one pool's rows is unknown; a row is not of its pool.
    """
    result = _matched(a, b)
    _correlate(result)
    pools = []
    for picked, read in ((a, read_a), (b, read_b)):
        try:
            if picked is b and a.fingerprint == b.fingerprint and pools[0] is not None:
                pools.append(pools[0])
                continue
            with quiet():
                cfg = read()
                pools.append((cfg.data, _pool(cfg.data, picked, cache_dir)))
        except (UserError, OSError, ValueError) as error:
            pools.append(None)
            result.absent.append(f"{picked.name}: its rows can't be shown ({one_line(error)})")
    for picked, ids, pool in ((a, a.ids, pools[0]), (b, b.ids, pools[1]), (b, result.b_ids, pools[0])):
        if pool is not None and ids.max(initial=-1) >= len(pool[1]):
            raise UserError(f"{picked.name} names row {ids.max()} of {len(pool[1])}; name a folder that is whole")
    if pools[0] is not None:
        data, pool = pools[0]
        _add_shares(result, data, pool, cache_dir)
    _add_rows(result, rows, [None if pool is None else pool[1] for pool in pools])
    return result


def _matched(a: Picked, b: Picked) -> Differences:
    if a.fingerprint is not None and a.fingerprint == b.fingerprint:
        return Differences(a, b, b.ids, None)
    keys = []
    for picked in (a, b):
        keys.append(picked.folder.keys("candidates"))
        if keys[-1] is None:
            raise UserError(
                f"{a.name} and {b.name} are of different pools, and {picked.name} has no pool_keys.npy, by which rows "
                "are matched; make it again with this version of near"
            )
        if len(picked.ids) and picked.ids.max() >= len(keys[-1]):
            raise UserError(
                f"{picked.name} names row {picked.ids.max()} of {len(keys[-1])}; name a folder that is whole"
            )
    matched = match(keys[1], keys[0])  # from B's pool to A's
    in_b = matched.there
    return Differences(a, b, matched.here[b.ids], int((in_b[a.ids] < 0).sum()))


def _correlate(result: Differences) -> None:
    a, b = result.a, result.b
    if a.scores is None or b.scores is None:
        return
    of_b = {row: score for row, score in zip(result.b_ids.tolist(), b.scores.tolist(), strict=True) if row >= 0}
    pairs = [(s, of_b[row]) for row, s in zip(a.ids.tolist(), a.scores.tolist(), strict=True) if row in of_b]
    values = np.array([pair for pair in pairs if np.isfinite(pair).all()]).reshape(-1, 2)
    result.scored = len(values)
    if len(values) > 2 and (np.ptp(values, axis=0) > 0).all():
        result.correlation = rank_correlation(values[:, 0], values[:, 1])


def _pool(data: DictConfig, picked: Picked, cache_dir: str) -> Rows:
    """Its pool as it is here. UserError if these are other rows."""
    rows = load_pool(data, picked.fingerprint, cache_dir)
    if rows.fingerprint != picked.fingerprint:
        raise UserError("data.candidates are other rows now; name the right ones with data.candidates.path=FILE")
    return rows


def _add_shares(result: Differences, data: DictConfig, pool: Rows, cache_dir: str) -> None:
    try:
        with quiet():
            target = None if data.queries.path is None else load(data, "queries", cache_dir, answer=False)
            labels = labels_of(data, pool, target, cache_dir)
    except (UserError, OSError, ValueError) as error:
        result.absent.append(f"no labels: {one_line(error)}")
        return
    picks = [Picks(name, ids, np.ones(len(ids), dtype=np.int64)) for name, ids in result.sides.items()]
    result.shares = shares_of(labels, picks, pool.eligible())
    if lost := int((result.b_ids < 0).sum()):
        result.absent.append(f"{plural(lost, 'row')} of B not in A's pool: not among the labels")


def _add_rows(result: Differences, most: int, pools: list[Rows | None]) -> None:
    """The rows that differ most: the best of one that the other lacks, then those whose places differ most."""
    a, b = result.a, result.b
    place_a = a.places
    place_b = {row: place for place, row in enumerate(result.b_ids.tolist(), 1) if row >= 0}
    sides = (
        ("A", a, a.ids, a.ids, place_b, _scores(result.b_ids, b.scores), pools[0]),
        ("B", b, b.ids, result.b_ids, place_a, _scores(a.ids, a.scores), pools[1]),
    )
    for side, picked, own, ids, others, other_scores, pool in sides:
        far = len(others) + len(own) + 1  # behind every place
        places = np.array([others.get(row, far) for row in ids.tolist()], dtype=np.int64)
        ranks = np.arange(1, len(own) + 1)
        order = np.lexsort((ranks, np.where(places == far, -far, ranks - places)))[:most]
        for at in order.tolist():
            if places[at] <= ranks[at]:
                continue  # the other one prefers it, or both alike
            other = None if places[at] == far else int(places[at])
            score = None if picked.scores is None else _finite(picked.scores[at])
            text = None if pool is None else _text(pool, int(own[at]))
            row = Row(side, int(own[at]), at + 1, other, score, other_scores.get(int(ids[at])), text)
            result.rows.append(row)


def _scores(ids: np.ndarray, scores: np.ndarray | None) -> dict[int, float | None]:
    pairs = [] if scores is None else zip(ids.tolist(), scores.tolist(), strict=True)
    return {row: _finite(score) for row, score in pairs if row >= 0}


def _finite(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def _text(pool: Rows, row: int) -> str:
    return printable(embedded_text(pool.messages(row), "prompt"), TEXT)


def show(result: Differences) -> None:
    """Print a comparison."""
    out, counts = console(), result.counts()
    for side, picked in (("A", result.a), ("B", result.b)):
        out.print(
            visible(f"{side}: {picked.name} ({plural(len(picked.ids), 'row')}, {picked.what})"),
            markup=False,
            soft_wrap=True,
        )
    heads = ["both", "A only", "B only", "Jaccard", "of A's rows", "of B's rows", "rank correlation"]
    correlation = "-" if result.correlation is None else f"{result.correlation:+.3f} ({plural(result.scored, 'row')})"
    shares = [counts["share_of_a"], counts["share_of_b"]]
    cells = [str(counts[name]) for name in ("both", "a_only", "b_only")]
    cells += ["-" if counts["jaccard"] is None else f"{counts['jaccard']:.3f}"]
    cells += ["-" if share is None else percent(share) for share in shares]
    out.print(table(heads, [[*cells, correlation]]))
    if result.foreign is not None:
        out.print(
            f"Different pools, matched by content: {plural(result.foreign, 'row')} of A not in B's pool, "
            f"{plural(counts['b_not_in_pool_of_a'], 'row')} of B not in A's.",
            markup=False,
            soft_wrap=True,
        )
    for one in result.shares:
        out.print(table(*one.table(), breaking=None))
    if result.shares:
        out.print(CHANCE, style="dim", markup=False, soft_wrap=True)
    for side, other in (("A", "B"), ("B", "A")):
        if rows := [row for row in result.rows if row.side == side]:
            out.print(f"Rows that {side} prefers most", markup=False)
            heads = ["row", f"place in {side}", f"in {other}", f"score in {side}", f"in {other}", "text"]
            out.print(table(heads, [_cells(row) for row in rows], breaking={5}))
    for line in result.absent:
        out.print(visible(line), style="dim", markup=False, soft_wrap=True)


def _cells(row: Row) -> list[str]:
    scores = ["-" if score is None else f"{score:.3f}" for score in (row.score, row.other_score)]
    return [str(row.row), str(row.place), "absent" if row.other is None else str(row.other), *scores, row.text or "-"]
