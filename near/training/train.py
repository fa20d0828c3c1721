"""train.py: data, selection, model, training, and the evaluation at its end."""

import contextlib
import copy
import dataclasses
import logging
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from near.common.config import agent_sweep
from near.common.cost import Cost
from near.common.errors import UserError, one_line
from near.common.files import read_json
from near.common.locks import locked
from near.common.outputs import claim, removable
from near.common.records import ModelMetrics
from near.common.run_folder import CHECKPOINTS, RunFolder
from near.common.sweep import in_sweep, of_job
from near.data.contamination import write_overlaps
from near.data.loading import is_set
from near.data.rows import Rows
from near.data.weights import weight_column
from near.evaluation.benchmarks import benchmarks
from near.evaluation.eval import summary
from near.evaluation.generation import answering
from near.evaluation.measure import check_evaluation, loss_of, measure, measure_all
from near.evaluation.settings import EvalSettings
from near.models.hub import download_of
from near.models.loading import add_finetuning, base_folder, check_quantization, load_start
from near.models.start import check_here, mode_of
from near.models.start_check import check_start
from near.searching.equal_rows import warn_of_equal
from near.searching.settings import SearchSettings
from near.selection.needs import Needs, needs_of
from near.selection.plan.choice import selection_of
from near.selection.scoring.gradients import watched_layers
from near.selection.selectors.base import Selector
from near.training.arguments import (
    check_keep,
    check_row_weights,
    check_training,
    is_sharded,
    log_precision,
    partitioned,
    training_arguments,
)
from near.training.base_metrics import BaseMetrics
from near.training.best_round import kept_line
from near.training.divergence import FIX
from near.training.folder import clear, keep_start, newest_checkpoint, write_config
from near.training.inputs import Inputs, is_dynamic, load_inputs, load_rows, measures_validation
from near.training.job import job_of, selector_name, weighers_of
from near.training.options import Carried
from near.training.outcome import save, write_outcome
from near.training.picking import Batching, Picker
from near.training.rounds.schedule import Schedule
from near.training.twins import adopt, alone, training_key, twin_of, warm_up_key
from near.training.warm_up import SharedWarmUp, shares_warm_up
from near.training.weighers import check_weighting, with_target

if TYPE_CHECKING:
    from near.training.job import Job

log = logging.getLogger(__name__)


