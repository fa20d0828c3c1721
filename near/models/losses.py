"""The loss of a causal language model on answers: negative log likelihood of the labelled tokens, natural log.

Most tokens of a row are its prompt. The vocabulary's scores there decide nothing, and are a fifth of a small model's
work and most of a large batch's memory: where the model can be asked for some positions alone, they are not computed.
"""

import inspect

import torch

from near.models.tokens import IGNORED


def answer_losses(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each answer token's loss, float32 (m,), and the row of the batch it is of, int64 (m,).

    batch: input_ids, attention_mask, labels, int64 (B, T), as models/tokens.py's Collator makes them. The vocabulary's
    scores are turned to float32 at answer tokens alone.
    """
    following, kept = following_answers(model, batch["labels"])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **kept).logits
    rows, places = torch.nonzero(following != IGNORED, as_tuple=True)
    losses = torch.nn.functional.cross_entropy(logits[rows, places].float(), following[rows, places], reduction="none")
    return losses, rows


def following_answers(model, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The label behind each position whose scores are needed, int64 (B, U), and the keyword with which `model` computes
    the scores of these positions alone.

    They are the positions before an answer token of any row of the batch. U is T, and there is no keyword, for a model
    that computes all positions' scores always.

    Args:
        labels: int64 (B, T), IGNORED where there is no answer.
    """
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)  # (B, T)
    places = (following != IGNORED).any(dim=0).nonzero()[:, 0]  # (U,)
    if not len(places) or not can_keep(model):
        return following, {}
    return following[:, places], {"logits_to_keep": places}


def can_keep(model) -> bool:
    """Whether `model`, wrapped as it may be, takes the positions whose scores it shall compute (`logits_to_keep`), and
    computes the plain loss of these when it is handed their labels as `shift_labels`.

    Of transformers 5.19 all decoders do but halves of encoder-decoders, models that also see or hear, and those that
    compute their loss themselves: CPM-Ant, XLNet and XLM. DataParallel would cut the positions as if they were rows.
    """
    from accelerate.utils import extract_model_from_parallel

    inner = extract_model_from_parallel(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    parameters = inspect.signature(type(inner).forward).parameters
    return (
        not isinstance(model, torch.nn.DataParallel)
        and type(inner).__module__.startswith("transformers.")
        and getattr(inner, "loss_type", None) == "ForCausalLM"
        and "logits_to_keep" in parameters
        and "encoder_hidden_states" not in parameters
        and inner.config.model_type != "cpmant"
    )


def by_row(losses: torch.Tensor, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of every row's token losses, float64 (count,), and how many they are, int64 (count,)."""
    sums = torch.zeros(count, dtype=torch.float64, device=losses.device).index_add(0, rows, losses.double())
    return sums, torch.bincount(rows, minlength=count)
