"""`Job`: what a Trainer gets beside its configuration, and how it is assembled."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from transformers import Trainer, TrainerCallback

from near.common.records import RunIdentity
from near.data.rows import Rows
from near.models.tokens import Collator, Tokens
from near.searching.settings import SearchSettings
from near.selection.beyond import similarity_of
from near.selection.embedding_similarity import EmbeddingSimilarity
from near.selection.orders.selector import Ordered
from near.selection.plan.plan import Plan
from near.selection.round import Round, Subset
from near.selection.scoring.scoring import Scorer, scorer_of
from near.selection.selectors.base import Selector
from near.training.inputs import Inputs, is_dynamic
from near.training.rounds.schedule import Phase
from near.training.trackers.base import TrackerRun
from near.training.warm_up import SharedWarmUp
from near.training.weighters.stage import Weigh


def selector_name(cfg: DictConfig, selector: Selector) -> str:
    """The name of a run's selection: the choice of the group plan; or that of selector, with that of order behind a +;
    without rounds, the trainer's name."""
    if isinstance(selector, Plan):
        return HydraConfig.get().runtime.choices.get("plan") or "plan"
    if not is_dynamic(cfg):
        return "dynamic_weight" if "weighter" in cfg.trainer else "static"
    choices, parts = HydraConfig.get().runtime.choices, {"selector": selector}
    if isinstance(selector, Ordered):
        parts = {"selector": selector.selector, "order": selector.order}
    return "+".join(choices.get(group) or type(part).__name__ for group, part in parts.items())


def job_of(cfg: DictConfig, cache_dir: str, output_dir: Path, selector: Selector, inputs: Inputs, args) -> "Job":
    """The job of a run. args: its TrainingArguments."""
    job = Job(
        selector=selector,
        selector_name=selector_name(cfg, selector),
        tokens=inputs.tokens,
        pool=inputs.candidates,
        queries=inputs.queries,
        columns=inputs.columns,
        query_columns=inputs.query_columns,
        collator=Collator(inputs.tokenizer.pad_token_id),
        seed=cfg.seed,
        output_dir=output_dir,
        identity=_resumable(inputs.identity),
        target=inputs.query_tokens,
        represent=representation(cfg, cache_dir, inputs),
        eval_table=inputs.eval_table,
        loraplus=cfg.trainer.get("loraplus") or {},
        nonfinite_steps=cfg.trainer.get("nonfinite_steps", 3),
        cutoff_len=cfg.data.cutoff_len,
        padding_free=cfg.trainer.get("padding_free", True),
        keep=cfg.trainer.get("keep", "last"),
        patience=cfg.trainer.get("patience"),
        weighers=weighers_of(selector),
    )
    if inputs.needs.requires:
        numbers = args.device.type + (" bf16" if args.bf16 else " fp16" if args.fp16 else "")
        job.scorer = scorer_of(cfg, cache_dir, inputs.tokens, inputs.query_tokens, inputs.tokenizer, numbers)
    return job


def weighers_of(selector: Selector) -> Sequence[Weigh]:
    """The weigh stages of a plan; none of another selector."""
    return selector.weighers if isinstance(selector, Plan) else ()


def representation(cfg: DictConfig, cache_dir: str, inputs: Inputs) -> Callable[[Round], Round]:
    """A function that adds neighbours, and similarities beyond them, to a round."""
    similarity = instantiate(cfg.similarity, _convert_="all")
    beyond = None
    if inputs.neighbours is not None or inputs.needs.vectors:
        search = SearchSettings.of(cfg, cache_dir)
        beyond = similarity_of(search, inputs.candidates, inputs.queries, inputs.neighbours)
    if inputs.needs.vectors and isinstance(beyond, EmbeddingSimilarity):
        beyond.embed()

    def represent(round: Round) -> Round:
        round = dataclasses.replace(round, neighbours=inputs.neighbours, similarity=beyond)
        return similarity.apply(round, cfg.max_K)

    return represent


def _resumable(identity: RunIdentity) -> RunIdentity:
    """The identity without evaluation settings: what must not change between a checkpoint and its resume."""
    return dataclasses.replace(identity, config={k: v for k, v in identity.config.items() if k != "evaluation"})


class Planned(NamedTuple):
    """A round selected ahead of training: its subset, the seconds it took, and the selector's state after it."""

    subset: Subset
    seconds: float
    state: dict[str, np.ndarray]


@dataclass
class Job:
    """What a Trainer gets beside its configuration. `identity` binds checkpoints to their run."""

    selector: Selector
    selector_name: str
    tokens: Tokens
    pool: Rows
    collator: Collator
    seed: int
    output_dir: Path
    identity: RunIdentity
    queries: Rows | None = None
    columns: Mapping[str, list] = field(default_factory=dict)  # of the pool, for its selector
    query_columns: Mapping[str, list] = field(default_factory=dict)
    target: Tokens | None = None  # the queries', where a selector or weighter needs them
    represent: Callable[[Round], Round] = lambda round: round  # adds neighbours to a round
    scorer: Scorer | None = None
    target_loss: Callable[[Trainer, int], float | None] | None = None  # by trainer and optimizer step
    validation: Rows | None = None  # rows that choose the best round
    validation_loss: Callable[[Trainer, int], float | None] | None = None  # as target_loss
    eval_table: object = None  # tokens of the evaluation rows, if trainer.args.eval_strategy is set
    callbacks: list[TrainerCallback] = field(default_factory=list)
    tracked: TrackerRun = field(default_factory=TrackerRun)
    selected: Callable[[Phase, Round, np.ndarray], None] = lambda phase, round, ids: None  # before a round's rows train
    planned: dict[int, Planned] = field(default_factory=dict)  # rounds selected ahead
    weighers: Sequence[Weigh] = ()  # of a plan
    loraplus: Mapping = field(default_factory=dict)  # lr_ratio and lr_embedding, if they are set
    nonfinite_steps: int = 3  # so many steps in a row without finite loss and gradient norm end training
    cutoff_len: int = 0  # tokens of a row at most
    padding_free: bool = True  # rows of a batch end to end (near/models/padding_free.py)
    keep: str = "last"  # best: end with the weights of the round with the lowest validation loss
    patience: int | None = None  # end after so many rounds without a better validation loss
    training_key: str | None = None  # in a sweep: equal for twins (near/training/twins.py)
    warm_up: SharedWarmUp | None = None  # in a sweep: shared with jobs that have the same
