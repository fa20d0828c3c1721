"""Losses of a causal language model on answers: negative log-likelihood of labelled tokens, in nats."""

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
    labels = batch["labels"][:, 1:]  # (B, T - 1): the label of the logits at t is the token at t + 1
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    rows, positions = torch.nonzero(labels != IGNORED, as_tuple=True)
    scores = logits[rows, positions].float()  # (m, vocabulary): float32 for answer tokens alone saves memory
    losses = torch.nn.functional.cross_entropy(scores, labels[rows, positions], reduction="none")
    return losses, rows


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
