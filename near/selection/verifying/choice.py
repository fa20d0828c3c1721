"""Whether a selector picks the saved rows again. One that looks at a model is not checked."""

import dataclasses

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.text import plural
from near.data.columns import columns_of
from near.embedding.embed import embedder_of
from near.embedding.missing import RowTexts, look_up
from near.embedding.store import Store
from near.searching.material import Material
from near.searching.neighbours import first_columns, read_matrix
from near.selection.embedding_similarity import EmbeddingSimilarity
from near.selection.needs import needs_of
from near.selection.round import checked
from near.selection.selectors.base import selector_of
from near.selection.subset import round_of
from near.selection.verifying.checks import Check, failed, impossible, passed
from near.selection.verifying.folder import SelectionFolder, read_array

NAME = "choice"


def check_choice(folder: SelectionFolder, cfg: DictConfig, cache_dir: str, material: Material) -> Check:
    """Select again from the saved matrix. Raises UserError where the selector can't be made.

    Args:
        cfg: the folder's configuration, with the data here.
        material: the data here, in the order that they had.
    """
    selector, saved = selector_of(cfg.selector), folder.subset()
    needs, name = needs_of(cfg, selector), type(selector).__name__
    if needs.requires:
        return Check(
            NAME, "not checked", f"selector {name} reads {needs.requires} of a model; select again to check it"
        )
    if needs.vectors:
        return Check(
            NAME, "not checked", f"selector {name} clusters the vectors of the whole pool; select again to check it"
        )
    if needs.neighbours and not folder.has_matrix:
        return impossible(NAME, "top_indices.npy is missing")
    neighbours = None
    if needs.neighbours:
        neighbours = read_matrix(folder.path)
        neighbours = first_columns(neighbours, neighbours.ids.shape[1])
    round = round_of(cfg, cache_dir, needs, material, neighbours)
    columns = columns_of(cfg.data, material.candidates, needs.columns, cache_dir)
    query_columns = (
        columns_of(cfg.data, material.queries, needs.query_columns, cache_dir) if needs.query_columns else {}
    )
    round = dataclasses.replace(round, columns=columns, query_columns=query_columns)
    if isinstance(round.similarity, EmbeddingSimilarity):
        rows = (material.candidates, material.queries, neighbours)
        round = dataclasses.replace(round, similarity=_StoredSimilarity(cfg.embedder, cache_dir, *rows))
    subset = checked(selector.select(round), round, name)
    if not np.array_equal(subset.ids, saved):
        same = len(np.intersect1d(subset.ids, saved))
        order = ", in another order" if same == len(saved) == len(subset.ids) else ""
        return failed(
            NAME, f"selector {name} picks {len(subset.ids)} rows, {same} of the {len(saved)} saved ones{order}"
        )
    path = folder.path / "subset_scores.npy"
    if subset.scores is not None and path.is_file():
        scores = read_array(path)
        if not np.array_equal(np.asarray(subset.scores, dtype=np.float32), scores, equal_nan=True):
            return failed(NAME, f"selector {name} picks the same rows with other scores than subset_scores.npy")
        return passed(
            NAME, f"selector {name} picks the same {plural(len(saved), 'row')} in the same order, with the same scores"
        )
    return passed(NAME, f"selector {name} picks the same {plural(len(saved), 'row')} in the same order")


class _StoredSimilarity(EmbeddingSimilarity):
    """As EmbeddingSimilarity, but it embeds nothing: a check must not take hours."""

    def opened(self):
        """See Similarity.opened. Raises UserError if vectors are missing."""
        embedder = embedder_of(self.embedder, self.cache_dir)
        with Store.of(embedder, self.cache_dir) as store:
            read = RowTexts(self.candidates, self.ids, embedder)
            missing = len(look_up(store, read, len(self.ids), embedder.chunk).missing)
        if missing:
            raise UserError(
                f"the selector compares {plural(missing, 'row')} without a vector in the store; set limit=null"
            )
        return super().opened()
