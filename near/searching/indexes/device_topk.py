"""The best k rows of each query on a device of torch: near/searching/indexes/topk.py in tensors."""

import numpy as np
import torch

from near.searching.indexes.topk import ROWS

ROOM = 2048  # keys of a query beyond the k best, at least
NONE = torch.iinfo(torch.int64).min  # no row


class DeviceBest:
    """The best k rows of each query so far, on a device: int64 keys, whose order is that of topk.py's uint64 keys.

    `floor`, float32 (n_queries,): only scores above it are taken.
    """

    def __init__(self, queries: np.ndarray, k: int, rows: int, device: str):
        self.k, self.queries = k, torch.tensor(queries, device=device)
        self.keys = torch.full((len(queries), k + room(k, rows)), NONE, dtype=torch.int64, device=device)
        self.count = torch.zeros(len(queries), dtype=torch.int64, device=device)
        self.floor = torch.full((len(queries),), -torch.inf, dtype=torch.float32, device=device)

    def offer(self, batch: slice, block: torch.Tensor, first: int) -> bool:
        """Take what is above the floor among the scores of a batch of queries with a block, whose first row is `first`.

        False, and nothing is taken: there is no room for so many. Nothing is taken either where memory runs out.
        """
        scores = self.queries[batch] @ block.T  # (n_batch, n_block)
        keys, count = self.keys[batch], self.count[batch]
        for full in (False, True):
            if full:
                self._drop(batch)
            above = scores > self.floor[batch, None]
            new = above.sum(1)
            total, most = torch.stack([new.sum(), (count + new).max()]).tolist()  # the device is waited for here
            if most <= keys.shape[1]:
                break
        else:
            return False
        if total:
            query, column = _positions(above, total)
            begin = count - (new.cumsum(0) - new)
            position = begin[query] + torch.arange(total, device=query.device)
            keys[query, position] = pack(scores[query, column], column + first)
            count += new
        return True

    def _drop(self, batch: slice) -> None:
        """Keep the k best keys of each query and raise its floor to the k-th score."""
        keys, count, floor = self.keys[batch], self.count[batch], self.floor[batch]
        best = keys.topk(self.k, dim=1, sorted=False).values
        raised = torch.where(count >= self.k, torch.maximum(floor, scores_of(best.amin(1))), floor)
        keys[:, : self.k], keys[:, self.k :] = best, NONE
        count.clamp_(max=self.k)
        floor.copy_(raised)

    def result(self, size: int) -> np.ndarray:
        """uint64 (n_queries, k), best first, 0 where there is no row; `size` queries are sorted at a time. Frees the
        keys."""
        parts = [part.topk(self.k, dim=1).values.cpu() for part in self.keys.split(size)]
        self.keys = self.keys[:0].clone()
        return torch.cat(parts).numpy().view(np.uint64) ^ np.uint64(1 << 63)


def room(k: int, rows: int) -> int:
    """Keys of a query beyond the k best: as many as are left of `rows`, or so many that dropping them is rare."""
    return max(0, min(max(2 * k, ROOM), rows - k))


def _positions(above: torch.Tensor, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the `total` True of a bool matrix, without waiting for the device where torch allows it."""
    if above.device.type in ("cpu", "cuda"):
        return torch.nonzero_static(above, size=total).unbind(1)
    return above.nonzero(as_tuple=True)


def pack(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """int64 keys of float32 scores and int64 rows: a larger key is the higher score, of equal ones the lower row."""
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.to(torch.int64) << 32) | (ROWS - 1 - rows)


def scores_of(keys: torch.Tensor) -> torch.Tensor:
    """The scores of int64 keys, float32."""
    bits = (keys >> 32).to(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
