"""The real vLLM, in process and as a server, against sentence-transformers (`make test-vllm`: its CPU build)."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from hydra.utils import instantiate

from near.common.errors import UserError
from near.data.builtin.assets import resolve
from near.data.loading import load
from tests.conftest import configured, process
from tests.embedding.test_store import fill, shards

pytestmark = pytest.mark.vllm
ENGINE = ("+embedder.engine.enforce_eager=true", "+embedder.engine.gpu_memory_utilization=0.2")
KEY = "test-key"


def built(real_cache, *overrides):
    cfg = configured("select", "embedder=minilm", f"cache_dir={real_cache}", *overrides)
    return instantiate(cfg.embedder, cache_dir=str(real_cache))


@pytest.fixture(scope="module")
def texts(real_cache):
    """200 rows of the demo's pool, long ones among them."""
    cfg = configured("select", f"cache_dir={real_cache}")
    pool = load(cfg.data, "candidates", cfg.cache_dir)
    ids = np.sort(np.random.default_rng(0).choice(len(pool), 198, replace=False))
    return [*pool.texts(ids, "prompt"), "word " * 2000, ""]


@pytest.fixture(scope="module")
def expected(real_cache, texts):
    embedder = built(real_cache, "embedder.backend=sentence-transformers")
    vectors = embedder.embed(texts)
    return vectors, embedder.truncated


def assert_same(vectors, expected):
    assert vectors.shape == expected.shape
    assert (vectors * expected).sum(1).min() >= 0.9999


def test_in_process(real_cache, texts, expected):
    embedder = built(real_cache, "embedder.backend=vllm", *ENGINE)
    assert embedder.space["embedder"] == "vllm"
    try:
        assert_same(embedder.embed(texts), expected[0])
        assert embedder.truncated == expected[1] > 0
        assert embedder.limit == 256
    finally:
        embedder.close()


def test_as_a_user_types_it(real_cache, tmp_path):
    words = ["embedder.backend=vllm", *ENGINE, "data.candidates.limit=100", "max_K=5", f"output_dir={tmp_path}/out"]
    done = process("select.py", *words, f"cache_dir={real_cache}", "data.refresh=true")
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.load(tmp_path / "out" / "top_indices.npy").shape == (64, 5)


def test_auto_needs_a_gpu(real_cache, caplog):
    embedder = built(real_cache, "embedder.backend=auto")
    assert embedder.backend == "sentence-transformers"


@pytest.fixture(scope="module")
def server(real_cache, tmp_path_factory):
    """A running server and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = resolve("builtin:all-MiniLM-L6-v2", real_cache)
    words = ["--model", folder, "--served-model-name", "minilm", "--runner", "pooling", "--convert", "embed"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    words += ["--gpu-memory-utilization", "0.2", "--api-key", KEY]
    log = tmp_path_factory.mktemp("server") / "log"
    started = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words],
        cwd=log.parent,
        stdout=open(log, "w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            assert started.poll() is None, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1", started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def served(real_cache, url, *overrides):
    words = ["embedder.backend=vllm_server", f"embedder.server.url={url}", "embedder.server.model=minilm"]
    return built(real_cache, *words, *overrides)


def test_the_server(real_cache, texts, expected, server, monkeypatch, tmp_path):
    url, running = server
    monkeypatch.setenv("VLLM_API_KEY", "wrong")
    with pytest.raises(UserError, match="refuses the key .* VLLM_API_KEY"):
        served(real_cache, url).embed(texts)
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    with pytest.raises(UserError, match="serves minilm, not other"):
        served(real_cache, url, "embedder.server.model=other").embed(texts)
    embedder = served(real_cache, url, "embedder.batch_size=16", "embedder.server.concurrency=4")
    assert_same(embedder.embed(texts), expected[0])
    assert (embedder.truncated, embedder.limit) == (expected[1], 256)

    dying = served(real_cache, url, "embedder.chunk=40", "embedder.server.retries=1", "embedder.server.timeout=5")
    original, calls = dying.embed, []

    def embed(part, progress=lambda n: None):
        calls.append(len(part))
        if len(calls) == 3:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        return original(part, progress)

    dying.embed = embed
    with pytest.raises(UserError, match="did not answer in 2 tries .* stored results are reused"):
        fill(tmp_path, texts, dying, dying.space)
    assert len(shards(tmp_path, dying.space)) == 2
