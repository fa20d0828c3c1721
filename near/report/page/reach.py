"""What other values of max_K and n would change: how many rows are reached, at which score, with which labels."""

from collections.abc import Iterator, Sequence

import numpy as np

from near.common.errors import printable
from near.report.labels import Label
from near.report.shares import NAME, percent
from near.searching.neighbours import Neighbours
from near.selection.selectors.near import walk

Table = tuple[list[str], list[list[str]]]


def steps(most: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ... below `most`, and `most`.

    >>> list(steps(30))
    [1, 2, 5, 10, 20, 30]
    """
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= most:
                yield most
                return
            yield factor * power
        power *= 10


def by_max_K(neighbours: Neighbours, labels: Sequence[Label], eligible: int) -> Table:
    """A row for each max_K up to the matrix's: the distinct rows it reaches, the scores at which it ends, and the share
    of the rows with the target's own labels.

    Args:
        labels: of the pool; those without a value of the target are left out.
        eligible: how many rows of the pool may be selected.
    """
    labels = [label for label in labels if label.own is not None]
    is_reached, before, rows = np.zeros(len(_codes(labels, neighbours)), dtype=bool), 0, []
    for width in steps(neighbours.ids.shape[1]):
        is_reached[neighbours.ids[:, before:width]] = True
        before, last = width, neighbours.scores[:, width - 1]
        reached = np.flatnonzero(is_reached)
        cells = [str(width), str(len(reached)), percent(len(reached) / eligible)]
        cells += [f"{np.median(last):.3f}", f"{last.min():.3f}"]
        rows.append(cells + [percent(share) for share in _own_shares(labels, reached)])
    heads = ["max_K", "distinct rows", "of the pool", "median score at that rank", "lowest"]
    return [*heads, *_names(labels)], rows


def _codes(labels: Sequence[Label], neighbours: Neighbours) -> np.ndarray:
    return labels[0].codes if labels else np.empty(int(neighbours.ids.max()) + 1)


def by_n(neighbours: Neighbours | None, labels: Sequence[Label], ids: np.ndarray | None) -> tuple[Table, str]:
    """A row for each n: the score of the n-th row, the lowest score so far, and the labels of the first n rows; and a
    sentence on their order.

    Args:
        ids: int64 (m,), the subset in its selector's order; None: in the order of selector=near.
    """
    labels = [label for label in labels if label.own is not None]
    order, scores, note = _order(neighbours, ids)
    rows = []
    for n in sorted({*steps(len(order)), len(order if ids is None else ids)}):
        first = scores[:n][np.isfinite(scores[:n])]
        cells = [str(n), _score(scores[n - 1]), _score(first.min() if len(first) else np.nan)]
        rows.append(cells + [percent(share) for share in _own_shares(labels, order[:n])])
    return (["n", "score of the n-th row", "lowest until then", *_names(labels)], rows), note


def _order(neighbours: Neighbours | None, ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Rows in order, int64 (m,); their highest scores in the matrix, float32 (m,), NaN where they are not in it; and
    what the order is."""
    if neighbours is None:
        return ids, np.full(len(ids), np.nan, dtype=np.float32), "The first n rows in the selector's order."
    walked, best = walk(neighbours, int(max(neighbours.ids.max(), -1 if ids is None else ids.max())) + 1)
    if ids is None:
        return walked, best, "As selector=near would pick them: every query's nearest row, then every second, ..."
    if np.array_equal(ids, walked[: len(ids)]):
        note = f"The first n rows in the selector's order; beyond the {len(ids)} that were picked, the next ones."
        return walked, best, note
    of = np.full(int(max(walked.max(), ids.max())) + 1, np.nan, dtype=np.float32)
    of[walked] = best
    return ids, of[ids], "The first n rows in the selector's order. A score is the highest in the matrix."


def _score(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{value:.3f}"


def _own_shares(labels: Sequence[Label], ids: np.ndarray) -> list[float]:
    return [float(np.mean(label.codes[ids] == label.own)) for label in labels]


def _names(labels: Sequence[Label]) -> list[str]:
    return [f"{printable(label.name, NAME)} {printable(label.values[label.own], NAME)}" for label in labels]
