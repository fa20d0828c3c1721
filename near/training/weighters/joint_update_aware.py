"""Joint-update-aware weights: rows that are like the target and unlike each other."""

from typing import TYPE_CHECKING, Annotated, Literal

import torch

from near.common.bounds import between, more_than
from near.training.weighters.base import per_token
from near.training.weighters.states import StateWeighter

if TYPE_CHECKING:
    from near.training.row_states import Pooling

Objective = Literal["full", "align", "diverse"]


class JointUpdateAware(StateWeighter):
    """The weights of DataFlex's joint_update_aware, for which no paper is known. Of the rows' unit vectors z_i and the
    target's u, with s_i = u z_i and S = Z Z', they maximise over the simplex

        s w - beta / 2  w S w + tau H(w)

    H is the entropy. The maximum is the fixed point w = softmax((s - beta S w) / tau), found by `iterations` steps
    w = (1 - damping) w + damping softmax(...) from equal weights. (For a large beta / tau undamped steps do not
    converge.) A row's share of the batch's loss is in proportion to w_i times its tokens, so that equal w are the plain
    Trainer's weights; DataFlex adds up w_i times the rows' mean losses.

    objective: full; align: without the term of S; diverse: without s.
    pooling: last_token, or mean over the answer's tokens.
    layer: from 0, the embeddings, or from the end; -1: the last, behind the final norm.
    normalise: false: vectors keep their lengths.
    """

    def __init__(
        self,
        beta: float = 0.1,
        tau: Annotated[float, more_than(0)] = 0.05,
        iterations: Annotated[int, between(1, 10_000)] = 5,
        damping: Annotated[float, more_than(0), between(0, 1)] = 1.0,
        objective: Objective = "full",
        pooling: Literal["last_token", "mean"] = "last_token",
        layer: Annotated[int, between(-1000, 1000)] = -1,
        normalise: bool = True,
        refresh: int = 50,
        target_rows: int | None = None,
    ):
        super().__init__(refresh, target_rows)
        self.beta, self.tau, self.iterations, self.damping = beta, tau, iterations, damping
        self.objective, self.layer = objective, layer
        self.pooling: Pooling = pooling
        self.unit, self.unit_target = normalise, False

    def factors(self, vectors: torch.Tensor, target: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        if self.unit:
            target = torch.nn.functional.normalize(target, dim=0)
        return per_token(self.solved(vectors @ target, vectors @ vectors.T, tokens > 0), tokens)

    def solved(self, s: torch.Tensor, gram: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """w, float32 (n,), with sum 1: 0 for rows that are not `known`, bool (n,).

        Args:
            s: float32 (n,).
            gram: S, float32 (n, n).
            known: rows with answer tokens.
        """
        weights = known / known.sum()
        for _ in range(self.iterations):
            score = torch.zeros_like(s) if self.objective == "diverse" else s
            if self.objective != "align":
                score = score - self.beta * (gram @ weights)
            proposed = torch.softmax((score / self.tau).masked_fill(~known, -torch.inf), dim=0)
            weights = (1 - self.damping) * weights + self.damping * proposed
        return weights
