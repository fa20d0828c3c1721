"""`dry_run=true` of train.py: what a run would train, evaluate and embed."""

import logging
import math
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from near.searching.dry_run import report
from near.searching.settings import SearchSettings
from near.selection.needs import Needs
from near.selection.plan.plan import Plan
from near.selection.selectors.base import Selector
from near.training.picking import Batching
from near.training.rounds.schedule import Schedule

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from near.training.inputs import LoadedRows

log = logging.getLogger(__name__)


def report_training(
    cfg: DictConfig, cache_dir: str, rows: "LoadedRows", selector: Selector, name: str, args: "TrainingArguments"
) -> None:
    """Log the plan of a run. `name`: the selector's, as the run would log it."""
    count = len(rows.candidates.eligible())
    if rows.needs.trains_on_queries:
        count = len(rows.queries.eligible())
    if "update_step" in cfg.trainer:
        _rounds(cfg, rows.needs, selector, name, args, count)
    else:
        batching = Batching.of(args)
        draws = batching.draws_per_step
        epoch = math.ceil(math.ceil(count / batching.batch) / (draws // batching.batch))  # steps, as the Trainer counts
        steps = cfg.trainer.get("train_step") or args.max_steps
        steps = steps if steps > 0 else math.ceil(args.num_train_epochs * epoch)
        log.info(
            f"dry run: all {count} rows, {steps} steps of {draws} rows: {steps * draws / count:.2f} passes over them"
        )
    sets = ", ".join(f"{len(part.eligible())} {part.name} rows" for part in rows.sets.all())
    at_rounds = "update_step" in cfg.trainer and cfg.evaluation.at_rounds
    log.info(f"evaluated {'at the start of every round and ' if at_rounds else ''}at the end: {sets}")
    if rows.needs.vectors or rows.needs.neighbours and cfg.indices_path is None:
        queries = rows.queries if rows.needs.neighbours else None
        report(SearchSettings.of(cfg, cache_dir), rows.candidates, queries, cfg.data.dedup, training=True)
    elif cfg.data.dedup == "near":
        log.info("to embed: the pool, for data.dedup=near")
    else:
        log.info("to embed: nothing" + ("" if cfg.indices_path is None else f", neighbours are in {cfg.indices_path}"))
    log.info("nothing was trained or stored; leave out dry_run=true to start")


def _rounds(
    cfg: DictConfig, needs: Needs, selector: Selector, name: str, args: "TrainingArguments", count: int
) -> None:
    """Log the steps and rows of the rounds, and what is computed with the model before each."""
    schedule, draws = Schedule.of(cfg.trainer), Batching.of(args).draws_per_step
    rounds = schedule.rounds()
    selected = [r for r in rounds if not r.warmup]
    warm = (
        f"a warm-up of {cfg.trainer.warmup_step} steps on random rows" if len(rounds) > len(selected) else "no warm-up"
    )
    cycles = f", all of it {cfg.trainer.cycles} times" if cfg.trainer.cycles > 1 else ""
    largest = min(cfg.trainer.update_step * draws, selector.most(count) or count, count)
    log.info(
        f"dry run: {warm}, then {cfg.trainer.update_times} rounds of {cfg.trainer.update_step} steps on at most "
        f"{largest} of {count} rows by selector {name}{cycles}"
    )
    log.info(f"{schedule.total} steps of {draws} rows: {schedule.total * draws} rows trained, counting repeats")
    if isinstance(selector, Plan):
        for stage in selector.stages.values():
            every = "each round" if stage.period == 1 else f"every {stage.period} rounds"
            keep = f", keeps {keep:g}" if (keep := getattr(stage, "keep", None)) is not None else ""
            log.info(
                f"plan.{stage.name}: {stage.kind} by {type(stage.by).__name__}, from step {stage.start}, {every}{keep}"
            )
    if needs.requires and selected:
        log.info(f"before each of the {len(selected)} rounds the model computes {needs.requires} of the pool's rows")
