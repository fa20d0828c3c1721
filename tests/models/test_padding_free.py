"""Rows end to end give the losses and gradients of the padded batch, on models that keep them apart."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from near.models import padding_free
from near.models.losses import answer_inputs, answer_losses, by_row
from near.models.padding_free import _cheaper, _keeps_apart
from near.models.tokens import IGNORED, Collator
from tests.models.test_losses import MODELS, made, twice

pytestmark = pytest.mark.model


def rows(sizes=(60, 4, 9, 5), answers=3) -> list[dict]:
    """Rows whose last `answers` tokens are an answer; they are of so different lengths that padding costs more."""
    rng = torch.Generator().manual_seed(7)
    made = []
    for size in sizes:
        ids = torch.randint(1, 40, (size,), generator=rng)
        made.append({"input_ids": ids, "labels": torch.where(torch.arange(size) < size - answers, IGNORED, ids)})
    return made


@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_are_the_padded_batchs(kind):
    model, batch = made(kind, **MODELS[kind]), Collator(0)(rows())
    if not _keeps_apart(model):
        pytest.skip("padded, see below")
    expected, of = answer_losses(model, batch)
    actual, owner = answer_losses(model, batch, padding_free=True)
    assert torch.equal(owner, of)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    gradients = []
    for free in (False, True):
        arranged = answer_inputs(model, batch, free)
        assert ("position_ids" in arranged.inputs) == free and ("attention_mask" in arranged.inputs) != free
        model.zero_grad()
        model(**arranged.inputs, **twice(arranged.following), num_items_in_batch=7).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours():
    model = made("llama", **MODELS["llama"])
    alone = [answer_losses(model, Collator(0)([row]))[0].sum() for row in rows()]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        batch = Collator(0)([rows()[i] for i in order])
        sums, counts = by_row(*answer_losses(model, batch, padding_free=True), 4)
        torch.testing.assert_close(sums.float(), torch.stack([alone[i] for i in order]), rtol=1e-5, atol=1e-5)
        assert counts.tolist() == [3] * 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_kinds_of_attention(attention):
    assert _keeps_apart(made("llama", **MODELS["llama"], attn_implementation=attention))


@pytest.mark.parametrize(
    ("kind", "options"),
    {
        "bloom": {"vocab_size": 41, "hidden_size": 16, "n_layer": 2, "n_head": 2},  # ALiBi: no positions
        "mamba": {
            "vocab_size": 41,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "state_size": 4,
        },  # a state
    }.items(),
)
def test_others_are_padded_and_say_so_once(kind, options, caplog):
    caplog.set_level(logging.INFO)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))
    batch = Collator(0)(rows())
    for _ in range(2):
        assert "position_ids" not in answer_inputs(model, batch, padding_free=True).inputs
    if padding_free.end_to_end(model, batch, batch["labels"]) is None and model in padding_free._supported:
        assert caplog.text.count("rows are padded to batches") == 1


def test_a_model_that_lets_rows_see_each_other_is_found_out(monkeypatch):
    """As a model would be whose code ignores that positions begin anew."""
    model = made("llama", **MODELS["llama"])
    forward = type(model).forward

    def continuing(self, input_ids, position_ids=None, **kwargs):
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(type(model), "forward", continuing)
    assert not padding_free._tried(model)


def test_the_mode_of_the_model_stays():
    model = made("llama", **MODELS["llama"]).train()
    assert _keeps_apart(model) and model.training


@pytest.mark.parametrize(
    ("attention", "lengths", "width", "less"),
    [
        ("sdpa", [50, 50], 50, False),  # no padding at all
        ("sdpa", [90, 10, 10, 10], 90, True),
        ("sdpa", [900, 600, 600, 600], 900, False),  # attention among 2,700 tokens takes longer than the padding
        ("flash_attention_2", [900, 600, 600, 600], 900, True),
    ],
)
def test_what_is_less_work(attention, lengths, width, less):
    model = made("llama", **MODELS["llama"])
    model.config._attn_implementation = attention
    assert _cheaper(model, lengths, width) == less