def train(cfg: DictConfig, output_dir: Path) -> float:
    """Train one run into `output_dir`: adapter/ or model/, rounds/, train_metrics.json, metrics.json, answers.jsonl.

    Returns:
        the target loss, also of a run that is done already, or whose twin in the sweep is; NaN for a dry run.

    Raises:
        UserError: for options, rows, or a training that diverged.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    cache_dir = cfg.cache_dir
    wait = timedelta(seconds=cfg.trainer.args.get("ddp_timeout", 1800))
    state = PartialState(cpu=on_cpu(cfg), timeout=wait)
    output_dir = Path(broadcast_object_list([str(output_dir)])[0])
    check_quantization(cfg.model, cfg.finetuning)
    args = training_arguments(cfg, output_dir)
    check_evaluation(cfg, is_sharded(args))
    instantiate(cfg.tracker).check()
    selector = selection_of(cfg)
    needs = needs_of(cfg, selector) if is_dynamic(cfg) else Needs()
    weighters = [instantiate(cfg.trainer.weighter)] if "weighter" in cfg.trainer else []
    needs = with_target(needs, [*weighters, *(one.by for one in weighers_of(selector))], args)
    if cfg.dry_run == "forecast":
        needs = _for_forecast(cfg, needs)
    cfg = _with_backend(_with_dtype(cfg), needs.embedder or cfg.data.dedup == "near")
    _check_together(cfg, args, selector, needs)
    search = SearchSettings.of(cfg, cache_dir)
    with contextlib.ExitStack() as locks:
        if state.is_main_process:  # a killed sweep may have left this job running
            locks.enter_context(locked(RunFolder(output_dir).lock(cache_dir), remove=True))
        with state.main_process_first():
            counted = cfg.dry_run in (True, "count")
            if counted:
                check_here(cfg)
            model = cfg.model
            whole = not counted or download_of(model.name_or_path, model.revision, cache_dir) is None
            check_start(cfg, cache_dir, output_dir, whole)
            rows = load_rows(cfg, cache_dir, selector, needs, output_dir)
        if rows is None and counted:
            if state.is_main_process:
                key = RunFolder(output_dir).training.training_key
                cost = Cost(script="train", timed=cfg.dry_run is True, done=True, training_key=key, **of_job())
                cost.report(output_dir)
            return math.nan
        if rows is None:
            return _earlier_loss(cfg, output_dir, state.is_main_process)
        if counted:
            from near.training.dry_run import report_training

            report_training(cfg, output_dir, rows, selector, selector_name(cfg, selector), args, _trainer)
            return math.nan
        if not needs.trains_on_queries:  # all processes embed together
            rows.candidates = rows.material.distinct(cfg.data, search).candidates
        with state.main_process_first():
            inputs = load_inputs(cfg, cache_dir, selector, rows)
        sizes = _sizes(cfg, selector, inputs, args) if is_dynamic(cfg) else []
        selector.check_queries(rows.queries, sizes)
        if rows.needs.neighbours and cfg.indices_path is None:
            inputs.neighbours = rows.material.neighbours(search, _reach(selector, inputs, sizes))
            sets = rows.sets.all()[rows.sets.seen :]  # the search has warned of the queries already
            if needs.embedder:
                warn_of_equal(rows.candidates, sets, cfg.embedder, cache_dir)
        job = job_of(cfg, cache_dir, output_dir, selector, inputs, args)
        forecasts, shared = cfg.dry_run == "forecast", in_sweep() and state.num_processes == 1
        if shared and not forecasts:
            job.training_key = _key(cfg, job, inputs, args)
            locks.enter_context(alone(cache_dir, job.training_key))
            if twin := twin_of(output_dir, job.training_key):
                return _adopted(cfg, output_dir, twin, job, inputs)
        if shared and shares_warm_up(cfg):
            job.warm_up = _shared_warm_up(cfg, inputs, job, args, *(["forecast"] if forecasts else []))
            locks.callback(job.warm_up.close)
        if forecasts:
            from near.training.forecast import forecast_training

            forecast_training(cfg, output_dir, job, args, _trainer)
            return math.nan
        return _fit(cfg, cache_dir, output_dir, inputs, job, args, state)


def _for_forecast(cfg: DictConfig, needs: Needs) -> Needs:
    """`needs` with gradients of rows and queries; UserError for a run that has no forecast."""
    if not is_dynamic(cfg):
        raise UserError("dry_run=forecast is for rounds of selected rows; use trainer=dynamic_select")
    if needs.trains_on_queries:
        raise UserError("dry_run=forecast compares gradients with the queries', which are trained here; leave it out")
    if is_set(cfg.data, "queries") is False:
        raise UserError("data.queries.path is missing: the target whose gradients are compared; set it to a file")
    if not cfg.trainer.update_times:
        raise UserError("dry_run=forecast: no round follows the warm-up; set trainer.update_times to 1 or more")
    for name in ("precondition", "checkpoints"):
        if cfg.scoring[name] is not None:
            raise UserError(
                f"scoring.{name}={cfg.scoring[name]} and dry_run=forecast exclude each other; leave one out"
            )
    return dataclasses.replace(needs, queries=True, answers=True, query_tokens=True, requires="gradients")


def _check_together(cfg: DictConfig, args, selector: Selector, needs: Needs) -> None:
    """UserError for options that exclude each other, as far as the configuration and the arguments decide."""
    if args.deepspeed and is_sharded(args) and mode_of(cfg.model) == "stack":
        raise UserError(
            "model.adapter_mode=stack merges whole weights, and ZeRO-3 loads them in parts; use parallel=deepspeed_z2 "
            f"or fsdp, or merge first: python merge.py adapter_name_or_path={cfg.model.adapter} export_dir=OUT, then "
            "model.name_or_path=OUT"
        )
    check_training(needs, args, cfg.scoring)
    if weight_column(cfg.data, "candidates") is not None:
        check_row_weights(args)
    check_keep(cfg, args)
    if cfg.trainer.get("packing") and not cfg.trainer.padding_free:
        raise UserError(
            "trainer.packing=true lays rows end to end, which trainer.padding_free=false forbids; use "
            "trainer.padding_free=true"
        )
    if "weighter" in cfg.trainer:
        check_weighting(args, cfg.trainer.whole_step, "trainer=dynamic_weight")
    elif weighers := weighers_of(selector):
        packing = bool(cfg.trainer.get("packing"))
        check_weighting(args, all(one.whole_step for one in weighers), f"plan.{weighers[0].name}", packing)


def _sizes(cfg: DictConfig, selector: Selector, inputs: "Inputs", args) -> list[int]:
    """The most rows that each round may select."""
    draws, limit = Batching.of(args).draws_per_step, selector.most(len(inputs.tokens.eligible))
    rounds = [phase.steps * draws for phase in Schedule.of(cfg.trainer).rounds() if not phase.warmup]
    return [min(size, limit or size) for size in rounds]


def _reach(selector: Selector, inputs: "Inputs", sizes: list[int]) -> int:
    """How many distinct rows of the matrix rounds of `sizes` rows may use, rows without trainable tokens included."""
    reach, trainable = selector.reach(sizes), len(inputs.tokens.eligible)
    return min(reach, trainable) + len(inputs.candidates.eligible()) - trainable


def _earlier_loss(cfg: DictConfig, output_dir: Path, main_process: bool) -> float:
    """The target loss of a run that is done already.

    A W&B agent may start the same options twice, and waits for the metrics of each run that it named.
    """
    from near.training.trackers.log import log_metrics

    files = RunFolder(output_dir)
    if agent_sweep() is not None:
        with instantiate(cfg.tracker).run(cfg, output_dir, main_process) as run:
            log_metrics(run, files.metrics, files.training.steps)
    return files.metrics.target_loss


def _key(cfg: DictConfig, job: "Job", inputs: "Inputs", args) -> str:
    """The training key, equal for this run's twins."""
    picker = _picker(cfg, job, args) if is_dynamic(cfg) else None
    return training_key(cfg, inputs.identity, inputs.needs, picker, inputs.neighbours, args.world_size)


