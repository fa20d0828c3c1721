"""The client of /v1/embeddings against a server of our own: order, retries, keys, limits, a death midway."""

import base64
import json
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tenacity
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import near.models.server
from near.common.errors import UserError
from near.common.files import digest
from near.data.builtin.tiny import write_tiny
from tests.conftest import configured
from tests.embedding.test_store import fill, shards

pytestmark = pytest.mark.model
KEY = "not-for-logs"


class Server(ThreadingHTTPServer):
    """Answers with vectors made of the token ids; `fail` is called before each answer and may name a status."""

    daemon_threads = True

    def __init__(self, models=("tiny",), max_model_len=2048, key=KEY, encoded=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.models, self.max_model_len, self.key, self.encoded = models, max_model_len, key, encoded
        self.fail, self.busy, self.most, self.lock = lambda: None, 0, 0, threading.Lock()
        self.lengths: list[int] = []
        self.requests = 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


def vector(ids: list[int]) -> np.ndarray:
    made = np.random.default_rng(ids).normal(size=8).astype("<f4")
    return made / np.linalg.norm(made)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: object) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.headers.get("Authorization") != f"Bearer {self.server.key}":
            return self.answer(401, {"error": "Unauthorized"})
        cards = [{"id": name, "max_model_len": self.server.max_model_len} for name in self.server.models]
        self.answer(200, {"data": cards})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests += 1
            server.busy += 1
            server.most = max(server.most, server.busy)
            server.lengths += map(len, body["input"])
            status = server.fail()
        time.sleep(0.02)
        with server.lock:
            server.busy -= 1
        if status is not None:
            return self.answer(status, b"busy, sorry")
        vectors = [vector(ids) for ids in body["input"]]
        embeddings = [base64.b64encode(v.tobytes()).decode() if server.encoded else v.tolist() for v in vectors]
        data = [{"index": i, "embedding": v} for i, v in enumerate(embeddings)]
        self.answer(200, {"data": data[::-1]})  # in no order


@pytest.fixture()
def server():
    made = []

    def make(**options):
        made.append(Server(**options))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()
        each.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    write_tiny(path)
    return path


@pytest.fixture()
def client(folder, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setattr(near.models.server, "WAIT", tenacity.wait_none())

    def make(url, *overrides):
        words = ["embedder.backend=vllm_server", f"embedder.model={folder}", f"embedder.server.url={url}"]
        words += ["embedder.server.model=tiny", "embedder.batch_size=5", "embedder.server.retries=2"]
        cfg = configured("select", *words, *overrides)
        return instantiate(cfg.embedder, cache_dir="unused")

    return make


TEXTS = [f"{'word ' * (i % 7)}number {i}" for i in range(60)]


@pytest.mark.parametrize("encoded", [True, False])
def test_every_text_gets_its_vector(server, client, encoded):
    embedder = client(server(encoded=encoded).url)
    vectors = embedder.embed(TEXTS)
    expected = np.stack([vector(ids) for ids in embedder.tokenizer(TEXTS)["input_ids"]])
    np.testing.assert_allclose(vectors, expected, atol=1e-7)
    assert embedder.space["embedder"] == "vllm_server"
    assert KEY not in json.dumps(embedder.signature)


def test_long_texts_are_cut_and_counted(server, client):
    running = server()
    embedder = client(running.url, "embedder.max_length=20")
    embedder.embed([*TEXTS[:3], "word " * 500, "other " * 500])
    assert embedder.truncated == 2
    assert max(running.lengths) == 20


def test_concurrency_is_bounded(server, client):
    running = server()
    client(running.url, "embedder.server.concurrency=3").embed(TEXTS)
    assert running.most == 3


def test_busy_answers_are_tried_again(server, client):
    running, calls = server(), []

    def fail():
        calls.append(1)
        return (503, 429, 500)[len(calls) % 3] if len(calls) % 4 == 2 else None

    running.fail = fail
    embedder = client(running.url, "embedder.server.concurrency=1")
    assert embedder.embed(TEXTS).shape == (60, 8)
    assert running.requests > 13


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["embedder.server.model=other"], "serves tiny, not other; set embedder.server.model"),
        (["embedder.server.url=http://127.0.0.1:1/v1"], "did not answer in 3 tries"),
        (["embedder.server.url=ftp://127.0.0.1/v1"], "is not a URL"),
        (["embedder.server.api_key_env=UNSET_KEY"], "refuses the key (status 401); put it into the environment"),
        (["embedder.truncate_dim=9"], "embedder.truncate_dim=9 is more than the 8 dimensions"),
    ],
)
def test_errors_are_one_line(server, client, overrides, message):
    with pytest.raises((UserError, InstantiationException)) as caught:
        client(server().url, *overrides).embed(TEXTS)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_refused_request_is_not_tried_again(server, client):
    running = server()
    running.fail = lambda: 400 if running.requests > 1 else None
    with pytest.raises(UserError, match="answers 400: busy, sorry"):
        client(running.url, "embedder.server.concurrency=1").embed(TEXTS)
    assert running.requests <= 4


