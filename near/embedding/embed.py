"""Rows to vectors in the store: missing texts are embedded, shared by all processes that need them."""

from dataclasses import dataclass

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.progress import bar
from near.data.rows import Rows
from near.embedding.embedders.base import Embedder
from near.embedding.missing import RowTexts, embed_missing, look_up
from near.embedding.store import Store


def embedder_of(embedder: DictConfig, cache_dir: str) -> Embedder:
    """The embedder of a configuration's group `embedder`; its model is not loaded yet."""
    return instantiate(embedder, cache_dir=cache_dir)


def reads_answers(embedder: DictConfig) -> bool:
    """Whether texts are embedded with their answers."""
    return embedder.embed != "prompt"


@dataclass
class Embedded:
    """Vectors of n texts in one space.

    Attributes:
        signature: of the embedder.
        offsets: int64 (n,), where each vector is in the store.
        distinct: how many texts differ.
        missing: how many of them were not in the store before.
        now: how many texts this process embedded.
    """

    signature: dict
    offsets: np.ndarray
    distinct: int
    missing: int
    now: int


def embed_rows(store: Store, embedder: Embedder, rows: Rows, ids: np.ndarray, query: bool = False) -> Embedded:
    """Embed the rows whose texts are not in the store, here or by the embedder's launcher, shared with other processes.

    Args:
        rows: where `ids`, int64 (n,), are from.
        query: embed them as queries, not as documents.
    """
    read = RowTexts(rows, ids, embedder, query)
    with bar(len(ids), "looking up") as progress:
        lookup = look_up(store, read, len(ids), embedder.chunk, progress.update)
    now, missing = 0, len(lookup.missing)
    if missing:
        with bar(missing, "embedding") as embedding:
            embed = embed_missing
            if embedder.launcher == "ray":
                from near.embedding.on_ray import embed_on_ray as embed
            now = embed(store, lookup, read, embedder, embedding.update)
            embedding.update(embedding.total - embedding.n)
    return Embedded(embedder.signature, lookup.offsets, lookup.distinct, missing, now)
