"""Whether recomputed scores are those of a matrix, up to rounding, and no nearer row was missed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from near.common.text import plural
from near.selection.verifying.checks import Check, failed, impossible, passed
from near.selection.verifying.recompute import EMBEDDED, LATE, STORED, MappedIds, Recomputed

# how far a cosine may be off on another machine, by the least exact type on its way
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
LEAST_RECALL = 0.5  # of an approximate index; near warns far above it
EXAMPLES = 3  # faults that a line names


def tolerance_of(embedder: Mapping[str, Any] | None, scores: np.ndarray) -> float:
    """How far a score may be off: of cosines by TOLERANCES, of BM25 scores a share of the largest.

    Args:
        embedder: the manifest's; None for BM25.
        scores: float32 (m,), the highest score of each query.
    """
    if embedder is None:
        return 1e-5 * max(1.0, float(np.max(scores, initial=0.0)))
    dtypes = [embedder.get(name) for name in ("dtype", "store_dtype")]
    return max(TOLERANCES.get(str(dtype), TOLERANCES["float32"]) for dtype in dtypes)


@dataclass
class _Tally:
    """Counts over queries. `faults`: of scores, and of rows, in words."""

    scores: int = 0
    absent: int = 0
    late: int = 0
    equal: int = 0
    largest: float = 0.0
    swapped: int = 0
    best: int = 0
    new: int = 0
    wrong_scores: int = 0
    wrong_rows: int = 0

    def __post_init__(self):
        self.score_faults: list[str] = []
        self.row_faults: list[str] = []


def check_scores(
    ids: np.ndarray,
    scores: np.ndarray,
    here: MappedIds,
    there: np.ndarray,
    done: Recomputed,
    eligible: int,
    tolerance: float,
    exact: bool,
) -> list[Check]:
    """Compare a matrix with recomputed scores.

    Args:
        ids, scores: of the matrix, (n_queries, k), memory-mapped.
        here: its ids as rows of the pool here.
        there: int64 (n_pool,), of each row here the row of the matrix's pool; -1: none.
        eligible: rows here that may be selected.
        tolerance: scores that differ by no more are equal up to rounding.
        exact: whether the matrix was searched exactly, so that it must have the nearest rows.
    """
    tally = _Tally()
    for number, (query, again) in enumerate(zip(done.queries, done.scores, strict=True)):
        best = done.best[number] if done.best else None
        _compare(query, ids[query], scores[query], here.of([query])[0], there, again, best, tolerance, tally)
    return [_scores(tally, done, len(ids), tolerance), _neighbours(tally, done, len(ids), eligible, tolerance, exact)]


def _compare(
    query: int,
    ids: np.ndarray,
    saved: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    again: np.ndarray,
    best: tuple[np.ndarray, np.ndarray] | None,
    tolerance: float,
    tally: _Tally,
) -> None:
    """Add one query's comparison to `tally`. Two scores are equal up to rounding if they differ by at most `tolerance`;
    so a row of the matrix is wrong only if its recomputed score is further from the saved one, or if a row that the
    matrix lacks is nearer than its last one by more."""
    is_here = ~np.isnan(again)
    tally.absent += int((here < 0).sum())
    tally.late += int((~is_here & (here >= 0)).sum())
    tally.scores += int(is_here.sum())
    off = np.where(is_here, np.abs(again - saved), 0.0)
    tally.largest = max(tally.largest, float(off.max(initial=0.0)))
    for rank in np.flatnonzero(off > tolerance)[: EXAMPLES + 1]:
        row = int(ids[rank])
        kind = "row" if best is not None and here[rank] not in best[0] else "score"
        tally.score_faults.append(
            f"query {query}, rank {rank + 1}: row {row} saved with {saved[rank]:.6g}, recomputed {again[rank]:.6g}"
            + (", not among the nearest: a wrong row" if kind == "row" else "")
        )
    tally.wrong_scores += int((off > tolerance).sum())
    if best is None:
        return
    rows, found = best
    tally.best += len(rows)
    last = float(saved[-1])
    missed = ~np.isin(rows, here)
    tally.new += int((missed & (there[rows] < 0)).sum())
    wrong = missed & (there[rows] >= 0) & (found > last + tolerance)
    tally.wrong_rows += int(wrong.sum())
    for at in np.flatnonzero(wrong)[: EXAMPLES + 1]:
        tally.row_faults.append(
            f"query {query}: row {int(rows[at])} here has {found[at]:.6g}, more than the last neighbour's {last:.6g}, "
            "and is missing"
        )
    width = min(len(rows), len(here))
    other = rows[:width] != here[:width]
    tally.swapped += int((other & (np.abs(found[:width] - saved[:width]) <= tolerance)).sum())
    tally.equal += int((~other & (found[:width] == saved[:width])).sum())


def _scores(tally: _Tally, done: Recomputed, queries: int, tolerance: float) -> Check:
    if not done.queries:
        return impossible("scores", "no query could be recomputed within the time; raise limit, or set limit=null")
    counts = f"{len(done.queries)} of {plural(queries, 'query', 'queries')}"
    if tally.wrong_scores:
        faults = "; ".join(tally.score_faults[:EXAMPLES])
        return failed(
            "scores",
            f"{tally.wrong_scores} of {tally.scores} scores of {counts} differ by more than {tolerance:g}: {faults}",
        )
    absent = f"; {plural(tally.absent, 'neighbour is', 'neighbours are')} not in the data here" if tally.absent else ""
    absent += f"; no time for {tally.late} of their scores" if tally.late else ""
    off = f"all within {tolerance:g} (largest difference {tally.largest:.1g})"
    equal = f"; {tally.equal} to the bit in a search here" if done.best else ""
    return passed("scores", f"{counts}, {plural(tally.scores, 'score')}: {off}{equal}{absent}{_origin(done)}")


def _origin(done: Recomputed) -> str:
    """Where the vectors of the pool's rows are from; empty without vectors."""
    counts = {kind: int(np.count_nonzero(done.origin == kind)) for kind in (STORED, EMBEDDED, LATE)}
    if not any(counts.values()):
        return ""
    late = f", no time for {counts[LATE]}" if counts[LATE] else ""
    total = plural(sum(counts.values()), "vector")
    return f"; of {total} of the pool {counts[STORED]} from the store, {counts[EMBEDDED]} embedded now{late}"


