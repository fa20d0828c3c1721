"""`dry_run=true` of train.py: what a run would train, evaluate and embed, and what that would take."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from near.common.cost import Cost, StageCost
from near.common.files import read_json
from near.common.processes import is_main
from near.common.sweep import of_job
from near.models.hub import download_of
from near.searching.dry_run import missing_embedder, stages_of
from near.searching.settings import SearchSettings
from near.selection.cost import Scored, unscored_stage
from near.selection.needs import Needs
from near.selection.selectors.base import Selector
from near.training.arguments import is_sharded
from near.training.folder import newest_checkpoint
from near.training.inputs import LoadedRows
from near.training.measurement import Measurement, checkpoint_count
from near.training.timing import quiet
from near.training.workload import Workload, log_workload, workload_of

if TYPE_CHECKING:
    from transformers import TrainingArguments

log = logging.getLogger(__name__)


def report_training(
    cfg: DictConfig,
    output_dir: Path,
    rows: LoadedRows,
    selector: Selector,
    name: str,
    args: "TrainingArguments",
    build: Callable,
) -> Cost:
    """Log what a run trains, and what it would take: a table, and dry_run.json in `output_dir`. All processes measure.

    Args:
        name: the selector's, as the run would log it.
        build: makes the trainer: (cfg, job, model, args).
    """
    timed, cache_dir = cfg.dry_run is True, cfg.cache_dir
    eligible = len((rows.queries if rows.needs.trains_on_queries else rows.candidates).eligible())
    with quiet():
        resume = newest_checkpoint(cfg, output_dir)
    first = 0 if resume is None else read_json(resume / "trainer_state.json")["global_step"]
    workload = workload_of(cfg, selector, args, eligible, first)
    log_workload(cfg, rows, selector, name, workload)
    search = SearchSettings.of(cfg, cache_dir)
    cost = Cost(script="train", timed=timed, processes=args.world_size, **of_job())
    downloads = [missing_embedder(search) if rows.needs.embedder or cfg.data.dedup == "near" else None]
    downloads.append(download_of(cfg.model.name_or_path, cfg.model.revision, cache_dir))
    downloads = list(dict.fromkeys(name for name in downloads if name is not None))
    stages: dict[str, StageCost] = {}
    if rows.needs.neighbours and cfg.indices_path is None:
        timed_search = timed and missing_embedder(search) is None
        start = "comparing words" if search.words is not None else "embedding"
        stages |= stages_of(search, rows.candidates, rows.queries, timed_search, start)
    elif rows.needs.vectors:
        log.info("to embed: the pool, whose vectors the selector reads; its time is not estimated")
    elif cfg.data.dedup == "near":
        log.info("to embed: the pool, for data.dedup=near")
    else:
        log.info("to embed: nothing" + ("" if cfg.indices_path is None else f", neighbours are in {cfg.indices_path}"))
    why = _untimed(cfg, args) if timed else None
    if timed and why is None:
        run = Measurement(cfg, output_dir, rows, selector, args, workload, build)
        stages |= run.stages()
        cost = dataclasses.replace(cost, shortlist=run.shortlist, training_key=run.training_key)
    else:
        stages |= _counted(cfg, rows, selector, workload)
    cost = dataclasses.replace(cost, stages=stages, downloads=downloads, not_counted=_not_counted(cfg, rows.needs, why))
    if is_main():
        cost = cost.report(output_dir)
        cost.log(output_dir)
        log.info("nothing was trained or stored; leave out dry_run to start")
    return cost


def _untimed(cfg: DictConfig, args: "TrainingArguments") -> str | None:
    """Why the model's work can't be timed; None if it can."""
    if download_of(cfg.model.name_or_path, cfg.model.revision, cfg.cache_dir) is not None:
        return f"seconds of {cfg.model.name_or_path}, which would be downloaded first"
    if is_sharded(args) or args.deepspeed:
        return "seconds of a model that parallel spreads over processes"
    if cfg.trainer.get("packing"):
        return "seconds of trainer.packing"
    return None


def _not_counted(cfg: DictConfig, needs: Needs, why: str | None) -> list[str]:
    """Parts of the work that are in no stage."""
    parts = [why] if why is not None else []
    if cfg.data.dedup == "near":
        parts.append("data.dedup=near: near duplicates are known only once rows are embedded")
    if cfg.data.get("decontaminate") and cfg.data.decontaminate.cosine is not None:
        parts.append("data.decontaminate.cosine")
    if cfg.evaluation.lm_eval.tasks:
        parts.append("evaluation.lm_eval")
    if cfg.evaluation.answers and cfg.evaluation.backend != "transformers":
        parts.append(f"answers by evaluation.backend={cfg.evaluation.backend}")
    if cfg.evaluation.answers and set(cfg.evaluation.graders or {}) - {"exact"}:
        parts.append("grading")
    if needs.requires and "judge" in cfg.selector:
        parts.append("answers that the selector generates")
    if cfg.get("mixer") and needs.requires:
        parts.append("what the mixer computes beside one pass over the pool")
    return parts


def _counted(cfg: DictConfig, rows: LoadedRows, selector: Selector, workload: Workload) -> dict[str, StageCost]:
    """The stages of training without seconds."""
    stages: dict[str, StageCost] = {}
    if rows.needs.requires and workload.selections:
        queries = len(rows.queries.eligible()) if rows.needs.requires == "gradients" else 0
        scored = Scored.of(cfg, selector, workload.eligible)
        stages["scoring"] = unscored_stage(
            rows.needs, (scored.rows, queries), workload.selections * checkpoint_count(cfg)
        )
    if workload.warm:
        stages["warm-up"] = StageCost(rows=workload.warm * workload.draws, disk=None)
    stages["training"] = StageCost(rows=workload.steps * workload.draws, disk=None)
    evaluated = sum(len(part.eligible()) for part in rows.sets.all())
    evaluated += workload.measured * len(rows.sets.target.eligible())
    if rows.sets.validation is not None:
        evaluated += workload.validated * len(rows.sets.validation.eligible())
    stages["evaluation"] = StageCost(rows=evaluated)
    return stages