def _shared_warm_up(cfg: DictConfig, inputs: "Inputs", job: "Job", args, *more: str) -> SharedWarmUp:
    """The warm-up that jobs of the sweep share. more: of its key; that of a forecast has no losses of its end."""
    key = warm_up_key(cfg, inputs.identity, _picker(cfg, job, args), args.world_size)
    return SharedWarmUp(job.output_dir, cfg.cache_dir, "-".join((key, *more)))


def _picker(cfg: DictConfig, job: "Job", args) -> Picker:
    """A new picker, with a new selector, because selectors may have state from round to round; the rounds that it
    selects ahead go into job.planned."""
    fresh = dataclasses.replace(job, selector=selection_of(cfg))
    return Picker(fresh, Schedule.of(cfg.trainer), Batching.of(args, cfg.trainer.group_by_length))


def _adopted(cfg: DictConfig, output_dir: Path, twin: Path, job: "Job", inputs: "Inputs") -> float:
    """Take over the result of `twin`; returns the target loss."""
    from near.training.trackers.log import log_earlier, log_files, log_metrics

    clear(output_dir)
    claim(output_dir, "train")
    keep_start(cfg.model, output_dir)
    write_config(cfg, output_dir, True)
    with instantiate(cfg.tracker).run(cfg, output_dir, True) as run:
        contamination = write_overlaps(output_dir, inputs.candidates)
        metrics = adopt(twin, output_dir, job.selector_name, inputs.width(cfg), inputs.identity, contamination)
        files = RunFolder(output_dir)
        training = files.training
        run.logged_until = -1
        log_earlier(run, output_dir, files.rounds, training.history, job.pool)
        log_metrics(run, metrics, training.steps)
        log_files(run, output_dir, inputs.neighbours)
    return metrics.target_loss


