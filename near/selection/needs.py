"""What a selector needs beside the pool, known before anything heavy is loaded; UserError if it can't be provided."""

from dataclasses import dataclass

from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.errors import UserError
from near.data.loading import is_set
from near.searching.bm25 import Bm25
from near.selection.scoring.precondition import check_precondition
from near.selection.selectors.base import Required, Selector


@dataclass(frozen=True)
class Needs:
    """What must be loaded.

    Attributes:
        queries: data.queries has to be set.
        answers: the queries need answers.
        query_tokens: the queries are tokenised as they would be trained.
        neighbours: the neighbour matrix, of embeddings or words.
        vectors: the pool's vectors, without a matrix.
        embedder: that matrix, or those vectors, are of embeddings.
        requires: what the model has to compute; None: no model is needed.
        query_sources: the sources of the queries, which are their tasks.
        trains_on_queries: the queries are trained.
        columns, query_columns: further columns of the pool and of the queries.
    """

    queries: bool = False
    answers: bool = False
    query_tokens: bool = False
    neighbours: bool = False
    vectors: bool = False
    embedder: bool = False
    requires: Required | None = None
    query_sources: bool = False
    trains_on_queries: bool = False
    columns: tuple[str, ...] = ()
    query_columns: tuple[str, ...] = ()


def needs_of(cfg: DictConfig, selector: Selector) -> Needs:
    """What `selector` needs under cfg.similarity.

    Raises:
        UserError: the similarity is not for this selector, gradients have no target, or scoring.checkpoints are no use.
    """
    requires, neighbours, similarity = selector.requires, selector.needs_neighbours, instantiate(cfg.similarity)
    vectors = selector.needs_vectors
    if similarity.requires:
        if not neighbours or requires:
            raise UserError(
                "similarity=gradients is for selectors over neighbours (near, uot, doubly_greedy, tsds, ...), and "
                "plans of them, that use the model for nothing else; leave it at embeddings"
            )
        requires, neighbours = similarity.requires, similarity.needs_neighbours
        vectors = similarity.needs_vectors
    gradients = requires == "gradients"
    if gradients and is_set(cfg.data, "queries") is False:
        raise UserError("data.queries.path is missing: the target whose gradients are followed; set it to a file")
    if requires and cfg.scoring.checkpoints:
        if not gradients:
            raise UserError("scoring.checkpoints are for gradients; losses are the current model's: set it to null")
        from near.selection.scoring.checkpoints import Checkpoint

        Checkpoint.all(list(cfg.scoring.checkpoints))  # raises for missing or damaged ones before anything is loaded
    if gradients and cfg.scoring.precondition is not None:
        check_precondition(cfg.scoring.dim)
    answers = gradients or selector.trains_on_queries
    queries = neighbours or answers or selector.needs_queries
    by_words = isinstance(similarity, Bm25)
    if vectors and by_words:
        raise UserError(
            "similarity=bm25 has no vectors of rows, which this selector clusters; leave it at embeddings for this one"
        )
    embedder = (neighbours or vectors) and not by_words
    return Needs(
        queries=queries,
        answers=answers,
        query_tokens=gradients,
        neighbours=neighbours,
        vectors=vectors,
        embedder=embedder,
        requires=requires,
        query_sources=gradients or selector.budgets is not None or selector.reads_query_sources,
        trains_on_queries=selector.trains_on_queries,
        columns=selector.columns,
        query_columns=selector.query_columns,
    )
