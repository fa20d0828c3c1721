"""What select.py says at its end: the search in a table, a few rows to look at, a warning where they make no sense."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from near.common.errors import printable
from near.common.processes import world_size
from near.data.rows import Rows

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours
import logging

log = logging.getLogger(__name__)

FAR = 0.4  # of the way from that similarity to 1: on the demo's pool rows of the target's own task came to 0.86 at
# least, questions about anything else to 0.2 to 0.4 (LOG.md); relative, because embedders differ in what they call far
SAME = 1e-6  # a difference of scores that is none
NEAREST = 10  # ranks whose sources are counted
SHOWN = 72  # characters of a text
LABEL = 40  # characters of a source's label
WIDTH = 110  # columns of a table that goes into a file


def summarise(neighbours: "Neighbours", candidates: Rows, queries: Rows) -> None:
    """Print the table and three nearest rows of two queries, and warn of queries whose neighbours are far or equal."""
    asked = queries.eligible()
    plain = {"highlight": False, "emoji": False}  # a row's text is data
    console = Console(**plain) if Console().is_terminal else Console(**plain, width=WIDTH)
    console.print(_table(neighbours, candidates, asked))
    for at in np.unique([0, len(asked) // 2]):
        console.print(f"query {asked[at]}: {_text(queries, asked[at])}", soft_wrap=True)
        for row, score in zip(neighbours.ids[at, :3], neighbours.scores[at, :3], strict=True):
            console.print(f"  {score:.3f}  row {row}: {_text(candidates, row)}", soft_wrap=True)
    warn(neighbours.scores, neighbours.typical, asked)


def _table(neighbours: "Neighbours", candidates: Rows, asked: np.ndarray) -> Table:
    figures, ids = neighbours.manifest["figures"], neighbours.ids
    embedded = 0 if neighbours.found else figures["embedded"]
    eligible = neighbours.manifest["candidates"]["eligible"]
    sources = Counter(map(str, candidates.sources(ids[:, :NEAREST].ravel())))
    shares = [f"{printable(name, LABEL)} {count / sources.total():.0%}" for name, count in sources.most_common(5)]
    others = [f"{len(sources) - 5} others"] if len(sources) > 5 else []
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("pool", f"{len(candidates)} rows, {eligible} may be selected")
    table.add_row("queries", str(len(asked)))
    texts, of_queries = figures["distinct_texts"], figures["query_texts"]
    found = texts + of_queries - embedded
    table.add_row(
        "distinct texts", f"{texts}, and {of_queries} of queries: {embedded} embedded now{_here()}, {found} found"
    )
    table.add_row("truncated", f"{figures['truncated']} of the texts embedded {'then' if neighbours.found else 'now'}")
    how = "the same search as before" if neighbours.found else neighbours.manifest["index"]["index"]
    recall = f", recall {figures['recall']:.3f}" if "recall" in figures else ""
    table.add_row("search", f"{0 if neighbours.found else figures['search_seconds']:.1f} s, {how}{recall}")
    width = ids.shape[1]
    ranks = [rank for rank in (1, 10, 100) if rank < width] + [width]
    means = [f"{neighbours.scores[:, rank - 1].mean():.3f} at rank {rank}" for rank in ranks]
    table.add_row("mean similarity", ", ".join(means))
    table.add_row("distinct rows", f"{len(np.unique(ids))} in the matrix of {len(ids)} x {width}")
    table.add_row(f"sources of the {min(NEAREST, width)} nearest", escape(", ".join(shares + others)))
    return table


def _here() -> str:
    """Counts are of this process: other ranks embed and search their parts."""
    return " by this rank" if world_size() > 1 else ""


def _text(rows: Rows, row: int) -> str:
    """The beginning of a row's prompt, as data: nothing in it is markup or steers the terminal."""
    return escape(printable(rows.texts(np.array([row]), "prompt")[0], SHOWN))


def warn(scores: np.ndarray, typical: np.ndarray | None, asked: np.ndarray) -> None:
    """Warn of queries whose neighbours are all far, or all the same, naming the first of them.

    scores: float32 (Q, k), best first; typical: float32 (Q,), see typical_scores; asked: the queries' row ids, (Q,).
    """
    if typical is not None:
        far = np.flatnonzero((scores[:, 0] - typical) < FAR * (1 - typical))
        if len(far):
            q = far[0]
            log.warning(
                f"{len(far)} of {len(asked)} queries have no near row in the pool: query {asked[q]}'s nearest has "
                f"similarity {scores[q, 0]:.3f}, just any row {typical[q]:.3f}; is the target of the pool's kind?"
            )
    same = np.flatnonzero(scores[:, 0] - scores[:, -1] <= SAME) if scores.shape[1] > 1 else []
    if len(same):
        q = same[0]
        log.warning(
            f"{len(same)} of {len(asked)} queries have neighbours that are all the same: the {scores.shape[1]} of "
            f"query {asked[q]} all have similarity {scores[q, 0]:.3f}; does the pool repeat one text? data.dedup=exact"
        )
