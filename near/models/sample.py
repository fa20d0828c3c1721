"""A few rows as tokens, which stand for many: nothing is stored."""

import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from jinja2 import TemplateError
from omegaconf import DictConfig

from near.common.errors import UserError
from near.common.files import digest
from near.common.threads import threads_to_use
from near.data.rows import Rows
from near.models.encoding import IGNORED, Encoder
from near.models.tokens import Tokens, processes, tokens_path

CODED = 1000  # rows that are encoded at most


@dataclass(frozen=True)
class Sample:
    """Rows of a pool, drawn at random, as tokens.

    Attributes:
        tokens: of the rows, numbered anew from 0.
        lengths: tokens of each, int64 (n,).
        seconds: that encoding a row took.
    """

    tokens: Tokens
    lengths: np.ndarray
    seconds: float

    @property
    def mean(self) -> float:
        """Tokens of a row."""
        return float(self.lengths.mean())


def sample_tokens(rows: Rows, ids: np.ndarray, tokenizer, data: DictConfig, most: int = CODED) -> Sample:
    """Encode at most `most` of the rows `ids`, int64 (n,), which may repeat; the same ones every time.

    Raises:
        UserError: none of them has an answer token.
    """
    if len(ids) > most:
        ids = np.random.default_rng(0).choice(ids, most, replace=False)
    distinct, back = np.unique(ids, return_inverse=True)
    encoder, started = Encoder(tokenizer, data), time.perf_counter()
    coded: list[dict | None] = []
    for chat in rows.chats(distinct):
        try:
            row = encoder.encode(chat)
        except (TemplateError, UserError):  # the run itself reports rows that can't be encoded
            coded.append(None)
            continue
        usable = (np.asarray(row.labels) != IGNORED).any()
        coded.append({"input_ids": row.input_ids, "labels": row.labels} if usable else None)
    seconds = (time.perf_counter() - started) / len(distinct)
    usable_rows = [row for i in back if (row := coded[i]) is not None]
    if not usable_rows:
        raise UserError(f"data.{rows.name}: no row has an answer token; increase data.cutoff_len={data.cutoff_len}")
    columns = {name: [np.asarray(row[name]) for row in usable_rows] for name in ("input_ids", "labels")}
    lengths = np.array([len(row) for row in columns["input_ids"]], dtype=np.int64)
    table = datasets.Dataset.from_dict(columns)
    tokens = Tokens(table, np.arange(len(lengths)), digest([rows.fingerprint, distinct.tolist()]))
    return Sample(tokens, lengths, seconds)


def tokenising_seconds(sample: Sample, rows: Rows, tokenizer, data: DictConfig, cache_dir: str) -> float:
    """Seconds of tokenising all rows: 0 if their tokens are in the cache."""
    path: Path = tokens_path(rows, tokenizer, data, cache_dir)
    if path.is_file() and not data.refresh:
        return 0.0
    return sample.seconds * len(rows) / min(data.num_proc or processes(len(rows)) or 1, threads_to_use())
