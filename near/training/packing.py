"""Rows packed into sequences of at most a given length, for `trainer.packing=true`."""

import bisect
from collections import defaultdict
from collections.abc import Callable, Sequence

import datasets
import numpy as np
import torch

from near.models.tokens import lengths


def packed(sizes: np.ndarray, capacity: int, seed: int) -> list[list[int]]:
    """Pack rows by best fit, the longest first: each into the fullest sequence that has room for it.

    Args:
        sizes: tokens of each row, int64 (n,).
        capacity: tokens of a sequence at most. A longer row has a sequence of its own.
        seed: of the order among rows of one length.

    Returns:
        Positions in `sizes`, for each sequence.

    >>> packed(np.array([3, 9, 4, 5]), capacity=10, seed=0)
    [[1], [3, 2], [0]]
    """
    order = np.random.default_rng((seed, 5)).permutation(len(sizes))  # 5: not the stream of selectors or the sampler
    order = order[np.argsort(-sizes[order], kind="stable")]
    sequences: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)  # sequences by their room, in tokens
    rooms: list[int] = []  # the keys of with_room, ascending
    for row, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        at = bisect.bisect_left(rooms, size)
        if at == len(rooms):
            sequence, room = len(sequences), capacity
            sequences.append([])
        else:
            room = rooms[at]
            sequence = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[at]
        sequences[sequence].append(row)
        if room > size:
            if room - size not in with_room:
                bisect.insort(rooms, room - size)
            with_room[room - size].append(sequence)
    return sequences


class PackedRows(torch.utils.data.Dataset):
    """Sequences of packed rows: each item is the list of its rows.

    Args:
        table: input_ids and labels.
        ids: rows of the table that are packed, int64 (n,).
        capacity, seed: see `packed`.
    """

    def __init__(self, table: datasets.Dataset, ids: np.ndarray, capacity: int, seed: int):
        self.table = table
        self.sequences = [ids[rows] for rows in packed(lengths(table.select(ids)), capacity, seed)]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, at: int) -> list[dict]:
        return [self.table[int(row)] for row in self.sequences[at]]


def of_sequences(collate: Callable[[list[dict]], dict]) -> Callable[[Sequence[list[dict]]], dict]:
    """`collate` for items of PackedRows: the batch has all their rows, which the trainer lays end to end."""
    return lambda sequences: collate([row for rows in sequences for row in rows])
