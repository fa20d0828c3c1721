"""Losses and gradients of rows, cached by everything that they depend on.

No cache key has a step's number: for the same weights, rows and settings they are computed once, in whichever run.
Results are computed in chunks (near/selection/scoring/chunks.py), so that a killed run continues where it was, and the
processes of a run share them.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from near.common.bounds import BatchTokens, Seed, between
from near.common.budget import Budget
from near.common.errors import UserError
from near.common.files import cache_folder, digest, note_use
from near.common.processes import is_main, world_size
from near.models.budget import budget_for
from near.models.encoding import Encoder
from near.models.experts import expert_loads
from near.models.fingerprint import of_model
from near.models.loading import base_folder
from near.models.losses import answer_losses, by_row
from near.models.start import mode_of, start_folder
from near.models.tokens import Collator, Tokens, lengths
from near.models.weights import weights_digest
from near.selection.scoring.checkpoints import Checkpoint
from near.selection.scoring.chunks import Chunks
from near.selection.scoring.forecast import Forecast
from near.selection.scoring.gradients import Moments, PerExample, Projection, moments_of
from near.selection.scoring.memory import Memory
from near.selection.scoring.precondition import preconditioned

log = logging.getLogger(__name__)

VERSION = 1
BatchWork = Callable[[list[dict]], dict[str, np.ndarray]]
BATCH_TOKENS, MAX_ROWS = 1024, 64  # of a batch on a CPU
TOGETHER = 8  # chunks whose rows are batched together where budgets are measured: batches are large there
WIDEST = 1 << 16  # dimensions of gradients for which so many chunks fit into memory together


@dataclass(frozen=True)
class Scoring:
    """Options of losses and gradients.

    Attributes:
        dim: dimension of the projected gradients (near/selection/scoring/gradients.py); None: whole gradients.
        hashes, seed: of the projection.
        adam: turn gradients of the pool into Adam's direction.
        epsilon: Adam's, outside (torch) or inside (the code of LESS) the root.
        modules: the linear layers whose gradients are taken; None: LoRA's.
        checkpoints: folders of checkpoints whose weights replace the model's, each weighted by its learning rate.
        precondition: fisher: multiply the queries' gradients by the inverse of the pool's damped Fisher
            (near/selection/scoring/precondition.py); None: no. Cached gradients stay valid.
        damping: of the Fisher, in units of its mean eigenvalue.
        batch_tokens: tokens of a batch, padding included; see near/common/budget.py.
        chunk: rows of a chunk. A killed run loses the one in work and the one that is being written, or TOGETHER of
            each on an accelerator.
    """

    dim: Annotated[int, between(8, 10_000_000)] | None = 4096
    hashes: Annotated[int, between(1, 64)] = 1
    seed: Seed = 0
    adam: bool = True
    epsilon: Literal["outside", "inside"] = "outside"
    modules: list[str] | None = None
    checkpoints: list[str] | None = None
    precondition: Literal["fisher"] | None = None
    damping: Annotated[float, between(1e-9, 1e9)] = 0.1
    batch_tokens: BatchTokens = "auto"
    chunk: int = 128

    @property
    def tokens_in_key(self) -> int:
        """What stands for `batch_tokens` in cache keys: never a measured number."""
        return BATCH_TOKENS if self.batch_tokens == "auto" else self.batch_tokens

    @property
    def fisher_damping(self) -> float | None:
        """`damping`; None without a Fisher."""
        return self.damping if self.precondition == "fisher" else None


class Features:
    """Projected gradients of rows: unit vectors, float16 on disk, and their lengths, `norms` float32 (n,)."""

    def __init__(self, chunks: Chunks):
        self.chunks = chunks
        self.rows = sum(map(len, chunks.parts))

    @property
    def norms(self) -> np.ndarray:
        return self.chunks.gathered("norms")

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions int64 (m,) and their unit vectors float32 (m, dim), chunk by chunk; a zero gradient stays zero."""
        for number, part in enumerate(self.chunks.parts):
            yield part, self.chunks.read(number, "gradients").astype(np.float32)

    def matrix(self) -> np.ndarray:
        """All unit vectors, float32 (n, dim)."""
        return self.chunks.gathered("gradients").astype(np.float32)


@dataclass(frozen=True)
class Gradients:
    """Gradients of rows of the pool and of the queries under one set of weights; `weight`: its share, of a sum of 1;
    `damping`: see Scoring.fisher_damping."""

    weight: float
    pool: Features
    queries: Features
    damping: float | None = None

    def targets(self) -> np.ndarray:
        """What the pool's unit features are multiplied with: the queries', preconditioned where `damping` is set,
        float32 (n_queries, dim), each of length 1."""
        queries = self.queries.matrix()
        if self.damping is None:
            return queries
        return preconditioned(queries, self.pool, self.pool.rows, self.damping)


