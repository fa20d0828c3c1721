"""The log line of what was embedded."""

import numpy as np
import pytest

from near.embedding.embed import Embedded
from near.embedding.embedders.hashing import HashingEmbedder
from near.searching import find


@pytest.mark.parametrize(
    ("pool", "queries", "line"),
    [  # distinct texts, those that were missing, those that this process embedded
        ((10, 6, 4), (3, 3, 1), "embedded 5 texts (1.5 s) and 4 by other processes; 4 of the pool's 10 distinct texts"),
        ((10, 1, 1), (3, 0, 0), "embedded 1 text (1.5 s); 9 of the pool's 10 distinct texts"),
        ((10, 0, 0), (3, 0, 0), "embedded 0 texts (1.5 s); 10 of the pool's 10 distinct texts"),
    ],
)
def test_texts_of_other_processes_are_not_counted_as_embedded_before(caplog, pool, queries, line):
    caplog.set_level("INFO")
    parts = [Embedded({}, np.empty(0, dtype=np.int64), *counts) for counts in (pool, queries)]
    find._log_embedding(HashingEmbedder(), *parts, 20, 1.5)
    assert f"{line} were embedded before, 50.0% of its rows repeat a text" in caplog.text
