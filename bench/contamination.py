"""Comparing a pool with held-out rows by sequences of words: seconds, and the memory that it takes.

    python bench/contamination.py [rows=100000,1000000 held_out=2000 words=150 leaks=1000]

Rows of `words` words of a vocabulary of 50,000 words whose frequencies follow Zipf's law; a tenth are numbers. Of
`leaks` rows, 20 consecutive words are those of a held-out row. Held-out rows are 60 words long. Each size runs in a
separate process; reading the files is not measured.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import tempfile
from collections.abc import Iterator

import numpy as np

from bench import common
from bench.material import write_examples

VOCABULARY, HELD_OUT_WORDS, LEAKED = 50_000, 60, 20


def texts(rows: int, words: int, seed: int) -> Iterator[str]:
    """Texts of `words` words."""
    vocabulary = [
        f"{i}" if i % 10 == 0 else f"w{i:x}".translate(str.maketrans("0123456789", "ghijklmnop"))
        for i in range(VOCABULARY)
    ]
    chances = 1 / np.arange(1, VOCABULARY + 1)
    chances /= chances.sum()
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 1000):
        for line in rng.choice(VOCABULARY, (min(1000, rows - start), words), p=chances):
            yield " ".join(vocabulary[i] for i in line)


def work(folder: str) -> list[float]:
    """Compare; seconds, the increase of the peak memory in bytes, and how many rows overlap."""
    from near.data.contamination import overlaps_with
    from near.data.loading import load

    paths = [f"data.candidates.path={folder}/pool.jsonl", f"data.queries.path={folder}/held_out.jsonl"]
    cfg = common.composed("select", "data=files", "embedder=hashing", f"cache_dir={folder}/cache", *paths)
    held_out, pool = (load(cfg.data, part, cfg.cache_dir) for part in ("queries", "candidates"))
    Path("/proc/self/clear_refs").write_text("5")
    before = common.peak()
    seconds, overlaps = common.timed(lambda: overlaps_with(pool, [held_out]))
    return [seconds, common.peak() - before, len({one.row for one in overlaps})]


def main(rows: list[int] = (100_000, 1_000_000), held_out: int = 2000, words: int = 150, leaks: int = 1000) -> None:
    print(f"{held_out} held-out rows of {HELD_OUT_WORDS} words; pool rows of {words}, {leaks} of them share {LEAKED}")
    print(f"{'rows':>10}{'seconds':>10}{'rows/s':>10}{'MB more':>10}{'found':>8}")
    for count in rows:
        with tempfile.TemporaryDirectory() as folder:
            targets = list(texts(held_out, HELD_OUT_WORDS, 1))
            write_examples(Path(folder) / "held_out.jsonl", ((text, "so") for text in targets))
            stretches = [" ".join(text.split()[10 : 10 + LEAKED]) for text in targets]
            every = max(1, count // max(1, leaks))
            pool = (
                (f"{text} {stretches[i // every % held_out]}" if i % every == 0 else text, "so")
                for i, text in enumerate(texts(count, words, 2))
            )
            write_examples(Path(folder) / "pool.jsonl", pool)
            seconds, memory, found = common.apart(work, folder)
        print(f"{count:>10}{seconds:10.1f}{count / seconds:10.0f}{memory / 1e6:10.1f}{found:>8}", flush=True)


if __name__ == "__main__":
    common.script(main, work)