def _fit(cfg: DictConfig, cache_dir: str, output_dir: Path, inputs: "Inputs", job: "Job", args, state) -> float:
    """Load the model, train it, save and evaluate it; returns the target loss."""
    from accelerate.utils import broadcast_object_list
    from transformers import set_seed

    from near.training.trackers.base import LogCallback

    needs = inputs.needs
    resume = newest_checkpoint(cfg, output_dir)
    partitioned(args)
    model = load_start(cfg.model, cache_dir, "cpu" if is_sharded(args) else None, cfg.finetuning)
    settings = EvalSettings.of(cfg, cache_dir)
    renewed = "_target_" in cfg.finetuning and mode_of(cfg.model) != "continue"
    base = BaseMetrics(settings, cfg.model, renewed, inputs.sets)
    if not is_sharded(args):
        with state.main_process_first():
            base.measure(model)
    log_precision(args, model.dtype)
    set_seed(cfg.seed)  # the adapter's first weights
    model = add_finetuning(model, cfg.finetuning)
    if needs.requires == "gradients":
        watched_layers(model, cfg.scoring.modules)  # raises before training if gradients can't be computed
    if mode_of(cfg.model) == "continue" and resume is None and state.is_main_process:
        log.info(
            f"model.adapter={cfg.model.adapter} is trained further with a new optimizer and learning rate schedule; "
            "resume=CHECKPOINT goes on with those of a run"
        )
    if cfg.evaluation.at_rounds:
        job.target_loss = _target_loss(settings, inputs, base)
    job.validation = inputs.sets.validation
    if job.validation is not None and measures_validation(cfg):
        job.validation_loss = loss_on(settings, inputs.tokenizer, job.validation)
    resumed_at = None if resume is None else read_json(resume / "trainer_state.json")["global_step"]
    with instantiate(cfg.tracker).run(cfg, output_dir, state.is_main_process, resumed_at) as run:
        job.tracked = run
        job.callbacks.append(LogCallback(run))
        trainer = _trainer(cfg, job, model, args)
        if needs.requires == "gradients":
            job.scorer.probe(model)
        if is_sharded(args):  # whose weights are usable only once training starts
            trainer.add_callback(base)
        resume = _prepared(cfg, output_dir, trainer, resume, state.is_main_process)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        kind = "adapter" if "_target_" in cfg.finetuning else "model"
        save(trainer, inputs.tokenizer, output_dir / kind, cfg.model)
        loss = _evaluated(cfg, settings, output_dir, trainer, inputs, base, state.is_main_process)
    state.wait_for_everyone()
    loss = broadcast_object_list([loss])[0]
    if not math.isfinite(loss):
        raise UserError(
            f"the target loss after training is {loss}, not a finite number; its files stay in {output_dir}; {FIX}"
        )
    return loss


def _prepared(cfg: DictConfig, output_dir: Path, trainer, resume: Path | None, main_process: bool) -> Path | None:
    """Prepare `output_dir`, and restore the checkpoint `resume`, or the warm-up that jobs of the sweep share.

    Returns:
        the checkpoint that was restored; None for a training from its start.
    """
    from near.training.trackers.log import log_earlier

    if resume is None and main_process:  # after everything that may raise was built
        clear(output_dir)
    if main_process:
        claim(output_dir, "train")
        removable(output_dir, "adapter", "model")  # the new weights replace them
    if resume is None and trainer.job.warm_up is not None:
        own = {"identity": trainer.run_identity()}
        if resume := trainer.job.warm_up.adopt(output_dir / CHECKPOINTS, own, trainer.selector_state()):
            trainer.job.tracked.logged_until = -1
    if resume is not None:
        trainer.restore(resume)
        if main_process:
            history = read_json(resume / "trainer_state.json")["log_history"]
            log_earlier(trainer.job.tracked, output_dir, trainer.record.rounds, history, trainer.job.pool)
    if main_process:
        keep_start(cfg.model, output_dir)
    write_config(cfg, output_dir, main_process)
    return resume


