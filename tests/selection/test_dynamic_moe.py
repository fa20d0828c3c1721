"""mixer=dynamic_moe: Algorithm 1 against a slow reference, loads of real routers, dense models refused."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen2MoeConfig

from near.common.errors import UserError
from near.models.experts import check_experts, expert_loads
from near.selection.mixers.dynamic_moe import DynamicMoe, distances
from near.training import inputs
from near.training.train import train
from tests.conftest import configured
from tests.selection.test_mixers import SOURCES, random_losses, round_of
from tests.training.test_mix_runs import lines, mix

pytestmark = pytest.mark.model


def slow_update(weights: list[float], loads: list[list[int]], eta: float, c: float) -> list[float]:
    """Lines 1 to 9 of the paper's Algorithm 1, number by number."""
    count = len(weights)
    shares = [[load / sum(row) for load in row] for row in loads]
    delta = [
        sum(math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True))) for other in shares) / count
        for one in shares
    ]
    exps = [math.exp(math.log(w) + eta * d) for w, d in zip(weights, delta, strict=True)]
    smoothed = [(1 - c) * e / sum(exps) + c / count for e in exps]
    return [value / sum(smoothed) for value in smoothed]


def test_round_by_round_against_a_slow_reference():
    mixer, weights = DynamicMoe(eta=3.0, c=0.1, sample=4), [1 / 3] * 3
    for index in range(1, 5):
        round = round_of(index=index, losses=random_losses(index))
        sample = mixer.sampled(round, SOURCES)
        loads = round_of(losses=random_losses(index)).scorer.expert_loads(None, sample.ids)
        of_sources = [loads[sample.owner == i].sum(axis=0).tolist() for i in range(3)]
        weights = slow_update(weights, of_sources, 3.0, 0.1)
        assert mixer.proportions(round, SOURCES).tolist() == pytest.approx(weights, rel=1e-9)
    assert mixer.metrics()["distance"].shape == (3,)


def test_distances_by_hand():
    assert distances(np.array([[4, 0], [0, 2], [1, 0]])).tolist() == pytest.approx(
        [math.sqrt(2) / 3, 2 * math.sqrt(2) / 3, math.sqrt(2) / 3]
    )
    assert distances(np.ones((3, 4))).tolist() == [0, 0, 0]  # the shares stay as they are


SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 2, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": None}
MIXTURES = [
    MixtralConfig(**SMALL, num_local_experts=4),
    Qwen2MoeConfig(**SMALL, num_experts=5, moe_intermediate_size=8, shared_expert_intermediate_size=8),
]


@pytest.mark.parametrize("config", MIXTURES, ids=lambda config: config.model_type)
def test_loads_of_a_batch_are_those_of_its_rows_alone(config):
    """Padding counts for no expert; each token for two."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    check_experts(config, "mixer=dynamic_moe")
    rows = [torch.randint(1, 50, (length,)) for length in (3, 7, 5)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    for layer in (0, -1):
        with torch.no_grad():
            loads = expert_loads(model, batch, layer)
            for row, load in zip(rows, loads, strict=True):
                scores = model(input_ids=row[None], output_router_logits=True).router_logits[layer]
                expected = [0] * scores.shape[1]
                for token in scores.tolist():
                    for expert in sorted(range(len(token)), key=lambda i: -token[i])[:2]:
                        expected[expert] += 1
                assert load.tolist() == expected and sum(expected) == 2 * len(row)
    with pytest.raises(UserError, match="mixer.layer=2: the model has 2 layers with experts; use -1 for the last"):
        expert_loads(model, batch, 2)


def test_a_dense_model_is_refused_before_heavy_work(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "tokenize", lambda *args: pytest.fail("tokenised"))
    with pytest.raises(UserError) as caught:
        train(configured("train", *mix(tiny, "dynamic_moe")), tmp_path / "out")
    assert str(caught.value) == (
        "mixer=dynamic_moe: the model (model_type=llama) has no experts to compare sources by; use a mixture of "
        "experts (OLMoE, Mixtral, Qwen MoE, ...)"
    )
    with pytest.raises(UserError, match="has no experts"):
        check_experts(LlamaConfig(), "mixer=dynamic_moe")


def test_a_run_records_distances_and_shares_that_follow(tiny, tmp_path, mixture):
    train(configured("train", *mix(tiny, "dynamic_moe", f"model.name_or_path={mixture}", "mixer.eta=50")), tmp_path)
    weights = [1 / 3] * 3
    for line in lines(tmp_path)[1:]:
        shares, distance = line["mix"]["proportions"], line["mix"]["distance"]
        exps = [w * math.exp(50 * d) for w, d in zip(weights, distance.values(), strict=True)]
        weights = [0.95 * e / sum(exps) + 0.05 / 3 for e in exps]
        assert list(shares.values()) == pytest.approx(weights, abs=1e-3) and max(distance.values()) > 0
