"""A text is embedded once, whatever pool, order or process it comes in; damage, kills and a full disk lose little."""

import errno
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from near.app import cache
from near.common.errors import UserError
from near.common.files import digest, write_json
from near.common.keys import hashed
from near.common.locks import acquire
from near.embedding.embedders.hashing import HashingEmbedder
from near.embedding.missing import embed_missing, look_up
from near.embedding.store import Store

TEXTS = [f"text number {i}" for i in range(50)]


class Counting(HashingEmbedder):
    """Hashing that writes down what it embeds; `fails` on a text."""

    def __init__(self, chunk: int = 10, store_dtype: str = "float32", fails: str | None = None):
        super().__init__(dim=16, chunk=chunk, store_dtype=store_dtype)
        self.seen, self.fails = [], fails

    def embed(self, texts, progress=lambda n: None):
        if self.fails in texts:
            raise RuntimeError("killed")
        self.seen += texts
        return super().embed(texts, progress)


def fill(folder, texts, embedder=None, space=None):
    """Embed `texts`; returns their vectors, how many differ and how many were embedded now."""
    embedder = embedder or Counting()
    with Store(folder, space or {}, embedder.store_dtype) as store:

        def read(at):
            return [texts[i] for i in at]

        lookup = look_up(store, read, len(texts), embedder.chunk)
        now = embed_missing(store, lookup, read, embedder)
        return store.read(lookup.offsets), lookup.distinct, now


def shards(folder, space=None):
    paths = (folder / "embeddings" / digest(space or {})).glob("*.safetensors")
    return {path.name: path.read_bytes() for path in paths}


def test_every_text_once_and_in_order(tmp_path):
    repeated, embedder = TEXTS[:30] + TEXTS[20:] + TEXTS[:5], Counting()
    vectors, distinct, now = fill(tmp_path, repeated, embedder)
    assert (len(vectors), distinct, now) == (65, 50, 50)
    assert embedder.seen == TEXTS
    np.testing.assert_array_equal(vectors, HashingEmbedder(dim=16).embed(repeated))
    again, _, now = fill(tmp_path, TEXTS[::-1])
    assert now == 0
    np.testing.assert_array_equal(again, HashingEmbedder(dim=16).embed(TEXTS[::-1]))


def test_new_rows_alone_are_embedded(tmp_path):
    fill(tmp_path, TEXTS)
    embedder = Counting()
    fill(tmp_path, ["new", *TEXTS, "new"], embedder)
    assert embedder.seen == ["new"]


def test_spaces_do_not_mix(tmp_path):
    fill(tmp_path, TEXTS, space={"model": "a"})
    assert fill(tmp_path, TEXTS, space={"model": "b"})[2] == 50


def test_half_precision_is_stored_if_configured(tmp_path):
    vectors, _, _ = fill(tmp_path, TEXTS, Counting(store_dtype="float16"))
    exact = HashingEmbedder(dim=16).embed(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, exact.astype(np.float16).astype(np.float32))
    assert len(next(iter(shards(tmp_path).values()))) < 10 * (16 + 2 * 16) + 300


def test_a_crash_loses_only_the_chunk_in_flight_and_the_rest_comes_out_the_same(tmp_path):
    fill(tmp_path / "whole", TEXTS)
    with pytest.raises(RuntimeError):
        fill(tmp_path / "broken", TEXTS, Counting(fails=TEXTS[25]))
    embedder = Counting()
    fill(tmp_path / "broken", TEXTS, embedder)
    assert embedder.seen == TEXTS[20:]
    assert shards(tmp_path / "broken") == shards(tmp_path / "whole")


def test_a_half_written_shard_is_never_seen(tmp_path):
    with Store(tmp_path, {}) as store:
        (store.folder / ".abc.safetensors.123.part").write_bytes(b"half")
    assert fill(tmp_path, TEXTS)[2] == 50


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign", "missing"])
def test_a_damaged_shard_is_named_set_aside_and_embedded_again(tmp_path, damage, caplog):
    whole, _, _ = fill(tmp_path, TEXTS)
    before = shards(tmp_path)
    folder = tmp_path / "embeddings" / digest({})
    path = sorted(folder.glob("*.safetensors"))[2]
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    damaged = {"flipped": content, "cut": content[:-20], "empty": b"", "foreign": b"not a shard at all" * 10}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    vectors, _, now = fill(tmp_path, TEXTS)
    assert now == 10
    np.testing.assert_array_equal(vectors, whole)
    assert shards(tmp_path) == before
    if damage != "missing":
        assert f"{path} is damaged" in caplog.text
        assert (folder / "damaged" / path.name).exists()


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    with Store(tmp_path, {}) as store, pytest.raises(UserError, match="1 vector with NaN or inf; try"):
        store.add(hashed(["a", "b"]), np.array([[1.0, np.nan], [1.0, 0.0]], dtype=np.float32))
    assert not shards(tmp_path)


