"""Approximate search by lists: each vector is in the list of its nearest centre; a search reads a few lists."""

import faiss
import numpy as np

from near.common.errors import UserError
from near.searching.indexes.approximate import Approximate

TRAINED = 64  # vectors per list that the centres are trained on, at most
NEEDED = 39  # vectors per list that FAISS's k-means needs, at least


class Ivf(Approximate):
    """FAISS's IndexIVFFlat with inner products: `nlist` lists, of which the `nprobe` with the nearest centres are
    searched. Quick to build. Takes n * (dim * 4 + 8) bytes, and the training vectors while building.

    Defaults (null): nlist is 4 * sqrt(n), but no more than n / 39; nprobe is 5 * sqrt(nlist), or as many lists as
    hold 40 * k vectors on average, whichever is more.
    """

    name, width_key = "ivf", "nprobe"

    def __init__(self, nlist: int | None = None, nprobe: int | None = None, recall_queries: int = 64):
        super().__init__({"nlist": nlist}, nprobe, recall_queries)
        self.nlist = nlist

    def structure(self, n):
        if self.nlist is not None and self.nlist > n:
            raise UserError(
                f"index.nlist={self.nlist} is more than the pool's {n} distinct vectors; use index.nlist<={n}"
            )
        return {"nlist": self.nlist or max(1, min(int(4 * n**0.5), n // NEEDED))}

    def build(self, vectors, structure, progress):
        quantizer = faiss.IndexFlatIP(vectors.dim)
        index = faiss.IndexIVFFlat(quantizer, vectors.dim, structure["nlist"], faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # no warning: nlist is the user's choice
        index.train(vectors.sample(min(vectors.n, TRAINED * structure["nlist"])))
        chosen = np.concatenate([quantizer.search(block, 1)[1][:, 0] for block in vectors.blocks()])
        # Reserve exactly the room needed: lists that grow by doubling took 1.6 times the vectors.
        lists = faiss.downcast_InvertedLists(index.invlists)
        for number, size in enumerate(np.bincount(chosen, minlength=structure["nlist"]).tolist()):
            lists.resize(number, size)
            lists.resize(number, 0)
        for block in vectors.blocks(progress):
            lists_of_block = chosen[index.ntotal : index.ntotal + len(block)]
            index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(lists_of_block))
        return index

    def width(self, n, k, structure):
        nlist = structure["nlist"]
        nprobe = self.width_option or max(int(5 * nlist**0.5), -(-40 * k * nlist // n))
        return min(nprobe, nlist)

    def widest(self, n, structure):
        return structure["nlist"]

    def find(self, index, queries, k, width):
        return index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=width))
