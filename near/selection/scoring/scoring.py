"""What the model says of rows: their losses and gradients, kept in the cache by all that they depend on.

Nothing is keyed by a step's number: the same weights that meet the same rows under the same settings are asked once, by
whichever run. Results are computed in chunks (near/selection/scoring/chunks.py), so that a killed run goes on where it
was, and the processes of a run share them.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.batches import batches
from near.common.bounds import Seed, between
from near.common.errors import UserError
from near.common.files import cache_folder, digest, note_use
from near.common.processes import is_main
from near.models.encoding import Encoder
from near.models.fingerprint import of_model
from near.models.loading import base_folder
from near.models.losses import answer_losses, by_row
from near.models.tokens import Collator, Tokens, lengths
from near.models.weights import weights_digest
from near.selection.scoring.checkpoints import Checkpoint
from near.selection.scoring.chunks import Chunks
from near.selection.scoring.gradients import Moments, PerExample, Projection, moments_of

log = logging.getLogger(__name__)

VERSION = 1
MOST = 64  # rows of a batch


@dataclass(frozen=True)
class Scoring:
    """How the model is asked.

    dim, hashes, seed: of the projection (near/selection/scoring/gradients.py); dim=None: whole gradients. adam:
    gradients of the pool in Adam's direction, with its epsilon outside (torch's) or inside (LESS's code) the root.
    modules: the linear layers whose gradients are looked at; None: LoRA's. checkpoints: folders of checkpoints whose
    weights are asked in place of the model's, each weighted by its learning rate. batch_tokens: tokens of a batch with
    its padding; chunk: rows that a kill can lose.
    """

    dim: Annotated[int, between(8, 10_000_000)] | None = 4096
    hashes: Annotated[int, between(1, 64)] = 1
    seed: Seed = 0
    adam: bool = True
    epsilon: Literal["outside", "inside"] = "outside"
    modules: list[str] | None = None
    checkpoints: list[str] | None = None
    batch_tokens: Annotated[int, between(1, 2**31 - 1)] = 1024
    chunk: int = 128


class Features:
    """Projected gradients of some rows, as unit vectors in float16 on disk, and their lengths, `norms` float32 (n,)."""

    def __init__(self, chunks: Chunks):
        self.chunks = chunks
        self.rows = sum(map(len, chunks.parts))

    @property
    def norms(self) -> np.ndarray:
        return self.chunks.gathered("norms")

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions, int64 (m,), and their unit vectors, float32 (m, dim), chunk by chunk; a zero gradient stays 0."""
        for number, part in enumerate(self.chunks.parts):
            yield part, self.chunks.read(number, "gradients").astype(np.float32)

    def matrix(self) -> np.ndarray:
        """All of them, float32 (n, dim)."""
        found = None
        for positions, vectors in self:
            found = np.empty((self.rows, vectors.shape[1]), dtype=np.float32) if found is None else found
            found[positions] = vectors
        return found


@dataclass(frozen=True)
class Asked:
    """Gradients under one set of weights: of rows of the pool and of the queries; `weight`: its share, all sum to 1."""

    weight: float
    pool: Features
    queries: Features


class Scorer:
    """Asks a model for losses and gradients of rows of `tokens` (the pool's) and of `queries`.

    data: how rows are encoded (near/models/encoding.py); base: what decides the weights that are not trained; numbers:
    what else decides the results' bits; base_folder: the base model's files.
    """

    def __init__(
        self,
        options: Scoring,
        tokens: Tokens,
        queries: Tokens | None,
        tokenizer,
        data: Mapping,
        cache_dir: str,
        base: str,
        numbers: str = "",
        base_folder: str = "",
    ):
        self.options, self.tokens, self.queries = options, tokens, queries
        self.tokenizer, self.collator = tokenizer, Collator(tokenizer.pad_token_id)
        self.encoder = Encoder(tokenizer, data)
        self.cache_dir, self.base, self.numbers, self.base_folder = cache_dir, base, numbers, base_folder
        self.computed = 0  # chunks that this process computed
        self.told_plain = False

    def losses(self, model, ids: np.ndarray) -> np.ndarray:
        """The mean loss over each row's answer tokens, float32 (len(ids),), natural log; dropout is off."""

        def work(rows: list[dict]) -> dict[str, np.ndarray]:
            sums, counts = by_row(*answer_losses(model, self._batch(rows, model)), len(rows))
            return {"losses": (sums / counts.clamp(min=1)).float().cpu().numpy()}

        return self._asked(model, ids, work, "losses").gathered("losses")

    def token_losses(self, model, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The loss of every answer token of each row in turn, float32 (len(ids), longest row), 0 after its last, and
        how many tokens it has, int64 (len(ids),); natural log, dropout is off."""
        longest = int(lengths(self.tokens.table.select(ids)).max())

        def work(rows: list[dict]) -> dict[str, np.ndarray]:
            losses, owner = answer_losses(model, self._batch(rows, model))
            counts = torch.bincount(owner, minlength=len(rows))
            starts = counts.cumsum(0) - counts
            found = torch.zeros((len(rows), longest), dtype=torch.float32, device=losses.device)
            found[owner, torch.arange(len(owner), device=owner.device) - starts[owner]] = losses
            return {"losses": found.cpu().numpy(), "counts": counts.cpu().numpy()}

        chunks = self._asked(model, ids, work, "token losses")
        return chunks.gathered("losses"), chunks.gathered("counts")

    def _asked(self, model, ids: np.ndarray, work, what: str) -> Chunks:
        made_of = [what, weights_digest(model), self.tokens.fingerprint]
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return self._chunks(made_of, self.tokens, ids, work, what)
        finally:
            model.train(was_training)

    def probe(self, model) -> None:
        """Take the gradients of two queries: UserError where the model's can't be taken, before it is trained."""
        if self.queries is not None:
            rows = [self.queries.table[int(i)] for i in self.queries.eligible[[0, -1]]]
            with PerExample(model, self._projection(), self.options.modules) as per_example:
                per_example(self._batch(rows, model))

    def gradients(self, model, optimizer, ids: np.ndarray) -> Iterator[Asked]:
        """Gradients of rows `ids` of the pool, in Adam's direction by choice, and plain ones of all queries: of the
        model as it is, or once for each checkpoint."""
        if not self.options.checkpoints:
            yield Asked(1.0, self.pool_gradients(model, optimizer, ids), self.query_gradients(model))
            return
        checkpoints = Checkpoint.all(self.options.checkpoints)
        for checkpoint in checkpoints:
            with checkpoint.in_place(model):
                moments = checkpoint.moments(model) if self.options.adam else None
                pool = self.pool_gradients(model, moments, ids)
                yield Asked(checkpoint.weight, pool, self.query_gradients(model))

    def pool_gradients(self, model, optimizer, ids: np.ndarray) -> Features:
        """Of rows `ids` of the pool. `optimizer`: whose moments turn them into Adam's direction, or the moments."""
        weights = weights_digest(model)  # of all that are trained, be they looked at or not
        with PerExample(model, self._projection(), self.options.modules) as per_example:
            found = None
            if self.options.adam:
                found = optimizer if isinstance(optimizer, dict) else moments_of(optimizer, per_example.weights)
                self._tell_plain(found)
            return self._features(per_example, model, weights, self.tokens, ids, found)

    def query_gradients(self, model) -> Features:
        """Of all queries, not in Adam's direction."""
        if self.queries is None:
            raise UserError("gradients of the target need data.queries.path, and answers in it")
        weights = weights_digest(model)
        with PerExample(model, self._projection(), self.options.modules) as per_example:
            return self._features(per_example, model, weights, self.queries, self.queries.eligible, None)

    def reward_gradients(self, model, rows: list[dict], weights: np.ndarray) -> np.ndarray:
        """Projected gradients of `weights`, float (m,), times each of `rows`' summed token losses, float32 (m, dim)."""
        found = None
        with PerExample(model, self._projection(), self.options.modules) as per_example:
            for part in self._batches(np.array([len(row["input_ids"]) for row in rows])):
                batch = self._batch([rows[i] for i in part], model)
                made = per_example(batch, torch.as_tensor(weights[part], device=model.device)).cpu().numpy()
                found = np.empty((len(rows), made.shape[1]), dtype=np.float32) if found is None else found
                found[part] = made
        return found

    def folder(self, model, made_of: list) -> Path:
        """Where something is kept that the model's gradients are part of, by all that it depends on."""
        own = [weights_digest(model), self._projected(), self.options.modules, self.options.batch_tokens]
        return self._folder([made_of, own])

    def _folder(self, made_of: list) -> Path:
        key = digest([VERSION, self.base, self.numbers, made_of])
        return cache_folder(self.cache_dir, "scores", key)

    def _projected(self) -> list:
        return [self.options.dim, self.options.hashes, self.options.seed]

    def _projection(self) -> Projection:
        return Projection(self.options.dim, self.options.hashes, self.options.seed)

    def _tell_plain(self, moments: dict[str, Moments] | None) -> None:
        if moments is None and not self.told_plain and is_main():
            log.info("the optimizer has made no step yet: plain gradients stand for Adam's direction")
            self.told_plain = True

    def _features(
        self,
        per_example: PerExample,
        model,
        weights: str,
        tokens: Tokens,
        ids: np.ndarray,
        moments: dict[str, Moments] | None,
    ) -> Features:
        made_of = ["gradients", weights, tokens.fingerprint, self._projected(), sorted(per_example.layers)]
        if moments is not None:
            made_of += [self.options.epsilon, [m.digest() for m in moments.values()]]

        def work(rows: list[dict]) -> dict[str, np.ndarray]:
            found = per_example(self._batch(rows, model), moments=moments, epsilon=self.options.epsilon)
            norms = found.norm(dim=1)
            units = found / norms.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
            return {"gradients": units.half().cpu().numpy(), "norms": norms.cpu().numpy()}

        return Features(self._chunks(made_of, tokens, ids, work, "gradients"))

    def _chunks(self, made_of: list, tokens: Tokens, ids: np.ndarray, work, what: str) -> Chunks:
        """The chunks of `what` of rows `ids`, in their order, all there; in one, rows alike in length are batched."""
        o = self.options
        parts = [np.arange(a, min(a + o.chunk, len(ids))) for a in range(0, len(ids), o.chunk)]
        folder = self._folder([made_of, hashlib.sha256(np.ascontiguousarray(ids)).hexdigest(), o.batch_tokens, o.chunk])
        chunks = Chunks(folder, parts)

        def compute(positions: np.ndarray, progress) -> dict[str, np.ndarray]:
            rows = tokens.table[ids[positions].tolist()]
            rows = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
            found: dict[str, np.ndarray] = {}
            for part in self._batches(np.array([len(row["input_ids"]) for row in rows])):
                for name, values in work([rows[i] for i in part]).items():
                    bad = ~np.isfinite(values.reshape(len(part), -1)).all(axis=1)
                    if bad.any():
                        row = ids[positions[part[bad.argmax()]]]
                        raise UserError(
                            f"scoring: the {what} of row {row} are not finite numbers; train in bfloat16 or float32, "
                            "with a smaller trainer.args.learning_rate, or leave the row out"
                        )
                    if name not in found:
                        found[name] = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
                    found[name][part] = values
                progress(len(part))
            return found

        chunks.compute(compute, what)
        self.computed += chunks.computed
        note_use(folder)  # when it was used last, for pruning
        return chunks

    def _batches(self, sizes: np.ndarray) -> list[np.ndarray]:
        return batches(sizes, MOST, self.options.batch_tokens)

    def _batch(self, rows: list[dict], model) -> dict[str, torch.Tensor]:
        return {name: values.to(model.device) for name, values in self.collator(rows).items()}


def scorer_of(
    cfg: DictConfig, cache_dir: str, tokens: Tokens, queries: Tokens | None, tokenizer, numbers: str = ""
) -> Scorer:
    """Who asks the model. `numbers`: what it computes in, where that is not its weights' type."""
    folder = base_folder(cfg.model, cache_dir)
    base = digest(of_model(cfg.model, folder))
    options = instantiate(cfg.scoring, _convert_="all")
    return Scorer(options, tokens, queries, tokenizer, cfg.data, cache_dir, base, numbers, folder)