def _neighbours(tally: _Tally, done: Recomputed, queries: int, eligible: int, tolerance: float, exact: bool) -> Check:
    if not done.best:
        return impossible(
            "neighbours", "the pool could not be searched within the time; raise limit, or set limit=null"
        )
    count = len(done.queries)
    of_queries = plural(count, "query", "queries") if count == queries else f"{count} of {queries} queries"
    where = f"{done.searched} of {plural(eligible, 'row')} searched for {of_queries}"
    if tally.wrong_rows and exact:
        faults = "; ".join(tally.row_faults[:EXAMPLES])
        return failed(
            "neighbours", f"{where}: {plural(tally.wrong_rows, 'nearer row is', 'nearer rows are')} missing: {faults}"
        )
    recall = 1 - tally.wrong_rows / max(1, tally.best)
    if recall < LEAST_RECALL:
        return failed("neighbours", f"{where}: a recall of {recall:.2f}, too low for an approximate index")
    ties = plural(tally.swapped, "rank has", "ranks have")
    swapped = f"; {ties} another row with a score within {tolerance:g}: a tie, by rounding" if tally.swapped else ""
    swapped += f"; {tally.new} of the nearest are rows that the pool there does not have" if tally.new else ""
    if done.searched < eligible or count < queries or tally.late:
        return impossible("neighbours", f"{where}: no time for the others; raise limit, or set limit=null")
    if not exact:
        missed = f"{plural(tally.wrong_rows, 'nearer row is', 'nearer rows are')} missing, as an approximate index may"
        return passed("neighbours", f"{where}: {missed} miss them{swapped}")
    return passed("neighbours", f"{where}: none is nearer than the saved ones{swapped}")
