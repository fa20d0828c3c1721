"""Embedding with the model that will be trained, as RDS+ does."""

import functools
from typing import Any

import numpy as np

from near.embedding.embedders.causal import CausalEmbedder


class RdsEmbedder(CausalEmbedder):
    """RDS+ (Ivison et al. 2025, arXiv 2503.01807): the last layer's hidden states, averaged over all tokens, the i-th
    with weight i / (1 + ... + n) (SGPT, Muennighoff 2022, arXiv 2202.08904). The paper embeds the whole row (chat).
    """

    backend = "rds"

    def __init__(self, *, truncate_dim: int | None = None, **options: Any):
        super().__init__(**options)
        self.truncate_dim = truncate_dim

    @functools.cached_property
    def space(self) -> dict:
        return {**super().space, "pooling": "position-weighted mean"}

    def _pooled(self, rows: list[list[int]]) -> np.ndarray:
        import torch

        tokens, mask = self.padded(rows)
        with torch.inference_mode():
            states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
            weights = mask * torch.arange(1, tokens.shape[1] + 1, device=states.device)
            weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
            return torch.einsum("bt,btd->bd", weights, states).cpu().numpy()  # states: (n_batch, n_tokens, dim)