def test_a_full_disk_leaves_a_usable_store(tmp_path, monkeypatch):
    real, budget = os.fsync, [3]

    def fsync(file):
        budget[0] -= 1
        if budget[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        fill(tmp_path, TEXTS)
    monkeypatch.undo()
    assert len(shards(tmp_path)) == 3
    assert not list((tmp_path / "embeddings" / digest({})).glob(".*.part"))
    assert fill(tmp_path, TEXTS)[2] == 20


def test_reading_runs_and_scattered_rows_agree(tmp_path):
    texts = [f"t {i}" for i in range(1000)]
    vectors, _, _ = fill(tmp_path, texts, Counting(chunk=500))
    for order in (np.arange(700), np.random.default_rng(0).permutation(1000), np.array([999, 0, 3, 4, 5, 4])):
        again, _, now = fill(tmp_path, [texts[i] for i in order])
        assert now == 0
        np.testing.assert_array_equal(again, vectors[order])


class Slow(Counting):
    """Counting that takes its time and writes down, in a file, what it embeds."""

    def __init__(self, path, seconds=0.05):
        super().__init__(chunk=5)
        self.path, self.seconds = path, seconds

    def embed(self, texts, progress=lambda n: None):
        with open(self.path, "a") as file:
            file.writelines(f"{t}\n" for t in texts)
        time.sleep(self.seconds)
        return super().embed(texts, progress)


def started(*calls):
    workers = [multiprocessing.get_context("fork").Process(target=fill, args=call) for call in calls]
    for worker in workers:
        worker.start()
    return workers


def ended(workers):
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


def test_two_writers_share_the_work(tmp_path):
    fill(tmp_path / "one", TEXTS, Counting(chunk=5))
    logs = [tmp_path / "a", tmp_path / "b"]
    assert ended(started(*((tmp_path / "two", TEXTS, Slow(path)) for path in logs))) == [0, 0]
    seen = [path.read_text().splitlines() for path in logs]
    assert sorted(seen[0] + seen[1]) == sorted(TEXTS), "a text was embedded twice, or not at all"
    assert min(map(len, seen)) >= 10
    assert shards(tmp_path / "two") == shards(tmp_path / "one")


def test_writers_of_overlapping_pools_share_the_overlap(tmp_path):
    logs = [tmp_path / "a", tmp_path / "b"]
    calls = [(tmp_path / "s", TEXTS[:35], Slow(logs[0])), (tmp_path / "s", TEXTS[12:], Slow(logs[1]))]
    assert ended(started(*calls)) == [0, 0]
    seen = [line for path in logs for line in path.read_text().splitlines()]
    assert sorted(seen) == sorted(TEXTS)
    np.testing.assert_array_equal(fill(tmp_path / "s", TEXTS)[0], HashingEmbedder(dim=16).embed(TEXTS))


def test_the_claim_of_a_killed_process_is_taken_over(tmp_path):
    fill(tmp_path / "one", TEXTS, Counting(chunk=5))
    (hanging,) = started((tmp_path / "s", TEXTS, Slow(tmp_path / "a", seconds=600)))
    while not (tmp_path / "a").exists() or len(list((tmp_path / "s").rglob("claims/*"))) < 2:
        time.sleep(0.01)
    (other,) = started((tmp_path / "s", TEXTS, Slow(tmp_path / "b", seconds=0)))
    while len(shards(tmp_path / "s")) < 8:  # all but the chunk that hangs and the one that is tokenised ahead
        time.sleep(0.01)
    hanging.kill()
    assert ended([hanging, other]) == [-9, 0]
    assert (tmp_path / "b").read_text().splitlines() == TEXTS[10:] + TEXTS[:10]
    assert shards(tmp_path / "s") == shards(tmp_path / "one")
    assert not list((tmp_path / "s").rglob("claims/*"))


def test_the_cache_is_listed_and_pruned(tmp_path, capsys):
    fill(tmp_path, TEXTS, space={"embedder": "a", "model": "m/one"})
    fill(tmp_path, TEXTS[:20], space={"embedder": "b"})
    old, new = (tmp_path / "embeddings" / digest(s) for s in ({"embedder": "a", "model": "m/one"}, {"embedder": "b"}))
    os.utime(old / "lock", (time.time() - 40 * 86400,) * 2)
    cache.main(["--cache-dir", str(tmp_path)])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [new.name[:12], old.name[:12]]
    assert f"{old.name[:12]}  a         m/one  50" in shown
    cache.main(["--cache-dir", str(tmp_path), "prune", "--unused-days", "30"])
    assert capsys.readouterr().out.startswith(f"removed {old.name[:12]}: 50 vectors")
    assert new.exists()
    assert not old.exists()
    for words, says in ((["prune"], "prune what?"), (["prune", "--signature", "zz"], "no such space")):
        with pytest.raises(SystemExit):
            cache.main(["--cache-dir", str(tmp_path), *words])
        assert says in capsys.readouterr().err
    cache.main(["--cache-dir", str(tmp_path), "prune", "--signature", new.name[:6]])
    assert not list((tmp_path / "embeddings").iterdir())


def test_measured_budgets_are_listed_and_pruned_by_age(tmp_path, capsys):
    paths = [tmp_path / "budgets" / f"{digest(name)}.json" for name in ("old", "new")]
    for path in paths:
        write_json(path, {"batch_tokens": 1})
    os.utime(paths[0], (time.time() - 40 * 86400,) * 2)
    cache.main(["--cache-dir", str(tmp_path)])
    assert "measured on accelerators: 2" in capsys.readouterr().out
    cache.main(["--cache-dir", str(tmp_path), "prune", "--unused-days", "30"])
    assert f"removed budget {paths[0].stem[:12]}" in capsys.readouterr().out
    assert [path.exists() for path in paths] == [False, True]


def test_pruning_leaves_a_space_that_a_run_reads(tmp_path, capsys):
    fill(tmp_path, TEXTS)
    with Store(tmp_path, {}) as store:
        cache.main(["--cache-dir", str(tmp_path), "prune", "--signature", digest({})[:8]])
        assert capsys.readouterr().out.startswith("in use, left alone")
        lookup = look_up(store, lambda at: [TEXTS[i] for i in at], 50, 10)
        assert store.read(lookup.offsets).shape == (50, 16)
    cache.main(["--cache-dir", str(tmp_path), "prune", "--signature", digest({})[:8]])
    assert not shards(tmp_path)
    assert fill(tmp_path, TEXTS)[2] == 50


def test_a_forked_child_that_outlives_its_parent_holds_nothing(tmp_path):
    class Forking(Counting):
        def embed(self, texts, progress=lambda n: None):
            if (child := os.fork()) == 0:
                time.sleep(60)
                os._exit(0)
            (tmp_path / "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)

    worker = multiprocessing.get_context("fork").Process(target=fill, args=(tmp_path, TEXTS, Forking()))
    worker.start()
    assert os.waitpid(worker.pid, 0)[1] == signal.SIGKILL
    child = int((tmp_path / "child").read_text())
    try:
        started_at = time.perf_counter()
        assert fill(tmp_path, TEXTS)[2] == 50
        assert time.perf_counter() - started_at < 30
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_claim_that_a_full_disk_cut_short_is_read_as_far_as_it_goes(tmp_path):
    keys = hashed(TEXTS[:3])
    with Store(tmp_path, {}) as store:
        cut = acquire(store.folder / "claims" / "other")
        cut.write(keys.tobytes()[:20])
        with store.claim(keys) as mine:
            assert mine.tolist() == [False, True, True]
        cut.close()


def test_a_shard_that_was_set_aside_and_written_anew_is_left_alone(tmp_path):
    fill(tmp_path, TEXTS)
    with Store(tmp_path, {}) as store:
        for name in shards(tmp_path):
            store._set_aside(name)  # judged from what was there a moment ago
    assert len(shards(tmp_path)) == 5


def test_listing_goes_on_while_files_come_and_go(tmp_path, monkeypatch):
    fill(tmp_path, TEXTS)
    ghost = tmp_path / "embeddings" / digest({}) / ".ghost.part"
    monkeypatch.setattr(type(ghost), "is_file", lambda self: True)
    os.symlink(ghost, ghost.with_name("gone"))
    (space,) = cache.spaces(tmp_path)
    assert space.vectors == 50


def test_a_space_that_lost_its_description_can_still_be_pruned(tmp_path, capsys):
    fill(tmp_path, TEXTS)
    (tmp_path / "embeddings" / digest({}) / "space.json").write_text("{")
    cache.main(["--cache-dir", str(tmp_path)])
    assert f"{digest({})[:12]}  ?" in capsys.readouterr().out
    for days in ("-5", "nan"):
        with pytest.raises(SystemExit):
            cache.main(["prune", f"--unused-days={days}", "--cache-dir", str(tmp_path)])
        assert "is not a number of days" in capsys.readouterr().err
    leftover = tmp_path / "data" / ".x.12345678.part"
    leftover.mkdir(parents=True)
    os.utime(leftover, (time.time() - 2 * 86400,) * 2)
    cache.main(["prune", "--signature", digest({})[:8], "--cache-dir", str(tmp_path)])
    assert not shards(tmp_path)
    assert not leftover.exists()
