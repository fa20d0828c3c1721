"""Embedding as a pipeline: one tokenisation of each text, the vectors of `encode`, and errors of its threads."""

import errno
import threading

import numpy as np
import pytest
from hydra.utils import instantiate

from near.common.errors import UserError
from near.embedding.embedders.base import normalised
from near.embedding.embedders.hashing import HashingEmbedder
from near.embedding.missing import embed_missing, look_up
from near.embedding.store import Store
from tests.conftest import configured

pytestmark = pytest.mark.model
WORDS = "the quick brown fox jumps over a lazy dog and then some".split()
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, n)) for n in [0, 1, 3, 40, 7, 2, 19, 5, 60, 1, 12]] + ["fox"]
POOLINGS = ["mean", "cls", "lasttoken", "max", "weightedmean"]


def modules(pooling="mean", side="right", dense=False, normalise=False, include_prompt=True):
    """The modules of a small BERT with random weights, which reads 32 tokens."""
    import torch
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side=side, model_max_length=32, **names,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **size))
    return model, tokenizer, Transformer, Pooling, Dense, Normalize


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes a model's folder, once for each set of options."""
    from sentence_transformers import SentenceTransformer

    made: dict = {}

    def folder(pooling="mean", side="right", dense=False, normalise=False, truncate_dim=None, include_prompt=True):
        key = (pooling, side, dense, normalise, truncate_dim, include_prompt)
        if key not in made:
            base, made[key] = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("model")
            model, tokenizer, Transformer, Pooling, Dense, Normalize = modules(pooling, side)
            model.save_pretrained(base)
            tokenizer.save_pretrained(base)
            parts = [Transformer(str(base)), Pooling(16, pooling_mode=pooling, include_prompt=include_prompt)]
            parts += [Dense(16, 8)] if dense else []
            parts += [Normalize()] if normalise else []
            prompts = {"query": "quick brown ", "document": "lazy dog "}
            SentenceTransformer(modules=parts, prompts=prompts, truncate_dim=truncate_dim, device="cpu").save(
                str(made[key])
            )
        return str(made[key])

    return folder


def embedder_of(folder, *overrides):
    options = ["embedder=minilm", f"embedder.model={folder}", "embedder.backend=sentence-transformers", *overrides]
    return instantiate(configured("select", *options).embedder, cache_dir="unused")


def by_encode(embedder, texts):
    """What the library's `encode` makes of the texts, one by one and normalised."""
    vectors = np.stack([embedder._model.encode(text, prompt="", show_progress_bar=False) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def assert_as_encode(embedder, texts=TEXTS):
    vectors = embedder.embed(texts)
    assert embedder._inputs is not None, "it fell back to encode"
    np.testing.assert_allclose(vectors, by_encode(embedder, texts), atol=2e-6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_encode(folders, pooling, side):
    embedder = embedder_of(folders(pooling, side), "embedder.batch_tokens=100")
    if side == "right":
        return assert_as_encode(embedder)
    vectors = embedder.embed(TEXTS)  # BERT counts padding on the left as positions, so that batches have to be the same
    assert embedder._inputs is not None
    np.testing.assert_allclose(vectors, normalised(embedder._encoded(TEXTS, lambda n: None)), atol=2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"dense": True},
        {"dense": True, "normalise": True},
        {"truncate_dim": 5},
        {"normalise": True, "include_prompt": False},
    ],
)
def test_later_modules_are_used_as_they_are(folders, options):
    assert_as_encode(embedder_of(folders(**options), "embedder.batch_tokens=100"))


def test_prompts_are_prefixes(folders):
    embedder = embedder_of(folders())
    chat = [{"role": "user", "content": "fox jumps"}, {"role": "assistant", "content": "dog"}]
    assert (embedder.query(chat), embedder.document(chat)) == ("quick brown fox jumps", "lazy dog fox jumps")
    expected = embedder._model.encode("fox jumps", prompt_name="query", normalize_embeddings=True)
    np.testing.assert_allclose(embedder.embed([embedder.query(chat)])[0], expected, atol=2e-6)


@pytest.mark.parametrize(("length", "cut"), [(None, 2), (10, 4), (1000, 2)])
def test_texts_are_cut_and_counted_as_by_encode(folders, length, cut):
    embedder = embedder_of(folders(), f"embedder.max_length={'null' if length is None else length}")
    if length == 1000:
        embedder._model.max_seq_length = 32  # positions that the model has
    assert_as_encode(embedder)
    limit = 10 if length == 10 else 32
    assert embedder.truncated == cut
    assert embedder.tokens == sum(min(len(text.split()) + 2, limit) for text in TEXTS)
    assert embedder.lengths(TEXTS).tolist() == [min(len(text.split()) + 2, limit) for text in TEXTS]


def test_each_text_is_tokenised_once(folders, monkeypatch, tmp_path):
    embedder, seen = embedder_of(folders(), "embedder.chunk=4", "embedder.batch_size=3"), []
    embedder.dim  # noqa: B018 load and try the model
    embedder._inputs  # noqa: B018
    real = type(embedder.tokenizer).__call__

    def counting(self, texts, *args, **kwargs):
        seen.extend(texts)
        return real(self, texts, *args, **kwargs)

    monkeypatch.setattr(type(embedder.tokenizer), "__call__", counting)
    vectors, _ = stored(tmp_path, embedder, TEXTS)
    assert sorted(seen) == sorted(set(TEXTS))
    monkeypatch.undo()
    np.testing.assert_allclose(vectors, by_encode(embedder, TEXTS), atol=2e-6)


@pytest.mark.parametrize("change", ["upper", "extra", "missing"])
def test_other_inputs_fall_back_to_encode(folders, change, caplog, monkeypatch):
    caplog.set_level("INFO")
    embedder = embedder_of(folders())
    first, real = embedder._model[0], type(embedder._model[0]).preprocess

    def preprocess(self, inputs, *args, **kwargs):
        if change == "missing":
            raise ValueError("only images")
        out = real(self, [text.replace("fox", "dog") for text in inputs] if change == "upper" else inputs, **kwargs)
        out["input_ids"] = out["input_ids"].clone().clamp(max=4) if change == "upper" else out["input_ids"]
        return {**out, "other": out["input_ids"]} if change == "extra" else out

    monkeypatch.setattr(type(first), "preprocess", preprocess)
    assert embedder._inputs is None
    assert caplog.text.count("sentence-transformers' encode") == 1
    if change != "missing":
        np.testing.assert_allclose(embedder.embed(TEXTS), by_encode(embedder, TEXTS), atol=2e-6)
        assert (embedder.tokens, embedder.truncated) == (sum(min(len(t.split()) + 2, 32) for t in TEXTS), 2)


def test_out_of_memory_goes_on_from_the_same_text(folders, monkeypatch, caplog):
    caplog.set_level("INFO")
    embedder = embedder_of(folders())
    expected, real = embedder.embed(TEXTS), type(embedder._model).forward

    def forward(self, features, **kwargs):
        if features["input_ids"].numel() > 70:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return real(self, features, **kwargs)

    monkeypatch.setattr(type(embedder._model), "forward", forward)
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=2e-6)
    assert "do not fit into memory" in caplog.text
    assert embedder.tokens_per_batch <= 70
    monkeypatch.setattr(type(embedder._model), "forward", out_of_memory)
    with pytest.raises(UserError, match="a single row of 3 tokens does not fit into memory; use a smaller"):
        embedder.embed(["fox"])