class Scorer:
    """Computes losses and gradients of rows.

    Args:
        options: see Scoring.
        tokens: the pool's.
        queries: tokens of the queries; None: gradients of the target are not available.
        tokenizer: of the model.
        data: how rows are encoded (near/models/encoding.py).
        cache_dir: the cache.
        base: digest of what decides the weights that are not trained.
        numbers: what else decides the results' bits.
        base_folder: the base model's files.
        start: the folder of the adapter that is trained further, if one is.
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
        start: str | None = None,
    ):
        self.options, self.tokens, self.queries = options, tokens, queries
        self.tokenizer, self.collator = tokenizer, Collator(tokenizer.pad_token_id)
        self.encoder = Encoder(tokenizer, data)
        self.cache_dir, self.base, self.numbers, self.base_folder = cache_dir, base, numbers, base_folder
        self.start = start
        self.projection = [options.dim, options.hashes, options.seed]
        self.computed = 0  # chunks that this process computed
        self.budgets: dict[str, Budget] = {}  # by what is computed
        self._logged_plain, self._logged_budgets = False, set()
        self._memory: Memory | None = None

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        """Within it, losses and gradients of a row under the same weights are computed once, for whichever rows they
        are computed together with."""
        self._memory = Memory()
        try:
            yield
        finally:
            self._memory = None

    def losses(self, model, ids: np.ndarray) -> np.ndarray:
        """The mean loss over each row's answer tokens, float32 (len(ids),), natural log, without dropout."""

        def work(rows: list[dict]) -> dict[str, np.ndarray]:
            sums, counts = by_row(*answer_losses(model, self._batch(rows, model)), len(rows))
            return {"losses": (sums / counts.clamp(min=1)).float().cpu().numpy()}

        def compute(ids: np.ndarray) -> np.ndarray:
            return self._losses(model, ids, work, "losses").gathered("losses")

        return compute(ids) if self._memory is None else self._memory.numbers(weights_digest(model), ids, compute)

    def token_losses(self, model, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The loss of every answer token, natural log, without dropout.

        Returns:
            losses float32 (len(ids), tokens of the longest row), a row's answer tokens in order, then zeros; counts of
            answer tokens, int64 (len(ids),).
        """
        longest = int(lengths(self.tokens.table.select(ids)).max())

        def work(rows: list[dict]) -> dict[str, np.ndarray]:
            losses, owner = answer_losses(model, self._batch(rows, model))
            counts = torch.bincount(owner, minlength=len(rows))
            starts = counts.cumsum(0) - counts
            table = torch.zeros((len(rows), longest), dtype=torch.float32, device=losses.device)
            table[owner, torch.arange(len(owner), device=owner.device) - starts[owner]] = losses
            return {"losses": table.cpu().numpy(), "counts": counts.cpu().numpy()}

        chunks = self._losses(model, ids, work, "token losses")
        return chunks.gathered("losses"), chunks.gathered("counts")

    def expert_loads(self, model, ids: np.ndarray, layer: int = -1) -> np.ndarray:
        """How many tokens of each row go to each expert of a layer, int64 (len(ids), experts): models/experts.py."""

        def work(rows: list[dict]) -> dict[str, np.ndarray]:
            return {"loads": expert_loads(model, self._batch(rows, model), layer).cpu().numpy()}

        return self._losses(model, ids, work, f"expert loads of layer {layer}").gathered("loads")

    def _losses(self, model, ids: np.ndarray, work: BatchWork, name: str) -> Chunks:
        key_parts = self._losses_key(model, name)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return self._chunks(key_parts, self.tokens, ids, work, name, self.budget(model, "losses"))
        finally:
            model.train(was_training)

    def _losses_key(self, model, name: str) -> list:
        return [name, weights_digest(model), self.tokens.fingerprint]

    def stored(self, model, optimizer, ids: np.ndarray, what: Literal["losses", "gradients"]) -> int:
        """How many of the rows `ids` of the pool have their losses or gradients in the cache; see `pool_gradients`."""
        if what == "losses":
            key_parts = self._losses_key(model, what)
        else:
            per_example = self._per_example(model)
            key_parts = self._features_key(per_example, self.tokens, self._moments(per_example, optimizer))
        chunks = self._located(key_parts, ids)
        return sum(len(part) for number, part in enumerate(chunks.parts) if chunks.whole(number))

    def probe(self, model) -> None:
        """Take the gradients of two queries; UserError if this model's can't be taken. Called before training."""
        if self.queries is not None:
            rows = [self.queries.table[int(i)] for i in self.queries.eligible[[0, -1]]]
            with self._per_example(model) as per_example:
                per_example(self._batch(rows, model))

    def gradients(self, model, optimizer, ids: np.ndarray) -> Iterator[Gradients]:
        """Gradients of rows `ids` of the pool (with `adam` in Adam's direction) and plain ones of all queries: of the
        current model, or once for each checkpoint."""
        if not self.options.checkpoints:
            pool = self.pool_gradients(model, optimizer, ids)
            yield Gradients(1.0, pool, self.query_gradients(model), self.options.fisher_damping)
            return
        for checkpoint in Checkpoint.all(self.options.checkpoints):
            with checkpoint.in_place(model):
                moments = checkpoint.moments(model) if self.options.adam else None
                pool = self.pool_gradients(model, moments, ids)
                yield Gradients(checkpoint.weight, pool, self.query_gradients(model), self.options.fisher_damping)

    def pool_gradients(self, model, optimizer, ids: np.ndarray) -> Features:
        """Gradients of rows `ids` of the pool.

        optimizer: its moments turn them into Adam's direction; or the moments themselves, by weight.
        """
        per_example = self._per_example(model)
        moments = self._moments(per_example, optimizer)
        if self.options.adam:
            self._log_plain(moments)
        return self._features(per_example, self.tokens, ids, moments)

    def _moments(self, per_example: PerExample, optimizer) -> dict[str, Moments] | None:
        if not self.options.adam:
            return None
        return optimizer if isinstance(optimizer, dict) else moments_of(optimizer, per_example.weights)

    def query_gradients(self, model) -> Features:
        """Plain gradients of all queries."""
        if self.queries is None:
            raise UserError("gradients of the target need queries with answers; set data.queries.path")
        return self._features(self._per_example(model), self.queries, self.queries.eligible, None)

    def reward_gradients(self, model, rows: list[dict], weights: np.ndarray) -> np.ndarray:
        """Projected gradients (scoring.dim is set) of weighted losses, float32 (n_rows, dim).

        Args:
            model: whose gradients are taken.
            rows: tokens and labels.
            weights: float (n_rows,); a row's loss is its weight times the sum of its token losses.
        """
        gradients = np.empty((len(rows), self.options.dim), dtype=np.float32)
        with self._per_example(model) as per_example:

            def work(part: np.ndarray) -> np.ndarray:
                batch = self._batch([rows[i] for i in part], model)
                return per_example(batch, torch.as_tensor(weights[part], device=model.device)).cpu().numpy()

            budget, sizes = self.budget(model, "gradients"), [len(row["input_ids"]) for row in rows]
            for part, values in budget.run(sizes, work, budget.rows(MAX_ROWS)):
                gradients[part] = values
        return gradients

    def folder(self, model, key_parts: list) -> Path:
        """The cache folder of a result that depends on the model's gradients and on `key_parts`."""
        gradients = [weights_digest(model), self.projection, self.options.modules, self.options.tokens_in_key]
        return self._folder([key_parts, gradients])

    def _folder(self, key_parts: list) -> Path:
        return cache_folder(self.cache_dir, "scores", digest([VERSION, self.base, self.numbers, key_parts]))

    def _per_example(self, model) -> PerExample:
        return PerExample(model, Projection(*self.projection), self.options.modules)

    def _log_plain(self, moments: dict[str, Moments] | None) -> None:
        if moments is None and not self._logged_plain and is_main():
            log.info("the optimizer has made no step yet: plain gradients replace Adam's direction")
            self._logged_plain = True

    def _features(
        self, per_example: PerExample, tokens: Tokens, ids: np.ndarray, moments: dict[str, Moments] | None
    ) -> Features:
        model, key_parts = per_example.model, self._features_key(per_example, tokens, moments)

        def work(rows: list[dict]) -> dict[str, np.ndarray]:
            gradients = per_example(self._batch(rows, model), moments=moments, epsilon=self.options.epsilon)
            norms = gradients.norm(dim=1)  # (n_rows,)
            units = gradients / norms.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
            return {"gradients": units.half().cpu().numpy(), "norms": norms.cpu().numpy()}

        def compute() -> Features:
            with per_example:
                chunks = self._chunks(key_parts, tokens, ids, work, "gradients", self.budget(model, "gradients"))
                return Features(chunks)

        return compute() if self._memory is None else self._memory.features(digest(key_parts), ids, compute)

    def _features_key(self, per_example: PerExample, tokens: Tokens, moments: dict[str, Moments] | None) -> list:
        weights = weights_digest(per_example.model)  # of all trained weights: gradients of some layers depend on all
        key_parts = ["gradients", weights, tokens.fingerprint, self.projection, sorted(per_example.layers)]
        if moments is not None:
            key_parts += [self.options.epsilon, [m.digest() for m in moments.values()]]
        return key_parts

    def budget(self, model, work: Literal["losses", "gradients"]) -> Budget:
        """The tokens of a batch of `work`."""
        if work not in self.budgets:
            name, fix = "scoring.batch_tokens", "use a smaller data.cutoff_len"
            self.budgets[work] = budget_for(
                model, self.options.batch_tokens, BATCH_TOKENS, name, work, self.cache_dir, fix
            )
        return self.budgets[work]

    def _log_budget(self, budget: Budget, name: str) -> None:
        """Log, once, the budget that `name` is computed with. (A measured one logs itself.)"""
        if budget.meter is None and id(budget) not in self._logged_budgets and is_main():
            self._logged_budgets.add(id(budget))
            log.info(f"{name}: {budget.tokens} tokens a batch (scoring.batch_tokens={self.options.batch_tokens})")

    def _together(self, budget: Budget, parts: int) -> int:
        """How many of so many chunks are computed together: on an accelerator several, if each process has some."""
        if budget.meter is None or (self.options.dim or WIDEST + 1) > WIDEST:
            return 1
        return max(1, min(TOGETHER, parts // world_size()))

    def _chunks(
        self, key_parts: list, tokens: Tokens, ids: np.ndarray, work: BatchWork, name: str, budget: Budget
    ) -> Chunks:
        """The complete chunks of rows `ids`, in their order. Rows alike in length, of a chunk or several, are batched.

        Args:
            key_parts: what the result depends on, beside the rows and the batches.
            tokens: that `ids` are rows of.
            ids: int64 (n,).
            work: computes the arrays of a batch of rows, by name.
            name: of the result, for the progress bar and messages.
            budget: of tokens in a batch.
        """
        chunks = self._located(key_parts, ids)
        parts = chunks.parts
        forecast = Forecast(name, len(ids) < len(tokens.eligible))
        forecast.done = tokens is not self.tokens  # a target is small

        def decide(sizes: list[int]) -> None:
            left = sum(len(part) for number, part in enumerate(parts) if not chunks.whole(number))
            forecast.decide(sum(sizes) / len(sizes), left)

        def compute(positions: np.ndarray, progress) -> dict[str, np.ndarray]:
            self._log_budget(budget, name)
            rows = tokens.table[ids[positions].tolist()]
            rows = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
            arrays: dict[str, np.ndarray] = {}
            sizes = [len(row["input_ids"]) for row in rows]
            for part, computed in budget.run(sizes, lambda part: work([rows[i] for i in part]), budget.rows(MAX_ROWS)):
                for array, values in computed.items():
                    bad = ~np.isfinite(values.reshape(len(part), -1)).all(axis=1)
                    if bad.any():
                        row = ids[positions[part[bad.argmax()]]]
                        raise UserError(
                            f"scoring: the {name} of row {row} are not finite numbers; train in bfloat16 or float32, "
                            "with a smaller trainer.args.learning_rate, or leave the row out"
                        )
                    if array not in arrays:
                        arrays[array] = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
                    arrays[array][part] = values
                progress(len(part))
                if budget.calibrating:
                    forecast.restart()
                elif forecast.add(len(part), sum(sizes[i] for i in part)):
                    decide(sizes)
            if not forecast.done:
                decide(sizes)
            return arrays

        chunks.compute(compute, name, self._together(budget, len(parts)))
        self.computed += chunks.computed
        note_use(chunks.folder)  # its last use, for pruning
        return chunks

    def _located(self, key_parts: list, ids: np.ndarray) -> Chunks:
        """The chunks of rows `ids`, complete or not; the arguments are those of `_chunks`."""
        o = self.options
        parts = [np.arange(a, min(a + o.chunk, len(ids))) for a in range(0, len(ids), o.chunk)]
        rows_digest = hashlib.sha256(np.ascontiguousarray(ids)).hexdigest()
        return Chunks(self._folder([key_parts, rows_digest, o.tokens_in_key, o.chunk]), parts)

    def _batch(self, rows: list[dict], model) -> dict[str, torch.Tensor]:
        return {name: values.to(model.device) for name, values in self.collator(rows).items()}


def scorer_of(
    cfg: DictConfig, cache_dir: str, tokens: Tokens, queries: Tokens | None, tokenizer, numbers: str = ""
) -> Scorer:
    """The Scorer of a configuration. `numbers`: the type the model computes in, if it is not its weights'."""
    folder = base_folder(cfg.model, cache_dir)
    base = digest(of_model(cfg.model, folder))
    options = instantiate(cfg.scoring, _convert_="all")
    start = str(start_folder(cfg.model)) if mode_of(cfg.model) == "continue" else None
    return Scorer(options, tokens, queries, tokenizer, cfg.data, cache_dir, base, numbers, folder, start)
