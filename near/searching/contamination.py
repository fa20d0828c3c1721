"""Contamination by embeddings (`data.decontaminate.cosine`): rows of the pool with a vector close to a held-out row's.

Both rows are embedded as documents, by their texts as the embedder reads them. Vectors see paraphrases that n-grams
(near/data/contamination.py) don't, but neither numbers nor negations reliably. Tulu 3 (Lambert et al. 2024, section
3.2) tried both, too, and found n-grams more useful: distant texts are hard to tell from near ones by a threshold.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.cached import cached, existing
from near.common.errors import UserError
from near.common.files import cache_folder, digest, write_jsonl
from near.common.records import Overlap
from near.data.contamination import read_overlaps, set_name, with_overlaps
from near.data.rows import Rows
from near.data.table import FAULT, FILTERED, UNANSWERED
from near.embedding.embed import embed_rows, embedder_of, reads_answers
from near.embedding.store import Store
from near.searching.equal_rows import close_pairs
from near.searching.vectors import StoredVectors


def without_similar(
    pool: Rows, held_out: Sequence[Rows], data: DictConfig, embedder: DictConfig, cache_dir: str, compute: bool = True
) -> Rows:
    """`pool` with its overlaps by embeddings, and with data.decontaminate.action=drop without the rows that have one;
    unchanged without data.decontaminate.cosine. Every process of a job calls this.

    Args:
        compute: False: raise UserError instead of computing what is not in the cache.
    """
    cosine = None if data.get("decontaminate") is None else data.decontaminate.cosine
    if cosine is None:
        return pool
    model, unusable = embedder_of(embedder, cache_dir), FAULT | FILTERED
    if reads_answers(embedder):
        unusable |= UNANSWERED
    parts = [(pool, pool.eligible()), *((rows, np.flatnonzero(rows.flagged(unusable, none=True))) for rows in held_out)]
    states = [(rows.name, rows.fingerprint, hashlib.sha256(ids).hexdigest()) for rows, ids in parts]
    path = cache_folder(cache_dir, "overlaps", f"{digest(['embedding', states, model.signature, cosine])}.jsonl")
    overlaps = existing(path, read_overlaps)
    if overlaps is None and not compute:
        raise UserError("the rows close to held-out ones are no longer in the cache; select or train again")
    if overlaps is None:
        with Store.of(model, cache_dir) as store:
            offsets = [embed_rows(store, model, rows, ids).offsets for rows, ids in parts]  # shared by all processes
            model.close()

            def make(new: Path) -> None:
                vectors, found = StoredVectors(store, offsets[0]), []
                for (rows, ids), of in zip(parts[1:], offsets[1:], strict=True):
                    for at, other, value in zip(*close_pairs(vectors, store.read(of), cosine), strict=True):
                        one = {"row": int(parts[0][1][at]), "set": set_name(rows), "held_out_row": int(ids[other])}
                        found.append(Overlap(**one, kind="embedding", cosine=round(float(value), 4)))
                write_jsonl(new, (one.to_json() for one in found))

            overlaps = cached(path, make, read_overlaps)
    return with_overlaps(pool, overlaps, data)
