"""For tests that need a model: a tiny one with LoRA and an optimizer, rows as tokens, fixed losses and gradients."""

import contextlib
import dataclasses

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from near.common.errors import UserError
from near.evaluation.graders.base import Grader
from near.models.loading import add_finetuning, load_base, load_tokenizer
from near.models.tokens import IGNORED, Tokens
from near.models.weights import trained
from near.selection.round import Round
from near.selection.scoring.scoring import Gradients, Scorer, Scoring
from tests.conftest import configured

ROWS, QUERIES = 12, 5


def tokens(count: int, seed: int, vocabulary: int = 200) -> Tokens:
    """Rows of 6 to 12 tokens, the last half of them answers."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = rng.integers(3, vocabulary, rng.integers(6, 13))
        rows.append({"input_ids": ids, "labels": np.where(np.arange(len(ids)) >= len(ids) // 2, ids, IGNORED)})
    table = datasets.Dataset.from_list(rows)
    return Tokens(table, np.arange(count), f"{count} of {seed}")


def model_and_optimizer(cache, *overrides: str, steps: int = 2):
    """The tiny model with LoRA, after some steps of Adam."""
    cfg = configured("train", "data=files", "model=tiny", "finetuning.r=2", f"cache_dir={cache}", *overrides)
    torch.manual_seed(0)
    model = add_finetuning(load_base(cfg.model, cfg.cache_dir, "cpu"), cfg.finetuning).train()
    with torch.no_grad():
        for weight in trained(model).values():
            weight.add_(torch.randn_like(weight) * 0.05)
    optimizer = torch.optim.AdamW(list(trained(model).values()), lr=1e-3)
    step(model, optimizer, steps)
    return model, optimizer, load_tokenizer(cfg.model, cfg.cache_dir)


def step(model, optimizer, steps: int = 1) -> None:
    table = tokens(4, seed=9).table
    for i in range(steps):
        optimizer.zero_grad()
        model(
            input_ids=torch.tensor([table[i % 4]["input_ids"]]), labels=torch.tensor([table[i % 4]["labels"]])
        ).loss.backward()
        optimizer.step()
    optimizer.zero_grad()


def scorer(cache, tokenizer: PreTrainedTokenizerFast, **options) -> Scorer:
    options = {"dim": None, "chunk": 5, "batch_tokens": 40, **options}
    return Scorer(
        Scoring(**options), tokens(ROWS, 1), tokens(QUERIES, 2), tokenizer, {"cutoff_len": 64}, str(cache), "tiny"
    )


def gradient(model, row: dict) -> torch.Tensor:
    """The gradient of a row's loss by autograd, all weights in turn, float32 (p,)."""
    model.zero_grad()
    was_training = model.training
    model.eval()
    model(
        input_ids=torch.tensor(np.array([row["input_ids"]])), labels=torch.tensor(np.array([row["labels"]]))
    ).loss.backward()
    model.train(was_training)
    result = torch.cat([weight.grad.flatten() for weight in trained(model).values()])
    model.zero_grad()
    return result


class Queries:
    """The part of Rows that selectors use."""

    def __init__(self, sources: list[str], chats: list | None = None):
        self._sources, self._chats = np.array(sources, dtype=object), chats

    def sources(self, ids: np.ndarray) -> np.ndarray:
        return self._sources[ids]

    def eligible(self) -> np.ndarray:
        return np.arange(len(self._sources))

    def chats(self, ids: np.ndarray) -> list:
        return [self._chats[i] for i in ids]


def round_for(scorer=None, size: int = 4, **known) -> Round:
    known = {"queries": Queries(["a"] * QUERIES), "eligible": np.arange(ROWS), **known}
    eligible = known.pop("eligible")
    return dataclasses.replace(Round.alone(size, known.pop("seed", 0), eligible, ROWS), scorer=scorer, **known)


class FakeFeatures:
    """Vectors in place of features."""

    def __init__(self, vectors: np.ndarray):
        self.vectors = np.asarray(vectors, dtype=np.float32)
        self.norms = np.linalg.norm(self.vectors, axis=1)
        self.rows = len(self.vectors)

    def matrix(self) -> np.ndarray:
        return self.vectors

    def __iter__(self):
        for start in range(0, self.rows, 3):
            yield np.arange(start, min(start + 3, self.rows)), self.vectors[start : start + 3]


class FakeScorer:
    """Fixed losses and gradients, by round or by checkpoint; `requested`: the rows that were scored."""

    def __init__(self, losses=(), pool=(), queries=(), weights=(1.0,)):
        self._losses, self._pool, self._queries, self._weights = list(losses), pool, queries, weights
        self.requested: list[np.ndarray] = []
        self.options, self.base_folder, self.start = Scoring(), "", None
        self.queries = Tokens(None, np.arange(len(queries[0]) if len(queries) else 0))

    def remembering(self):
        return contextlib.nullcontext()

    def losses(self, model, ids: np.ndarray) -> np.ndarray:
        self.requested.append(ids)
        return np.asarray(self._losses.pop(0), dtype=np.float32)[ids]

    def token_losses(self, model, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses of rows with one answer token each, or with as many as each row has losses."""
        losses = self.losses(model, ids)
        return losses.reshape(len(ids), -1), np.full(len(ids), losses.size // len(ids))

    def expert_loads(self, model, ids: np.ndarray, layer: int = -1) -> np.ndarray:
        """Two tokens for one of four experts, the others' one each, by the losses."""
        return 1 + np.eye(4, dtype=np.int64)[(self.losses(model, ids) * 97).astype(int) % 4]

    def gradients(self, model, optimizer, ids: np.ndarray):
        self.requested.append(ids)
        for weight, pool, queries in zip(self._weights, self._pool, self._queries, strict=True):
            yield Gradients(weight, FakeFeatures(np.asarray(pool)[ids]), FakeFeatures(queries))


class Adapted:
    """What a reference needs of a model with an adapter."""

    peft_config = ()

    def disable_adapter(self):
        return contextlib.nullcontext()


class Away(Grader):
    """A grader that can't be reached."""

    def grade(self, answers, cache_dir):
        raise UserError("the judge is away")
