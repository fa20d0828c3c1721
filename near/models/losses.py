"""Losses of a causal language model on answers: negative log-likelihood of labelled tokens, in nats.

Most tokens of a row are its prompt. Logits there are not needed, and take a fifth of a small model's work and most of a
large batch's memory. If the model can compute the logits of some positions alone, those of prompts are not computed.
"""

import inspect

import torch

from near.models.tokens import IGNORED


def answer_losses(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of every answer token.

    Args:
        model: a causal language model.
        batch: input_ids, attention_mask and labels, int64 (B, T), from models/tokens.py's Collator.

    Returns:
        losses float32 (m,), of the m answer tokens; rows int64 (m,), the row of the batch of each.
    """
    following, keyword = following_answers(model, batch["labels"])  # (B, U)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits = model(**inputs, use_cache=False, **keyword).logits  # (B, U, vocabulary)
    rows, positions = torch.nonzero(following != IGNORED, as_tuple=True)
    scores = logits[rows, positions].float()  # (m, vocabulary): float32 for answer tokens alone saves memory
    losses = torch.nn.functional.cross_entropy(scores, following[rows, positions], reduction="none")
    return losses, rows


def following_answers(model, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The labels of the positions whose logits are needed: those before an answer token of any row of the batch.

    Args:
        model: a causal language model.
        labels: int64 (B, T), IGNORED at tokens that are no answer.

    Returns:
        The next token's label at each of U positions, int64 (B, U); and the keyword argument with which `model`
        computes the logits of these positions alone. U is T, and the keywords are empty, for other models.
    """
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)  # (B, T)
    positions = (following != IGNORED).any(dim=0).nonzero()[:, 0]  # (U,)
    if not len(positions) or not can_keep(model):
        return following, {}
    return following[:, positions], {"logits_to_keep": positions}


def can_keep(model) -> bool:
    """Whether `model`, possibly wrapped, can compute the logits of some positions alone (`logits_to_keep`), and the
    plain loss of these from their labels (`shift_labels`).

    In transformers 5.19 all decoders do, except for halves of encoder-decoders, multimodal models, and models with
    their own loss: CPM-Ant, XLNet and XLM. DataParallel would split the positions as if they were rows.
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
    """Sums of token losses by row.

    Args:
        losses: (m,).
        rows: int64 (m,), below `count`.
        count: rows of the batch.

    Returns:
        sums float64 (count,); numbers of tokens int64 (count,).
    """
    sums = torch.zeros(count, dtype=torch.float64, device=losses.device).index_add(0, rows, losses.double())
    return sums, torch.bincount(rows, minlength=count)