def _evaluated(
    cfg: DictConfig, settings: EvalSettings, output_dir: Path, trainer, inputs: Inputs, base: BaseMetrics, main_process
) -> float:
    """Evaluate the trained model, which is saved in `output_dir`, and write the run's outcome.

    Returns:
        the target loss; NaN on processes that do not evaluate.
    """
    from near.training.trackers.log import log_files, log_metrics

    job, sharded = trainer.job, is_sharded(trainer.args)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    loss = math.nan
    if sharded or main_process:  # sharded: one answer takes all processes
        metrics, answers = _measured(cfg, settings, output_dir, trained, inputs)
        if not sharded:
            scores = benchmarks(trained, inputs.tokenizer, cfg.evaluation, lenient=True)
            metrics = dataclasses.replace(metrics, lm_eval=scores)
        loss = metrics.target_loss
    if main_process:
        log_metrics(job.tracked, metrics, trainer.state.global_step)
        log_files(job.tracked, output_dir, inputs.neighbours)
        write_outcome(cfg, output_dir, trainer, inputs, metrics, answers, base)
        if base.metrics is not None:
            log.info(f"{'base' if mode_of(cfg.model) is None else 'start'}: {summary(base.metrics)}")
        if (record := trainer.validation_record()) is not None:
            log.info(f"{job.selector_name}: {kept_line(record, cfg.trainer.get('keep', 'last'))}")
        log.info(f"{job.selector_name}: {summary(metrics)}; wrote {output_dir}")
    return loss


def _measured(
    cfg: DictConfig, settings: EvalSettings, output_dir: Path, model, inputs: "Inputs"
) -> tuple[ModelMetrics, list[dict]]:
    """Metrics and answers of the trained model, which is saved in `output_dir`."""
    folder, adapter = base_folder(cfg.model, settings.cache_dir), str(output_dir / "adapter")
    if "_target_" not in cfg.finetuning:
        folder, adapter = str(output_dir / "model"), None
    with answering(settings, model, inputs.tokenizer, folder, adapter, cfg.model.trust_remote_code) as answer:
        return measure_all(
            lambda rows: measure(model, inputs.tokenizer, rows, settings, lenient=True, answer=answer), inputs.sets
        )


def on_cpu(cfg: DictConfig) -> bool:
    """Whether training runs without an accelerator; accelerate uses gloo only if it is set."""
    import torch

    return bool(cfg.trainer.args.get("use_cpu")) or not torch.accelerator.is_available()


def _with_dtype(cfg: DictConfig) -> DictConfig:
    """`cfg` with `model.dtype=auto` resolved for full fine-tuning: trained weights stay in float32."""
    if "_target_" in cfg.finetuning or cfg.model.dtype != "auto":
        return cfg
    return OmegaConf.merge(cfg, {"model": {"dtype": "float32"}})


def _with_backend(cfg: DictConfig, embeds: bool) -> DictConfig:
    """`cfg` with `embedder.backend=auto` resolved for this machine. embeds: log the choice, because the run embeds."""
    if cfg.embedder.get("backend") != "auto":
        return cfg
    from near.embedding.embedders.backend import automatic_backend, log_automatic_backend

    if embeds:
        log_automatic_backend()
    return OmegaConf.merge(cfg, {"embedder": {"backend": automatic_backend()[0]}})


def _trainer(cfg: DictConfig, job: "Job", model, args):
    """The trainer that `cfg.trainer` names. Raises UserError if transformers refuses its arguments."""
    try:
        cfg = copy.deepcopy(cfg)
        with open_dict(cfg):
            for name in Carried.__annotations__:  # the job carries them
                cfg.trainer.pop(name, None)
        return instantiate(cfg.trainer)(model=model, job=job, args=args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(f"trainer.args are refused: {one_line(error)[:200]}") from error


def loss_on(settings: EvalSettings, tokenizer, rows: Rows) -> Callable:
    """A function of trainer and optimizer step: the loss on `rows`, or None if another process computes it."""

    def loss(trainer, step: int) -> float | None:
        if not is_sharded(trainer.args) and not trainer.args.should_save:
            return None
        return loss_of(trainer.accelerator.unwrap_model(trainer.model), tokenizer, rows, settings)

    return loss


def _target_loss(settings: EvalSettings, inputs: Inputs, base: BaseMetrics) -> Callable:
    """The same for the target, whose loss before training is in the cache."""
    measured = loss_on(settings, inputs.tokenizer, inputs.sets.target)

    def loss(trainer, step: int) -> float | None:
        if step == 0 and base.metrics is not None:
            return base.metrics.target_loss
        return measured(trainer, step)

    return loss
