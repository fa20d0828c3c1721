"""Losses of a causal language model on answers: negative log-likelihood of labelled tokens, in nats.

Most tokens of a row are its prompt. Logits there are not needed, and take a fifth of a small model's work and most of a
large batch's memory. If the model can compute the logits of some positions alone, those of prompts are not computed.
"""

import inspect
import weakref
from dataclasses import dataclass

import torch

from near.models.padding_free import end_to_end, unwrapped
from near.models.tokens import IGNORED

_keeping: "weakref.WeakKeyDictionary[torch.nn.Module, bool]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class AnswerInputs:
    """What a model gets to compute the logits that answers need, and nothing else if it can.

    Attributes:
        inputs: keywords of the model, without labels.
        following: the label of the token after each of the U positions that have logits, int64 (B, U).
        rows: the row of the batch of each position, int64 (B, U).
        alone: whether the logits are of these positions alone.
    """

    inputs: dict
    following: torch.Tensor
    rows: torch.Tensor
    alone: bool


def answer_inputs(model, batch: dict[str, torch.Tensor], padding_free: bool = False) -> AnswerInputs:
    """Arrange a batch for `model`.

    Args:
        model: a causal language model.
        batch: input_ids, attention_mask and labels, int64 (B, T), from models/tokens.py's Collator.
        padding_free: lay the rows end to end, B = 1, where the model supports that and it is less work.
    """
    following = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)  # (B, T)
    inputs: dict = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    rows = torch.arange(len(following), device=following.device)[:, None].expand_as(following)
    if not can_keep(model):
        return AnswerInputs(inputs, following, rows, False)
    if padding_free and (arranged := end_to_end(model, batch, following)) is not None:
        inputs, following, rows = arranged[0], arranged[1], arranged[2][None]
    positions = (following != IGNORED).any(dim=0).nonzero()[:, 0]  # (U,)
    if not len(positions):
        return AnswerInputs(inputs, following, rows, False)
    return AnswerInputs({**inputs, "logits_to_keep": positions}, following[:, positions], rows[:, positions], True)


def answer_losses(
    model, batch: dict[str, torch.Tensor], padding_free: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of every answer token.

    Args:
        model, batch, padding_free: see `answer_inputs`.

    Returns:
        losses float32 (m,), of the m answer tokens, row by row; rows int64 (m,), the row of the batch of each.
    """
    arranged = answer_inputs(model, batch, padding_free)
    logits = model(**{**arranged.inputs, "use_cache": False}).logits  # (B, U, vocabulary)
    at = torch.nonzero(arranged.following != IGNORED, as_tuple=True)
    scores = logits[at].float()  # (m, vocabulary): float32 for answer tokens alone saves memory
    losses = torch.nn.functional.cross_entropy(scores, arranged.following[at], reduction="none")
    return losses, arranged.rows[at]


def can_keep(model) -> bool:
    """Whether `model`, possibly wrapped, can compute the logits of some positions alone (`logits_to_keep`), and the
    plain loss of these from their labels (`shift_labels`).

    In transformers 5.19 all decoders do, except for halves of encoder-decoders, multimodal models, and models with
    their own loss: CPM-Ant, XLNet and XLM. DataParallel would split the positions as if they were rows.
    """
    if model not in _keeping:
        _keeping[model] = _can_keep(model)
    return _keeping[model]


def _can_keep(model) -> bool:
    inner = unwrapped(model)
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
