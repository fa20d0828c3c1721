"""Embedders that run a model: RDS by its formula, dimensions, prompts, several devices, what a signature holds."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from transformers import AutoModel, AutoTokenizer

from near.common.errors import UserError
from near.data.builtin.tiny import write_tiny
from near.embedding.embed import Embedded
from near.models.encoding import JOINT, Encoder
from near.searching.find import check_alike
from tests.conftest import configured

pytestmark = pytest.mark.model
CHAT = [{"role": "user", "content": "what is 2+2"}, {"role": "assistant", "content": "4"}]
TEXTS = ["a", "some longer text of twelve words and more", "", "three words here", "x" * 300]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    write_tiny(path)
    return str(path)


def built(folder, *overrides):
    cfg = configured("select", "embedder=rds", f"model.name_or_path={folder}", *overrides)
    return instantiate(cfg.embedder, cache_dir="unused")


def test_rds_is_the_position_weighted_mean_of_the_last_layer(folder):
    embedder = built(folder, "embedder.embed=both", "embedder.batch_size=3")
    vectors = embedder.embed(TEXTS)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = tokenizer(text)["input_ids"] or [tokenizer.eos_token_id]
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        weights = np.arange(1, len(ids) + 1) / sum(range(1, len(ids) + 1))
        expected = weights @ states
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_rds_reads_the_whole_row_in_the_chat_template(folder):
    embedder = built(folder)
    text = embedder.document(CHAT)
    whole = "<|im_start|>user\nwhat is 2+2<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    assert text.replace(JOINT, "") == whole
    trained = Encoder(embedder.tokenizer, {"cutoff_len": 1000}).encode(CHAT).input_ids
    assert embedder.token_ids([text])[0] == trained.tolist()
    assert built(folder, "embedder.embed=prompt").query(CHAT) == "what is 2+2"
    assert embedder.document([{"role": "assistant", "content": "plain"}]) == "plain"


def test_long_texts_are_cut_and_counted(folder):
    embedder = built(folder, "embedder.embed=both", "embedder.max_length=10")
    vectors = embedder.embed(["x" * 10, "x" * 300])
    assert embedder.truncated == 1
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert embedder.lengths(["x" * 300]).tolist() == [10]


def test_truncate_dim_keeps_the_first_dimensions(folder):
    whole = built(folder).embed(TEXTS)
    embedder = built(folder, "embedder.truncate_dim=8")
    first = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(TEXTS), first, atol=1e-6)
    assert embedder.dim == 8
    assert embedder.space != built(folder).space
    with pytest.raises(UserError, match="truncate_dim=33 is more than the 32 dimensions"):
        built(folder, "embedder.truncate_dim=33").embed(TEXTS)


@pytest.mark.parametrize(
    ("override", "other_space"),
    [
        ("embedder.dtype=bfloat16", True),
        ("embedder.store_dtype=float16", True),
        ("embedder.max_length=100", True),
        ("embedder.truncate_dim=8", True),
        ("embedder.batch_size=2", False),
        ("embedder.chunk=3", False),
        ("embedder.launcher=ray", False),
        ("embedder.embed=prompt", False),
    ],
)
def test_a_space_has_all_that_makes_vectors_differ(folder, override, other_space):
    assert (built(folder, override).space != built(folder).space) == other_space


def test_two_signatures_are_not_mixed():
    empty = np.empty(0, dtype=np.int64)
    pool, queries = Embedded({"model": "a"}, empty, 0, 0, 0), Embedded({"model": "b"}, empty, 0, 0, 0)
    with pytest.raises(UserError, match="embedded differently .model was a, now b.; embed both with one embedder"):
        check_alike(pool, queries)


@pytest.mark.real
@pytest.mark.slow
def test_several_devices_share_one_call(real_cache):
    texts = [f"number {i} " + "word " * (i % 40) for i in range(60)]
    options = ["embedder=minilm", "embedder.batch_size=8"]
    one, two = (
        instantiate(configured("select", *options, *more).embedder, cache_dir=str(real_cache))
        for more in ([], ["embedder.device=[cpu,cpu]"])
    )
    try:
        np.testing.assert_allclose(two.embed(texts), one.embed(texts), atol=1e-5)
        assert (two.tokens, two.padding, two.truncated) == (one.tokens, one.padding, one.truncated)
        assert one.space == two.space
    finally:
        two.close()


@pytest.mark.real
def test_sentence_transformers_truncates_as_its_library_does(real_cache):
    embedder = instantiate(configured("select", "embedder.truncate_dim=64").embedder, cache_dir=str(real_cache))
    texts = ["a short text", "another one that is a bit longer"]
    expected = embedder._model.encode(texts, truncate_dim=64, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("length", [1, 2])
def test_a_length_without_room_for_a_word_is_refused(real_cache, length):
    embedder = instantiate(configured("select", f"embedder.max_length={length}").embedder, cache_dir=str(real_cache))
    with pytest.raises(
        UserError, match="leaves no room for text beside the model's 2 special tokens; use embedder.max_length>2"
    ):
        embedder.dim  # noqa: B018


@pytest.mark.parametrize("override", ["embedder.device=cuda", "embedder.device=gpu0", "embedder.device=[cpu,cpu]"])
def test_a_missing_device_is_one_line(folder, override):
    if "cuda" in override and torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(
        Exception,
        match="embedder.device=.*(can't be used|is not a path or name|runs on one device)|could not be loaded",
    ):
        built(folder, override).embed(TEXTS)
