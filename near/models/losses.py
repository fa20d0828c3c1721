"""The loss of a causal language model on answers: negative log likelihood of the labelled tokens, natural log."""

import torch

from near.models.tokens import IGNORED


def answer_losses(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each answer token's loss, float32 (m,), and the row of the batch it is of, int64 (m,).

    batch: input_ids, attention_mask, labels, int64 (B, T), as models/tokens.py's Collator makes them. The vocabulary's
    scores are turned to float32 at answer tokens alone.
    """
    labels = batch["labels"][:, 1:]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    rows, positions = torch.nonzero(labels != IGNORED, as_tuple=True)
    losses = torch.nn.functional.cross_entropy(
        logits[rows, positions].float(), labels[rows, positions], reduction="none"
    )
    return losses, rows


def by_row(losses: torch.Tensor, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of every row's token losses, float64 (count,), and how many they are, int64 (count,)."""
    sums = torch.zeros(count, dtype=torch.float64, device=losses.device).index_add(0, rows, losses.double())
    return sums, torch.bincount(rows, minlength=count)
