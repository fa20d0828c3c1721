"""Rows with the right label: the reference for a pool whose rows say what they are about."""

from near.common.errors import UserError, printable
from near.selection.round import Round, Subset
from near.selection.selectors.base import Selector, SubsetSize
from near.selection.selectors.ranking import least_trained_first

SOURCE = "source"  # the label that every row has
SHOWN = 5  # labels in a message


class Oracle(Selector):
    """Random rows among those whose label is one of the queries', those first that were trained least.

    label: a column of the pool and of the queries; `source`: their sources.

    It needs labels that a real pool rarely has. What it gains over random rows is what a perfect choice by that label
    would.
    """

    needs_queries = True
    has_scores = False

    def __init__(self, subset_size: SubsetSize | None = None, label: str = SOURCE):
        super().__init__(subset_size)
        self.label = label
        self.reads_query_sources = label == SOURCE
        if label != SOURCE:
            self.columns = self.query_columns = (label,)

    def select(self, round: Round) -> Subset:
        if self.label == SOURCE:
            pool, queries = round.pool.sources(round.eligible), round.queries.sources(round.queries.eligible())
        else:
            pool = [round.columns[self.label][row] for row in round.eligible.tolist()]
            queries = [round.query_columns[self.label][row] for row in round.queries.eligible().tolist()]
        missing = (None, float("nan"))
        wanted = {str(label) for label in queries} - {str(label) for label in missing}
        if not wanted:
            raise UserError(f"selector.label={self.label}: no query has a label; name another column")
        ids = round.eligible[[str(label) in wanted for label in pool]]
        if not len(ids):
            shown = printable(", ".join(sorted(wanted)[:SHOWN]), 200)
            raise UserError(
                f"selector.label={self.label}: no row of the pool has a label of the queries ({shown}); name another "
                "column"
            )
        order = least_trained_first(round.trained[ids], round.seed, round.index)
        return Subset(ids[order][: round.size])
