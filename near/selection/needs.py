"""What a selector needs beside the pool, told before anything heavy is loaded; what can't be had is refused there."""

from dataclasses import dataclass

from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.errors import UserError
from near.data.loading import is_set
from near.selection.selectors.base import Selector


@dataclass(frozen=True)
class Needs:
    """queries: the target set has to be given; answers: with answers. neighbours: the matrix of embeddings. asks_model:
    what the model is asked for, "losses" or "gradients"."""

    queries: bool = False
    answers: bool = False
    neighbours: bool = False
    asks_model: str | None = None
    trains_on_queries: bool = False


def needs_of(cfg: DictConfig, selector: Selector) -> Needs:
    """What `selector` needs under `similarity`, which says how alike rows and queries are by what."""
    asks, neighbours, similarity = selector.asks_model, selector.needs_neighbours, instantiate(cfg.similarity)
    if similarity.asks_model:
        if not neighbours or asks:
            raise UserError(
                "similarity=gradients is for selectors over neighbours (near, uot, doubly_greedy, tsds, ...); "
                "leave it at embeddings for this one"
            )
        asks, neighbours = similarity.asks_model, similarity.needs_neighbours
    gradients = asks == "gradients"
    if asks and is_set(cfg.data, "queries") is False and gradients:
        raise UserError("data.queries.path is missing: the target whose gradients are followed; set it to a file")
    if asks and cfg.scoring.checkpoints:
        if not gradients:
            raise UserError("scoring.checkpoints are asked for gradients; losses are the model's own: set it to null")
        from near.selection.scoring.checkpoints import Checkpoint

        Checkpoint.all(list(cfg.scoring.checkpoints))  # what is wrong with them is told before anything is loaded
    answers = gradients or selector.trains_on_queries
    return Needs(neighbours or answers, answers, neighbours, asks, selector.trains_on_queries)
