"""Losses are the same whether the model computes the logits of some positions or of all."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from near.models import losses
from near.models.losses import answer_inputs, answer_losses
from near.models.tokens import IGNORED, Collator

pytestmark = pytest.mark.model

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}
# with what makes their loss or their scores more than a product: soft caps, scaled scores, a router's own loss
MODELS = {
    "llama": {"intermediate_size": 16},
    "qwen2": {"intermediate_size": 16, "num_key_value_heads": 1},
    "gemma2": {"intermediate_size": 16, "num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 2.0},
    "granite": {"intermediate_size": 16, "logits_scaling": 4.0},
    "gpt_neox": {"intermediate_size": 16},
    "phi": {"intermediate_size": 16},
    "mixtral": {
        "intermediate_size": 16,
        "num_key_value_heads": 1,
        "num_local_experts": 2,
        "output_router_logits": True,
    },
}
WHOLE = {"gpt2": {}, "bart": {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2}, "cpmant": {}}


def made(kind: str, **options):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**SIZES, **options})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


def batch() -> dict[str, torch.Tensor]:
    """Rows of several lengths: an answer at the end, two answers, one from the first token on, none."""
    rng = torch.Generator().manual_seed(1)
    rows = []
    for size, answers in ((9, [(6, 9)]), (12, [(3, 5), (10, 12)]), (5, [(0, 5)]), (7, [])):
        ids = torch.randint(1, 40, (size,), generator=rng)
        labels = torch.full((size,), IGNORED)
        for start, stop in answers:
            labels[start:stop] = ids[start:stop]
        rows.append({"input_ids": ids, "labels": labels})
    return Collator(0)(rows)


def test_positions_by_hand():
    model = made("llama", **MODELS["llama"])
    labels = torch.tensor([[-100, -100, 7, -100, -100], [9, -100, -100, 8, -100]])
    tokens = {"input_ids": torch.ones_like(labels), "attention_mask": torch.ones_like(labels)}
    arranged = answer_inputs(model, {**tokens, "labels": labels})
    assert arranged.inputs["logits_to_keep"].tolist() == [1, 2] and arranged.following.tolist() == [
        [7, -100],
        [-100, 8],
    ]
    assert arranged.rows.tolist() == [[0, 0], [1, 1]] and arranged.alone
    nothing = {name: values[:1, :3] for name, values in tokens.items()}
    nothing["labels"] = torch.tensor([[5, -100, -100]])  # the first token of a row follows nothing
    arranged = answer_inputs(model, nothing)
    assert (
        not arranged.alone and arranged.following.tolist() == [[-100] * 3] and "logits_to_keep" not in arranged.inputs
    )


def twice(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"labels": labels, "shift_labels": labels}


@pytest.mark.parametrize("kind", MODELS)
def test_they_are_those_of_all_positions(kind, monkeypatch):
    """Losses, and the model's own loss with its gradients as training has it."""
    model, rows = made(kind, **MODELS[kind]), batch()
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    actual, owner = answer_losses(model, rows)
    arranged = answer_inputs(model, rows)
    few = model(**arranged.inputs, **twice(arranged.following), num_items_in_batch=5).loss
    few.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(losses, "can_keep", lambda model: False)
    expected, of = answer_losses(model, rows)
    whole = model(**rows, num_items_in_batch=5).loss
    whole.backward()
    assert seen == [9, 9, 12, 12]  # an answer follows positions 0 to 3, 5 to 7, 9 and 10
    assert torch.equal(owner, of) and len(actual) == 3 + 4 + 4
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(few, whole, rtol=1e-5, atol=1e-6)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_model_that_computes_its_loss_itself_computes_all(kind):
    model = made(kind, **WHOLE[kind])
    assert not losses.can_keep(model)


def test_wrapped_models():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        made("llama", **MODELS["llama"]), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    )
    assert losses.can_keep(adapted)
    assert not losses.can_keep(torch.nn.DataParallel(adapted))

    class Mine(type(made("llama", **MODELS["llama"]))):
        """Someone's own class: what it makes of the keywords is not known."""

    assert not losses.can_keep(Mine(adapted.config))
