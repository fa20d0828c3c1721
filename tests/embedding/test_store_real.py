"""The store under what really happens: kills at random moments, a full disk, several ranks. With the real model."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from near.app import cache
from tests.conftest import RANKS, ROOT, process, run_script, write_rows

pytestmark = pytest.mark.real
ROWS = 2500


@pytest.fixture(scope="module")
def words(real_cache) -> list[str]:
    """A selection of the demo's first rows with chunks of 32 texts."""
    from near.data.builtin.assets import resolve

    resolve("builtin:evals-demo-imperial_date_to_string", real_cache)
    model = resolve("builtin:all-MiniLM-L6-v2", real_cache)
    data = real_cache / "assets" / "evals-demo-imperial_date_to_string"
    paths = [f"data.candidates.path={data}/pool.jsonl", f"data.queries.path={data}/queries.jsonl"]
    formats = ["data.candidates.format=messages", "data.queries.format=messages"]
    return ["data=files", *paths, *formats, f"embedder.model={model}", "embedder.chunk=32", "max_K=50"]


def artifacts(folder: Path) -> dict[str, bytes]:
    """All that must be the same byte for byte: the matrix, its scores and every shard of the store."""
    files = {name: (folder / "out" / name).read_bytes() for name in ("top_indices.npy", "top_scores.npy")}
    return files | {p.name: p.read_bytes() for p in (folder / "cache" / "embeddings").glob("*/*.safetensors")}


def command(folder: Path, words: list[str], *more: str) -> list[str]:
    return ["select.py", *words, f"cache_dir={folder}/cache", f"output_dir={folder}/out", *more]


@pytest.mark.slow
def test_killed_at_20_moments_it_ends_as_if_undisturbed(tmp_path, words):
    limit = f"data.candidates.limit={ROWS}"
    done = process(*command(tmp_path / "whole", words, limit))
    assert done.returncode == 0, done.stderr[-2000:]
    rng, disturbed, seen = random.Random(20), tmp_path / "disturbed", []
    for kill in range(20):
        started, stored = time.time(), len(_shards(disturbed))
        running = subprocess.Popen(
            [sys.executable, *command(disturbed, words, limit)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        early = kill % 4 == 3  # while the model is loaded for the first chunk; else in the midst of chunks
        while not (_claimed_since(started, disturbed) if early else len(_shards(disturbed)) > stored):
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        until = time.time() + rng.uniform(0, 4 if early else 1.2)
        while time.time() < until and len(_shards(disturbed)) < stored + 3:  # a fast machine must not get to the end
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        before = sum(space.vectors for space in cache.spaces(disturbed / "cache"))
        assert not seen or before >= seen[-1], "something that was stored is gone"
        seen.append(before)
    assert len(set(seen)) > 10
    done = process(*command(disturbed, words, limit))
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"embedded {_distinct(tmp_path / 'whole') - seen[-1]} texts" in done.stdout
    assert artifacts(disturbed) == artifacts(tmp_path / "whole")


def _claimed_since(started: float, folder: Path) -> bool:
    """Whether embedding has started: claims of processes that were killed before are older."""
    for path in (folder / "cache" / "embeddings").glob("*/claims/*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= started:
                return True
    return False


def _shards(folder: Path) -> list[str]:
    return [p.name for p in (folder / "cache" / "embeddings").glob("*/*.safetensors")]


def _distinct(folder: Path) -> int:
    return sum(space.vectors for space in cache.spaces(folder / "cache"))


@pytest.mark.slow
def test_two_processes_share_the_embedding_and_end_alike(tmp_path, words):
    limit = "data.candidates.limit=600"
    assert process(*command(tmp_path / "one", words, limit)).returncode == 0
    both = tmp_path / "both"
    running = [
        subprocess.Popen(
            [sys.executable, *command(both, words, limit, f"output_dir={both}/{name}")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("out", "other")
    ]
    outputs = [run.communicate()[0] for run in running]
    assert [run.returncode for run in running] == [0, 0]
    now = [int(text.partition("embedded ")[2].split()[0]) for text in outputs]
    assert sum(now) == _distinct(both) == _distinct(tmp_path / "one")
    assert min(now) > 0
    assert (both / "other" / "top_indices.npy").read_bytes() == (both / "out" / "top_indices.npy").read_bytes()
    # two at once may have fewer threads each, and so other last bits: the neighbours are the same up to ties
    assert set(_shards(both)) & set(_shards(tmp_path / "one"))
    np.testing.assert_allclose(
        np.load(both / "out" / "top_scores.npy"), np.load(tmp_path / "one" / "out" / "top_scores.npy"), atol=1e-5
    )


def test_two_ranks_embed_disjoint_chunks(tmp_path, words):
    words = [*words, "data.candidates.limit=4000", "embedder=hashing", "embedder.chunk=32"]
    words = [w for w in words if not w.startswith("embedder.model")]
    assert run_script(*command(tmp_path / "one", words)).returncode == 0
    done = run_script(*RANKS, *command(tmp_path / "two", words))
    assert done.returncode == 0, done.stderr[-2000:]
    now = [int(count) for count in re.findall(r"rank [01]: embedded (\d+) texts", done.stdout)]
    assert len(now) == 2 and sum(now) == _distinct(tmp_path / "one"), done.stdout
    assert "searching in 2 shards" in done.stdout
    assert artifacts(tmp_path / "two") == artifacts(tmp_path / "one")


def test_a_full_disk_is_one_line_and_leaves_a_usable_store(tmp_path, small_disk):
    disk, resize = small_disk
    resize("6m")
    rows = [{"instruction": f"row number {i}", "output": "b"} for i in range(3000)]
    paths = [f"data.candidates.path={write_rows(tmp_path / 'p.jsonl', rows)}"]
    paths.append(f"data.queries.path={write_rows(tmp_path / 't.jsonl', [{'instruction': 'target', 'output': 'b'}])}")
    words = ["data=files", *paths, "embedder=hashing", "embedder.chunk=256", "max_K=5", f"output_dir={tmp_path}/out"]
    done = run_script("select.py", *words, f"cache_dir={disk}/cache")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: no space left on the device")
    stored = sum(space.vectors for space in cache.spaces(disk / "cache"))
    assert 0 < stored < 3000 and stored % 256 == 0
    assert not list(disk.rglob("*.part"))
    resize("200m")
    done = run_script("select.py", *words, f"cache_dir={disk}/cache")
    assert done.returncode == 0, done.stderr
    assert f"embedded {3001 - stored} texts" in done.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["figures"]["embedded"] == 3001 - stored


@pytest.mark.slow
def test_a_shard_that_rots_on_disk_is_embedded_again(tmp_path, words):
    words = [*words, "data.candidates.limit=100"]
    assert process(*command(tmp_path, words)).returncode == 0
    before = artifacts(tmp_path)
    rotten = sorted((tmp_path / "cache" / "embeddings").glob("*/*.safetensors"))[0]
    with open(rotten, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\0\1\2\3")
    done = process(*command(tmp_path, words, "max_K=60", "overwrite=true"))  # wider: it has to be searched
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{rotten} is damaged" in done.stdout + done.stderr
    assert process(*command(tmp_path, words, "overwrite=true")).returncode == 0
    assert artifacts(tmp_path) == before