def out_of_memory(*_, **__):
    raise RuntimeError("out of memory")


def stored(folder, embedder, texts):
    """Vectors from a store that was filled by `embedder`, and the positions in the order in which they were read."""
    order = []
    with Store(folder, {}) as store:

        def read(at):
            order.extend(at.tolist())
            return [texts[i] for i in at]

        lookup = look_up(store, read, len(texts), embedder.chunk)
        order.clear()
        embed_missing(store, lookup, read, embedder)
        return store.read(lookup.offsets), order


class Failing(HashingEmbedder):
    """Fails in one part of the pipeline at text 17; notes the threads."""

    def __init__(self, where=None, error=None):
        super().__init__(dim=8, chunk=5)
        self.where, self.error, self.threads = where, error, set()

    def _at(self, where, texts):
        self.threads.add((where, threading.current_thread() is threading.main_thread()))
        if where == self.where and "text 17" in texts:
            raise self.error

    def prepare(self, texts):
        self._at("prepare", texts)
        return texts

    def embed(self, texts, progress=lambda n: None):
        self._at("embed", texts)
        return super().embed(texts, progress)


MANY = [f"text {i}" for i in range(40)]


def test_the_model_stays_in_the_main_thread_and_order_is_kept(tmp_path):
    embedder = Failing()
    vectors, order = stored(tmp_path, embedder, MANY)
    assert embedder.threads == {("prepare", False), ("embed", True)}
    assert order == list(range(40))
    np.testing.assert_array_equal(vectors, HashingEmbedder(dim=8).embed(MANY))


@pytest.mark.parametrize("where", ["prepare", "embed"])
@pytest.mark.parametrize("error", [UserError("no more"), KeyboardInterrupt(), OSError(errno.ENOSPC, "no space left")])
def test_an_error_of_any_thread_ends_the_work_and_frees_the_claims(tmp_path, where, error):
    with pytest.raises(type(error)) as caught:
        stored(tmp_path, Failing(where, error), MANY)
    assert caught.value is error
    assert not list(tmp_path.rglob("claims/*"))
    assert not [t for t in threading.enumerate() if t.name.startswith(("tokeniser", "writer"))]
    again = Failing()
    vectors, _ = stored(tmp_path, again, MANY)
    np.testing.assert_array_equal(vectors, HashingEmbedder(dim=8).embed(MANY))


def test_an_error_of_the_writer_ends_the_work(tmp_path, monkeypatch):
    real, calls = Store.add, []

    def add(self, keys, vectors):
        calls.append(len(keys))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "no space left")
        return real(self, keys, vectors)

    monkeypatch.setattr(Store, "add", add)
    with pytest.raises(OSError, match="no space left"):
        stored(tmp_path, Failing(), MANY)
    assert not list(tmp_path.rglob("claims/*"))
    monkeypatch.undo()
    np.testing.assert_array_equal(stored(tmp_path, Failing(), MANY)[0], HashingEmbedder(dim=8).embed(MANY))
