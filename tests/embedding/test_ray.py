"""embedder.launcher=ray on a local cluster of two workers, one of which is killed midway; index.launcher=ray."""

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
from hydra.utils import instantiate

from near.common.cluster import on_cluster
from near.common.errors import UserError
from near.data.loading import load
from near.embedding.embed import embed_rows
from near.embedding.embedders.base import normalised
from near.embedding.embedders.hashing import HashingEmbedder
from near.embedding.store import Store
from near.searching.indexes.flat import TILE, Flat
from near.searching.shards import put_together, shards_of
from near.searching.vectors import ArrayVectors
from near.selection.select import select
from tests.conftest import ROOT, configured, write_rows

pytestmark = pytest.mark.ray


class Slow(HashingEmbedder):
    """Hashing that takes its time and leaves a note of who embeds what."""

    notes: str
    seconds = 0.3

    def embed(self, texts, progress=lambda n: None):
        with open(f"{self.notes}/{os.getpid()}", "a") as file:
            file.write(f"{len(texts)}\n")
        time.sleep(self.seconds)
        return super().embed(texts, progress)


@pytest.fixture(scope="module")
def cluster():
    import ray

    root = str(ROOT)
    environment = {"env_vars": {"PYTHONPATH": root, "RAY_USAGE_STATS_ENABLED": "0"}}
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


@pytest.fixture()
def rows(tmp_path):
    raw = [{"instruction": f"text {i % 900}", "output": "b"} for i in range(1000)]
    path = write_rows(tmp_path / "p.jsonl", raw)
    cfg = configured("select", "data=files", f"data.candidates.path={path}", f"cache_dir={tmp_path}/data")
    return load(cfg.data, "candidates", cfg.cache_dir)


def embedded(rows, folder, embedder):
    with Store(folder, embedder.space) as store:
        embedded_rows = embed_rows(store, embedder, rows, rows.eligible())
        return (
            store.read(embedded_rows.offsets),
            embedded_rows.now,
            {p.name for p in store.folder.glob("*.safetensors")},
        )


def slow(tmp_path, **options):
    embedder = Slow(dim=16, chunk=50, launcher="ray", workers=2, **options)
    embedder.notes = str(tmp_path / "notes")
    os.makedirs(embedder.notes)
    return embedder


def test_two_workers_embed_what_one_process_would(cluster, rows, tmp_path):
    alone, now, shards = embedded(rows, tmp_path / "alone", HashingEmbedder(dim=16, chunk=50))
    assert now == 900
    embedder = slow(tmp_path)
    together, now, theirs = embedded(rows, tmp_path / "ray", embedder)
    assert now == 900
    np.testing.assert_array_equal(together, alone)
    assert theirs == shards, "the same chunks, byte for byte"
    notes = [open(f"{embedder.notes}/{name}").read().split() for name in os.listdir(embedder.notes)]
    assert len(notes) == 2 and str(os.getpid()) not in os.listdir(embedder.notes)
    assert sum(map(len, notes)) == 18
    assert embedded(rows, tmp_path / "ray", embedder)[1] == 0


def test_a_worker_killed_midway_loses_nothing(cluster, rows, tmp_path):
    alone, _, shards = embedded(rows, tmp_path / "alone", HashingEmbedder(dim=16, chunk=50))
    embedder, killed = slow(tmp_path), []

    def kill():
        while not os.listdir(embedder.notes):
            time.sleep(0.01)
        time.sleep(0.1)  # in the middle of its chunk
        killed.append(int(os.listdir(embedder.notes)[0]))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    together, _, theirs = embedded(rows, tmp_path / "ray", embedder)
    assert killed and not psutil.pid_exists(killed[0])
    np.testing.assert_array_equal(together, alone)
    assert theirs == shards
    assert len(os.listdir(embedder.notes)) == 3, "another worker took its place"


def test_the_launcher_is_an_option(rows, tmp_path):
    cfg = configured("select", "embedder=hashing", "embedder.launcher=ray", "embedder.workers=2")
    embedder = instantiate(cfg.embedder, cache_dir=str(tmp_path))
    assert (embedder.launcher, embedder.workers) == ("ray", 2)


def test_a_search_is_a_task_for_each_shard(cluster, tmp_path):
    """index.launcher=ray: what tasks find is what one process finds, and none of it is searched again here."""
    raw = [{"instruction": f"text {i} of {i % 7} things", "output": "b"} for i in range(3000)]
    target = write_rows(tmp_path / "t.jsonl", [{"instruction": f"text {i}", "output": "b"} for i in range(5)])
    path = write_rows(tmp_path / "p.jsonl", raw)
    words = [
        "data=files",
        f"data.candidates.path={path}",
        f"data.queries.path={target}",
        "embedder=hashing",
        "max_K=40",
    ]
    files = {}
    for name, more in (("one", []), ("ray", ["index.launcher=ray"])):
        cfg = configured("select", *words, *more, f"cache_dir={tmp_path}/{name}")
        select(cfg, tmp_path / name / "out")
        files[name] = [(tmp_path / name / "out" / f"top_{part}.npy").read_bytes() for part in ("indices", "scores")]
    assert files["one"] == files["ray"]


def test_tasks_leave_a_shard_each_and_their_errors_are_ours(cluster, tmp_path):
    pool = normalised(np.random.default_rng(0).normal(size=(3 * TILE, 8)))
    job = shards_of(Flat(launcher="ray"), pool[:5], ArrayVectors(pool), 20, tmp_path / "shards", tmp_path / "result")
    assert len(job) == 3, "one for each CPU of the cluster"
    reported = []
    on_cluster(len(job), job.search_as_task, reported.append)
    assert (reported, sorted(p.suffix for p in job.folder.iterdir())) == ([TILE] * 3, [".bin"] * 3 + [".lock"] * 3)
    scores, rows = put_together(job, 20)
    expected = Flat().search(pool[:5], ArrayVectors(pool), 20)
    assert (scores.tobytes(), rows.tobytes()) == (expected[0].tobytes(), expected[1].tobytes())
    pool[2 * TILE + 5] = np.nan
    job = shards_of(
        Flat(launcher="ray"), pool[:5], ArrayVectors(pool, "candidates"), 20, tmp_path / "bad", tmp_path / "result"
    )
    with pytest.raises(UserError, match=f"candidates: row {2 * TILE + 5} holds NaN or infinity"):
        on_cluster(len(job), job.search_as_task, reported.append)
