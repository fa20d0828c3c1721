"""Approximate search by lists: every vector lies in the list of its nearest centre, and some lists are searched."""

import faiss
import numpy as np

from near.common.errors import UserError
from near.searching.indexes.approximate import Approximate

TRAINED = 64  # vectors a list that the centres are trained on, at most
NEEDED = 39  # of them a list, at least, for FAISS's k-means to be worth something


class Ivf(Approximate):
    """FAISS's IndexIVFFlat with inner products: `nlist` lists, of which the `nprobe` with the nearest centres are
    searched. Quick to build. Holds n * (D * 4 + 8) bytes, and the training vectors before.

    null: nlist is 4 * sqrt(n), but no more than n / 39; nprobe is 5 * sqrt(nlist), or as many lists as hold 40 * k
    vectors on average where that is more.
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
        index.cp.min_points_per_centroid = 1  # fewer are what was asked for
        index.train(vectors.sample(min(vectors.n, TRAINED * structure["nlist"])))
        chosen = np.concatenate([quantizer.search(block, 1)[1][:, 0] for block in vectors.blocks()])
        # Room for exactly what comes: lists that grow by doubling took 1.6 times the vectors.
        lists = faiss.downcast_InvertedLists(index.invlists)
        for number, size in enumerate(np.bincount(chosen, minlength=structure["nlist"]).tolist()):
            lists.resize(number, size)
            lists.resize(number, 0)
        for block in vectors.blocks(progress):
            some = chosen[index.ntotal : index.ntotal + len(block)]
            index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(some))
        return index

    def width(self, n, k, structure):
        nlist = structure["nlist"]
        wanted = self.asked_width or max(int(5 * nlist**0.5), -(-40 * k * nlist // n))
        return min(wanted, nlist)

    def widest(self, n, structure):
        return structure["nlist"]

    def find(self, index, queries, k, width):
        return index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=width))
