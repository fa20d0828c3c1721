"""Texts to vectors in the store: what is missing is embedded chunk by chunk, by however many processes there are."""

from dataclasses import dataclass

import numpy as np

from near.common.progress import bar
from near.data.rows import Rows
from near.embedding.embedders.base import Embedder
from near.embedding.missing import RowTexts, embed_missing, look_up
from near.embedding.store import Store


@dataclass
class Embedded:
    """Vectors of n texts in one space: `places` int64 (n,), where each is; `now`: texts this process embedded."""

    signature: dict
    places: np.ndarray
    distinct: int
    now: int


def embed_rows(store: Store, embedder: Embedder, rows: Rows, ids: np.ndarray, query: bool = False) -> Embedded:
    """Embed rows `ids` where the store has them not yet, here or by the embedder's launcher; others are joined."""
    read = RowTexts(rows, ids, embedder, query)
    with bar(len(ids), "looking up") as looking:
        looked = look_up(store, read, len(ids), embedder.chunk, looking.update)
    now = 0
    if len(looked.missing):
        with bar(len(looked.missing), "embedding") as embedding:
            work = embed_missing
            if embedder.launcher == "ray":
                from near.embedding.on_ray import embed_on_ray as work
            now = work(store, looked, read, embedder, embedding.update)
            embedding.update(embedding.total - embedding.n)
    return Embedded(embedder.signature, looked.places, looked.distinct, now)