def test_a_server_without_a_url_is_refused(client):
    with pytest.raises(Exception, match="embedder.server.url is missing"):
        client("null")


def test_a_server_that_dies_midway_loses_nothing_stored(server, client, tmp_path):
    running = server()
    running.fail = lambda: 503 if running.requests > 25 else None
    embedder = client(running.url, "embedder.chunk=20", "embedder.batch_size=1", "embedder.server.concurrency=1")
    with pytest.raises(UserError, match="did not answer in 3 tries .* stored results are reused"):
        fill(tmp_path, TEXTS, embedder, {"a": 1})
    assert len(shards(tmp_path, {"a": 1})) == 1
    running.fail = lambda: None
    again = client(running.url, "embedder.chunk=20")
    vectors, _, now = fill(tmp_path, TEXTS, again, {"a": 1})
    assert now == 40
    np.testing.assert_allclose(vectors, again.embed(TEXTS), atol=1e-7)
    assert digest({"a": 1}) in str(next((tmp_path / "embeddings").iterdir()))


@pytest.mark.parametrize("path", ["/models", "/embeddings"])
@pytest.mark.parametrize(
    "answer",
    [[], {}, {"data": None}, {"data": [{}]}, {"data": [3]}, {"data": [{"index": 0, "embedding": "A"}]}]
    + [{"data": [{"index": 0, "embedding": None}]}, {"data": [{"index": 0, "embedding": [[1.0]]}]}, "text"],
)
def test_an_answer_of_another_form_is_one_line(server, client, monkeypatch, path, answer):
    embedder = client(server().url)
    original = embedder.server.json
    monkeypatch.setattr(
        embedder.server, "json", lambda method, at, body=None: answer if at == path else original(method, at, body)
    )
    with pytest.raises(UserError, match="did not return|serves .*, not tiny|changing length"):
        embedder.embed(TEXTS)


def test_a_limit_below_ours_is_refused_and_one_of_none_is_part_of_the_space(server, client):
    with pytest.raises(UserError, match="max_length=256 is more than the 32 tokens .* use embedder.max_length=32"):
        client(server(max_model_len=32).url).embed(TEXTS)
    spaces = [client(server(max_model_len=n).url, "embedder.max_length=null").space for n in (32, 64)]
    assert [space["max_length"] for space in spaces] == [32, 64]


@pytest.mark.parametrize("key", ["sk-s\u00e9cret", "sk-se\x07cret"])
def test_a_key_that_is_none_is_not_shown(server, client, monkeypatch, key):
    embedder = client(server().url)
    monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(UserError, match="VLLM_API_KEY is not a valid key") as caught:
        embedder.embed(TEXTS)
    assert "cret" not in str(caught.value)


def test_a_key_may_end_with_a_line_break(server, client, monkeypatch):
    embedder = client(server().url, "embedder.max_length=32")
    monkeypatch.setenv("VLLM_API_KEY", KEY + "\n")
    assert embedder.embed(TEXTS).shape == (60, 8)


def test_it_travels_after_use(server, client):
    embedder = client(server().url, "embedder.max_length=32")
    first = embedder.embed(TEXTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).embed(TEXTS), first)
