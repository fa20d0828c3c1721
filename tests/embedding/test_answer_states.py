"""embedder=answer_states: against one row at a time, what is cut, which layers are computed."""

import numpy as np
import pytest
import torch

from near.common.errors import UserError
from near.embedding.embed import embedder_of
from near.models.encoding import JOINT
from tests.conftest import configured

pytestmark = pytest.mark.model
ROWS = [("a red pot", "pot"), ("the sum of 3 and 4", "it is 7, and of 30 and 4 it is 34"), ("x", "y"), ("what", "")]


@pytest.fixture()
def embedder(cache):
    def of(*overrides: str):
        cfg = configured("select", "model=tiny", "embedder=answer_states", *overrides)
        return embedder_of(cfg.embedder, str(cache))

    return of


def texts(one) -> list[str]:
    return [one.document([turn("user", prompt), turn("assistant", answer)]) for prompt, answer in ROWS]


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def expected(one, prompt: str, answer: str, layer: int) -> np.ndarray:
    """By all layers of the model, without a batch."""
    first = one.tokenizer(f"{prompt}\n")["input_ids"]
    second = one.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        outputs = one._model(input_ids=torch.tensor([first + second]), output_hidden_states=True)
    mean = outputs.hidden_states[layer][0][len(first) if second else 0 :].double().mean(dim=0).numpy()
    return mean / np.linalg.norm(mean)


def test_vectors_against_one_row_at_a_time(embedder):
    """The tiny model has two layers; two thirds of that is the first."""
    one = embedder()
    vectors = one.embed(texts(one))
    for (prompt, answer), vector in zip(ROWS, vectors, strict=True):
        np.testing.assert_allclose(vector, expected(one, prompt, answer, 1), atol=2e-6)
    assert one.tokens == sum(one.lengths(texts(one))) and one.truncated == 0


def test_neither_order_nor_batches_matter(embedder):
    one, two = embedder(), embedder("embedder.batch_size=1")
    forward, backward = one.embed(texts(one)), two.embed(texts(two)[::-1])
    np.testing.assert_allclose(forward, backward[::-1], atol=2e-6)
    assert one.embed([]).shape == (0, one.dim)


def test_the_prompt_counts_as_context_only(embedder):
    one = embedder()
    same, other = one.embed(["a b\n" + JOINT + "c", "a b\n" + JOINT + "d"])
    assert not np.allclose(same, other)
    moved = one.embed(["z b\n" + JOINT + "c"])[0]
    assert not np.allclose(same, moved)  # the answer's states see it


def test_a_long_row_loses_the_start_of_its_prompt_then_the_end_of_its_answer(embedder):
    one = embedder("embedder.max_length=10")
    prompt, answer = "x" * 30, "y" * 4
    (ids,) = one.prepare([prompt + JOINT + answer])
    whole = one.tokenizer(prompt + answer)["input_ids"]
    assert ids[:, 0].tolist() == whole[-10:] and ids[:, 1].tolist() == [0] * 6 + [1] * 4
    (ids,) = one.prepare([prompt + JOINT + "y" * 30])
    assert ids[:, 0].tolist() == one.tokenizer("y" * 10)["input_ids"] and ids[:, 1].all()
    assert one.truncated == 2


def test_plain_text_is_all_answer(embedder):
    one = embedder()
    (ids,) = one.prepare([one.document([turn("assistant", "plain")])])
    assert ids[:, 1].all() and ids[:, 0].tolist() == one.tokenizer("plain")["input_ids"]


def test_layers_behind_are_not_computed(embedder):
    one, computed = embedder("embedder.layer=1"), []
    for number, layer in enumerate(one._model.layers, 1):
        layer.register_forward_pre_hook(lambda module, inputs, number=number: computed.append(number))
    one.embed(texts(one))
    assert set(computed) == {1}


def test_layers_and_spaces(embedder):
    assert embedder("embedder.layer=2").space != embedder().space
    with pytest.raises(UserError, match="embedder.layer=3: .* has 2 layers; use a lower number"):
        embedder("embedder.layer=3").dim  # noqa: B018


def test_the_separator_within_a_text_does_not_count(embedder):
    one = embedder()
    plain, odd = (one.document([turn("user", f"a{c}b"), turn("assistant", f"c{c}d")]) for c in ("", JOINT))
    assert odd == plain == f"ab\n{JOINT}cd"


def test_the_prompts_states_beside_the_answers(embedder):
    """Each of length 1, both together scaled again; without an answer all tokens count as one."""
    one, alone = embedder("embedder.prompt=true"), embedder()
    vectors, answers = one.embed(texts(one)), alone.embed(texts(alone))
    assert vectors.shape == (len(ROWS), 2 * answers.shape[1]) and one.space != alone.space
    width = answers.shape[1]
    np.testing.assert_allclose(vectors[:3, :width], answers[:3] / 2**0.5, atol=2e-6)
    ids = one.tokenizer(f"{ROWS[0][0]}\n")["input_ids"]
    with torch.inference_mode():
        states = one._model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
    mean = states.double().mean(dim=0).numpy()
    np.testing.assert_allclose(vectors[0, width:], mean / np.linalg.norm(mean) / 2**0.5, atol=2e-6)
    np.testing.assert_allclose(vectors[3, :width], answers[3], atol=2e-6)
    assert not vectors[3, width:].any()
