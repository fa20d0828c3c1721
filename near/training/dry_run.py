"""`dry_run=true` of train.py: what would be trained, evaluated and embedded, before anything long starts."""

import math
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from near.searching.dry_run import report
from near.searching.find import SearchSettings
from near.selection.needs import Needs
from near.selection.selectors.base import Selector
from near.training.picking import Batching
from near.training.rounds.schedule import Schedule

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from near.training.inputs import LoadedRows

import logging

log = logging.getLogger(__name__)


def report_training(
    cfg: DictConfig, cache_dir: str, rows: "LoadedRows", selector: Selector, name: str, args: "TrainingArguments"
) -> None:
    """Log what a run of train.py would train and evaluate, and what it would have to embed."""
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
    sets = ", ".join(f"{len(found.eligible())} {found.name} rows" for found in rows.sets.all())
    rounds = (
        ", as every round begins and at the end"
        if "update_step" in cfg.trainer and cfg.evaluation.at_rounds
        else " at the end"
    )
    log.info(f"evaluated{rounds}: {sets}")
    embeds = rows.needs.neighbours and cfg.indices_path is None
    if embeds:
        report(SearchSettings.of(cfg, cache_dir), rows.candidates, rows.queries, cfg.data.dedup, training=True)
    elif cfg.data.dedup == "near":
        log.info("to embed: the pool, for data.dedup=near")
    else:
        log.info("to embed: nothing" + ("" if cfg.indices_path is None else f", neighbours are in {cfg.indices_path}"))
    log.info("nothing was trained or stored; leave out dry_run=true to start")


def _rounds(
    cfg: DictConfig, needs: Needs, selector: Selector, name: str, args: "TrainingArguments", count: int
) -> None:
    """Say how many steps and rows the rounds have, and what the model is asked for before each."""
    schedule, draws = Schedule.of(cfg.trainer), Batching.of(args).draws_per_step
    rounds = schedule.rounds()
    own = [r for r in rounds if not r.warmup]
    warm = f"a warm-up of {cfg.trainer.warmup_step} steps on random rows" if len(rounds) > len(own) else "no warm-up"
    again = f", all {cfg.trainer.cycles} times over" if cfg.trainer.cycles > 1 else ""
    most = min(cfg.trainer.update_step * draws, selector.most(count) or count, count)
    log.info(
        f"dry run: {warm}, then {cfg.trainer.update_times} rounds of {cfg.trainer.update_step} steps on at most {most} "
        f"of {count} rows by selector {name}{again}"
    )
    log.info(f"{schedule.total} steps of {draws} rows: {schedule.total * draws} rows trained, repeated ones counted")
    if needs.requires and own:
        log.info(f"before each of the {len(own)} rounds the model is asked for {needs.requires} of the pool's rows")
