"""Which experts of a mixture of experts tokens are sent to."""

from typing import TYPE_CHECKING, Any

import torch

from near.common.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OF_A_DENSE_MODEL = "has no experts to compare sources by; use a mixture of experts (OLMoE, Mixtral, Qwen MoE, ...)"


def check_experts(config: "PretrainedConfig", option: str) -> None:
    """Raises UserError if a model is not a mixture of experts that puts out its router's scores.

    option: that needs one, for the message.
    """
    text = config.get_text_config()
    if not getattr(text, "num_experts_per_tok", None) or not hasattr(text, "output_router_logits"):
        raise UserError(f"{option}: the model (model_type={config.model_type}) {OF_A_DENSE_MODEL}")


def expert_loads(model, batch: dict[str, torch.Tensor], layer: int = -1) -> torch.Tensor:
    """How many of a row's tokens the router of a layer sends to each of its experts, int64 (B, experts).

    Each token counts for its `num_experts_per_tok` experts; padding counts for none.

    Args:
        model: a causal language model that is a mixture of experts.
        batch: input_ids and attention_mask, int64 (B, T).
        layer: of those with experts, from 0, or from the end.

    Raises:
        UserError: the model puts out no router's scores, or has no such layer.
    """
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    scores = model(**inputs, output_router_logits=True, use_cache=False).router_logits
    if not scores:
        raise UserError(f"mixer.layer: the model (model_type={model.config.model_type}) {OF_A_DENSE_MODEL}")
    if not -len(scores) <= layer < len(scores):
        raise UserError(f"mixer.layer={layer}: the model has {len(scores)} layers with experts; use -1 for the last")
    mask = batch["attention_mask"]
    count = scores[layer].shape[-1]
    chosen = scores[layer].topk(model.config.get_text_config().num_experts_per_tok, dim=-1).indices  # (B * T, k)
    loads = torch.nn.functional.one_hot(chosen, count).sum(dim=1).view(*mask.shape, count)  # (B, T, experts)
    return (loads * mask[..., None]).sum(dim=1)
