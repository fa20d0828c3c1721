"""`Job`, what a Trainer is handed beside its configuration, and how it is put together."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from transformers import Trainer, TrainerCallback

from near.data.rows import Rows
from near.models.tokens import Collator, Tokens
from near.selection.embedding_similarity import EmbeddingSimilarity
from near.selection.round import Round, Subset
from near.selection.scoring.scoring import Scorer, scorer_of
from near.selection.selectors.base import Selector
from near.training.inputs import Inputs, is_dynamic
from near.training.trackers.base import TrackerRun


def _selector_name(cfg: DictConfig, selector: Selector) -> str:
    """What a run's selection is called: the choice that was made; of a run without rounds its trainer's."""
    if not is_dynamic(cfg):
        return "dynamic_weight" if "weighter" in cfg.trainer else "static"
    return HydraConfig.get().runtime.choices.get("selector") or type(selector).__name__


def _job(cfg: DictConfig, cache_dir: str, output_dir: Path, selector: Selector, inputs: Inputs, args) -> "Job":
    from near.training.job import Job

    job = Job(
        selector=selector,
        selector_name=_selector_name(cfg, selector),
        tokens=inputs.tokens,
        pool=inputs.candidates,
        queries=inputs.queries,
        collator=Collator(inputs.tokenizer.pad_token_id),
        seed=cfg.seed,
        output_dir=output_dir,
        identity=_resumable(inputs.identity),
        represent=representation(cfg, cache_dir, inputs),
        eval_table=inputs.eval_table,
        loraplus=cfg.trainer.get("loraplus") or {},
        nonfinite_steps=cfg.trainer.get("nonfinite_steps", 3),
    )
    if inputs.needs.requires:
        numbers = args.device.type + (" bf16" if args.bf16 else " fp16" if args.fp16 else "")
        job.scorer = scorer_of(cfg, cache_dir, inputs.tokens, inputs.query_tokens, inputs.tokenizer, numbers)
    return job


def representation(cfg: DictConfig, cache_dir: str, inputs: Inputs) -> Callable[[Round], Round]:
    """How a round gets what its selector is to know of similarities: neighbours, and what lies beyond them."""
    similarity = instantiate(cfg.similarity, _convert_="all")
    known = None
    if inputs.neighbours is not None:
        known = EmbeddingSimilarity(cfg.embedder, cache_dir, inputs.candidates, inputs.queries, inputs.neighbours)

    def represent(round: Round) -> Round:
        round = dataclasses.replace(round, neighbours=inputs.neighbours, similarity=known)
        return similarity.apply(round, cfg.max_K)

    return represent


def _resumable(identity: dict) -> dict:
    """What must not change between a checkpoint and its resume: all but how the result is evaluated."""
    return {**identity, "config": {k: v for k, v in identity["config"].items() if k != "evaluation"}}


@dataclass
class Job:
    """What a Trainer is handed beside its configuration. `identity` binds checkpoints to their run."""

    selector: Selector
    selector_name: str
    tokens: Tokens
    pool: Rows
    collator: Collator
    seed: int
    output_dir: Path
    identity: dict
    queries: Rows | None = None
    represent: Callable[[Round], Round] = lambda round: round  # gives a round its neighbours
    scorer: Scorer | None = None
    target_loss: Callable[[Trainer, int], float | None] | None = None  # of a trainer's model at an optimizer step
    eval_table: object = None  # tokens of the evaluation rows, where trainer.args.eval_strategy asks for them
    callbacks: list[TrainerCallback] = field(default_factory=list)
    tracked: TrackerRun = field(default_factory=TrackerRun)
    planned: dict[int, tuple[Subset, float]] = field(default_factory=dict)  # rounds picked ahead, and their seconds
    loraplus: Mapping = field(default_factory=dict)  # lr_ratio and lr_embedding, where they are asked for
    nonfinite_steps: int = 3  # so many steps in a row whose loss or gradient norm is not finite end the training
    training_key: str | None = None  # of a job in a sweep: what it shares with its twins (near/training/twins.py)
