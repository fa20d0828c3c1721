"""What select.py prints at its end: a table of the search, a few rows, and warnings of suspicious neighbours."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from near.common.errors import printable
from near.common.processes import world_size
from near.common.text import plural
from near.data.rows import Rows

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours
import logging

log = logging.getLogger(__name__)

# A query's nearest row is far if its similarity is less than this share of the way from a typical one to 1. On the
# demo's pool, queries of the pool's task reached at least 0.86, other questions 0.2 to 0.4 (LOG.md). Relative, because
# embedders differ in the similarity of unrelated texts.
FAR = 0.4
SAME = 1e-6  # scores that differ by less are equal
NEAREST = 10  # ranks whose sources are counted
SHOWN = 72  # characters of a text
LABEL = 40  # characters of a source's label
WIDTH = 110  # characters of a line where the output is no terminal


def summarise(neighbours: "Neighbours", candidates: Rows, queries: Rows) -> None:
    """Print the table and the three nearest rows of two queries; warn of queries whose neighbours are far or equal."""
    query_ids = queries.eligible()
    plain = {"highlight": False, "emoji": False}  # a row's text is data
    console = Console(**plain) if Console().is_terminal else Console(**plain, width=WIDTH)
    console.print(_table(neighbours, candidates, query_ids))
    for at in np.unique([0, len(query_ids) // 2]):
        console.print(f"query {query_ids[at]}: {_text(queries, query_ids[at])}", soft_wrap=True)
        for row, score in zip(neighbours.ids[at, :3], neighbours.scores[at, :3], strict=True):
            console.print(f"  {score:.3f}  row {row}: {_text(candidates, row)}", soft_wrap=True)
    known = slice(None) if neighbours.scales is None else neighbours.scores[:, 0] > 0  # the search warns of the others
    warn(neighbours.scores[known], neighbours.typical, query_ids[known])


def _table(neighbours: "Neighbours", candidates: Rows, query_ids: np.ndarray) -> Table:
    figures, ids = neighbours.manifest.figures, neighbours.ids
    embedded = 0 if neighbours.cached else figures["embedded"]
    eligible = neighbours.manifest.candidates.eligible
    sources = Counter(map(str, candidates.sources(ids[:, :NEAREST].ravel())))
    shares = [f"{printable(name, LABEL)} {count / sources.total():.0%}" for name, count in sources.most_common(5)]
    others = [plural(len(sources) - 5, "other")] if len(sources) > 5 else []
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("pool", f"{plural(len(candidates), 'row')}, {eligible} may be selected")
    table.add_row("queries", str(len(query_ids)))
    if (described := neighbours.manifest.similarity) is None:
        texts, of_queries = figures["distinct_texts"], figures["query_texts"]
        in_store = texts + of_queries - embedded
        table.add_row(
            "distinct texts",
            f"{texts}, and {of_queries} of queries: {embedded} embedded now{_here()}, {in_store} before",
        )
        then = "then" if neighbours.cached else "now"
        table.add_row("truncated", f"{figures['truncated']} of the texts embedded {then}")
    method = described["similarity"] if described else neighbours.manifest.index["index"]
    method = "the same search as before" if neighbours.cached else method
    recall = f", recall {figures['recall']:.3f}" if "recall" in figures else ""
    table.add_row("search", f"{0 if neighbours.cached else figures['search_seconds']:.1f} s, {method}{recall}")
    width = ids.shape[1]
    ranks = [rank for rank in (1, 10, 100) if rank < width] + [width]
    means = [f"{neighbours.scores[:, rank - 1].mean():.3f} at rank {rank}" for rank in ranks]
    table.add_row("mean score" if described else "mean similarity", ", ".join(means))
    table.add_row("distinct rows", f"{len(np.unique(ids))} in the matrix of {len(ids)} x {width}")
    table.add_row(f"sources of the {min(NEAREST, width)} nearest", escape(", ".join(shares + others)))
    return table


def _here() -> str:
    """Says that counts are of this process alone, where other ranks embed and search their parts."""
    return " by this rank" if world_size() > 1 else ""


def _text(rows: Rows, row: int) -> str:
    """The beginning of a row's prompt, as data: nothing in it is markup or steers the terminal."""
    return escape(printable(rows.texts(np.array([row]), "prompt")[0], SHOWN))


def warn(scores: np.ndarray, typical: np.ndarray | None, query_ids: np.ndarray) -> None:
    """Warn of queries whose neighbours are all far, or all equally near, naming the first of them.

    Args:
        scores: float32 (n_queries, k), best first.
        typical: float32 (n_queries,), see find.typical_scores; None: not checked for far neighbours.
        query_ids: int64 (n_queries,), the queries' row ids.
    """
    if typical is not None:
        far = np.flatnonzero((scores[:, 0] - typical) < FAR * (1 - typical))
        if len(far):
            q = far[0]
            log.warning(
                f"{len(far)} of {plural(len(query_ids), 'query', 'queries')} without a near row in the pool: "
                f"query {query_ids[q]}'s nearest has similarity {scores[q, 0]:.3f}, just any row "
                f"{typical[q]:.3f}; do pool and target fit together?"
            )
    same = np.flatnonzero(scores[:, 0] - scores[:, -1] <= SAME) if scores.shape[1] > 1 else []
    if len(same):
        q = same[0]
        log.warning(
            f"{len(same)} of {len(query_ids)} queries have neighbours that are all the same: the {scores.shape[1]} of "
            f"query {query_ids[q]} all have similarity {scores[q, 0]:.3f}; "
            "if the pool repeats one text, use data.dedup=exact"
        )
