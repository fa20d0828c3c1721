"""LLaMA-Factory's `split` and `num_samples`: which rows of a source are used, decided before they are read."""

from collections.abc import Iterator, Sequence

import datasets
import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError, one_line
from near.data.reading import Reading
from near.data.sources.sources import Opened

SEED = 42  # of num_samples: the same sample for all seeds of a comparison, so that all select from one pool


def sampled(source: DictConfig, files: Sequence[Opened], where: str) -> Iterator[tuple[Opened, Reading]]:
    """The files of a dataset_info.json entry, each with the rows of it that belong to the sample.

    The sample is `split` (such as "train[:100]") of all rows, then `num_samples` of these at random, then the first
    `source.limit` of these. Rows keep their positions in the files.

    Raises:
        UserError: `split` is not a part of "train".
    """
    counts = [sum(1 for _ in opened.rows(lambda names: names[:1])) for opened in files]
    chosen = positions(sum(counts), source.sample.get("split"), source.sample.get("num_samples"), source.limit, where)
    start = 0
    for opened, count in zip(files, counts, strict=True):
        in_file = chosen[(chosen >= start) & (chosen < start + count)] - start
        yield opened, Reading.of(source, None, in_file)
        start += count


def positions(rows: int, split: str | None, samples: int | None, limit: int | None, where: str) -> np.ndarray:
    """The rows of the sample among `rows` rows: int64, ascending, distinct. The options are those of `sampled`."""
    chosen = np.arange(rows)
    if split:
        try:
            parts = datasets.ReadInstruction.from_spec(split).to_absolute({"train": rows})
            chosen = np.concatenate([chosen[part.from_ : part.to] for part in parts])
        except (ValueError, AssertionError, KeyError) as error:
            raise UserError(
                f"{where}: split={split} of a file ({one_line(error)[:80]}); files have the split train, and parts of "
                "it such as train[:100]"
            ) from error
    if samples is not None:
        chosen = np.random.RandomState(SEED).permutation(chosen)[:samples]
    return np.unique(chosen[:limit])
