"""Hidden states of the rows of a batch, and of the target's rows, under the model that is trained."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from near.models.padding_free import unwrapped
from near.models.tokens import IGNORED

Pooling = Literal["last_token", "mean", "weighted_mean"]


class RowStates:
    """Vectors of rows: pooled states of one of the model's layers, in a forward pass of their own without dropout.

    Args:
        trainer: one of near/training/trainer.py, whose model it is, with its weights at the call.
        batches: input_ids, attention_mask and labels, int64 (B, T) each, of this process.
    """

    def __init__(self, trainer: Any, batches: Sequence[dict]):
        self.trainer, self.batches = trainer, batches

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self.trainer.state.global_step

    @property
    def target_rows(self) -> int:
        return len(self.trainer.job.target.eligible)

    def vectors(self, pooling: Pooling, layer: int = -1, unit: bool = True) -> torch.Tensor:
        """Of all processes' rows of the batches, in the order of their losses, float32 (rows, dim).

        Args:
            pooling: see `pooled`.
            layer: its number, from 0, the embeddings, or from the end; -1: the last, behind the final norm.
            unit: scale vectors to length 1.
        """
        gather = self.trainer.accelerator.gather
        with self._evaluating():
            return torch.cat([gather(self._pooled(batch, pooling, layer, unit)) for batch in self.batches])

    def target_mean(self, positions: np.ndarray, pooling: Pooling, layer: int = -1, unit: bool = True) -> torch.Tensor:
        """The mean vector of the target's rows at `positions`, int64 (m,), float32 (dim,); processes share the work."""
        job, accelerator = self.trainer.job, self.trainer.accelerator
        ids, size = job.target.eligible[positions], self.trainer.args.train_batch_size
        own = ids[accelerator.process_index :: accelerator.num_processes]
        total: torch.Tensor | None = None
        with self._evaluating():
            for start in range(0, max(1, len(own)), size):  # a process without any computes one, for its shape
                rows = [job.target.table[int(i)] for i in (own if len(own) else ids[:1])[start : start + size]]
                batch = {name: values.to(accelerator.device) for name, values in job.collator(rows).items()}
                part = self._pooled(batch, pooling, layer, unit).double().sum(dim=0) * (len(own) > 0)
                total = part if total is None else total + part
        return (accelerator.reduce(total, "sum") / len(ids)).float()

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        model = self.trainer.model
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.trainer.accelerator.autocast():
                yield
        finally:
            model.train(was_training)

    def _pooled(self, batch: dict, pooling: Pooling, layer: int, unit: bool) -> torch.Tensor:
        model = unwrapped(self.trainer.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        if layer == -1:  # without the logits, and without keeping all layers' states
            states = model.base_model(**inputs).last_hidden_state  # (B, T, dim)
        else:
            states = model.base_model(**inputs, output_hidden_states=True).hidden_states[layer]
        vectors = pooled(states.float(), batch["attention_mask"], batch["labels"], pooling)
        return torch.nn.functional.normalize(vectors, dim=1) if unit else vectors


def pooled(states: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector for each row, (B, dim).

    Args:
        states: (B, T, dim), padded on the right.
        mask: 1 for a row's tokens, (B, T).
        labels: (B, T).
        pooling: last_token: the last token's state; mean: of the answer's tokens, of all in a row without any;
            weighted_mean: of all tokens, the i-th with weight i (SGPT, Muennighoff 2022, arXiv 2202.08904).
    """
    if pooling == "last_token":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    if pooling == "mean":
        answers = labels != IGNORED
        weights = torch.where(answers.any(dim=1, keepdim=True), answers, mask.bool()).to(states.dtype)
    else:
        weights = mask * torch.arange(1, mask.shape[1] + 1, device=states.device, dtype=states.dtype)
    return torch.einsum("bt,btd->bd", weights / weights.sum(dim=1, keepdim=True), states)
