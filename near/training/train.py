"""What train.py does: data, selection, model, training, and the evaluation at its end."""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from near.common.config import agent_sweep
from near.common.errors import UserError, one_line
from near.common.files import read_json
from near.common.locks import locked
from near.common.outputs import claim, removable
from near.common.run_folder import RunFolder
from near.common.sweep import in_sweep
from near.evaluation.benchmarks import benchmarks
from near.evaluation.eval import summary
from near.evaluation.generation import answering
from near.evaluation.measure import check_evaluation, loss_of, measure, measure_all
from near.evaluation.settings import EvalSettings
from near.models.loading import add_finetuning, base_folder, check_quantization, load_base
from near.searching.equal_rows import warn_of_equal
from near.searching.find import SearchSettings
from near.selection.needs import Needs, needs_of
from near.selection.scoring.gradients import watched_layers
from near.selection.selectors.base import Selector, selector_of
from near.training.arguments import check_training, is_sharded, log_precision, partitioned, training_arguments
from near.training.base_metrics import BaseMetrics
from near.training.divergence import FIX
from near.training.folder import clear, newest_checkpoint, write_config
from near.training.inputs import Inputs, is_dynamic, load_inputs, load_rows
from near.training.job import _job, _selector_name
from near.training.outcome import save, write_outcome
from near.training.picking import Batching, Picker
from near.training.rounds.schedule import Schedule
from near.training.twins import adopt, alone, training_key, twin_of

if TYPE_CHECKING:
    from near.training.job import Job
import logging

log = logging.getLogger(__name__)


def train(cfg: DictConfig, output_dir: Path) -> float:
    """Train one run into `output_dir`: adapter/ or model/, rounds/, train_metrics.json, metrics.json, answers.jsonl.

    Returns the target loss, also of a run that is done already, or whose twin in the sweep is.
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
    selector = selector_of(cfg.selector)
    needs = needs_of(cfg, selector) if is_dynamic(cfg) else Needs()
    cfg = _with_backend(_with_dtype(cfg), needs.neighbours or cfg.data.dedup == "near")
    check_training(needs, args, cfg.scoring)
    search = SearchSettings.of(cfg, cache_dir)
    if "weighter" in cfg.trainer:
        from near.training.weighting import check_weighting

        check_weighting(args, cfg.trainer.whole_step)
    with contextlib.ExitStack() as held:
        if state.is_main_process:  # a sweep that was killed may have left this job running
            held.enter_context(locked(RunFolder(output_dir).lock(cache_dir), remove=True))
        with state.main_process_first():
            rows = load_rows(cfg, cache_dir, selector, needs, output_dir)
        if rows is None:
            return _done_before(cfg, output_dir, state.is_main_process)
        if cfg.dry_run:
            if state.is_main_process:
                from near.training.dry_run import report_training

                report_training(cfg, cache_dir, rows, selector, _selector_name(cfg, selector), args)
            return math.nan
        if not needs.trains_on_queries:  # what embeds is done by all processes together
            rows.candidates = rows.material.distinct(cfg.data, search).candidates
        with state.main_process_first():
            inputs = load_inputs(cfg, cache_dir, selector, rows)
        if rows.needs.neighbours and cfg.indices_path is None:
            inputs.neighbours = rows.material.neighbours(search, _reach(cfg, selector, inputs, args))
            sets = rows.sets.all()[rows.sets.seen :]  # the search warns of queries
            warn_of_equal(rows.candidates, sets, cfg.embedder, cache_dir)
        job = _job(cfg, cache_dir, output_dir, selector, inputs, args)
        if in_sweep() and state.num_processes == 1:
            job.training_key = _key(cfg, job, inputs, args)
            held.enter_context(alone(cache_dir, job.training_key))
            if twin := twin_of(output_dir, job.training_key):
                return _adopted(cfg, output_dir, twin, job, inputs)
        return _fit(cfg, cache_dir, output_dir, inputs, job, args, state)


def _reach(cfg: DictConfig, selector: Selector, inputs: "Inputs", args) -> int:
    """Distinct rows of the matrix that the rounds may take, of which some may have no tokens to train on."""
    draws, trainable = Batching.of(args).draws_per_step, len(inputs.tokens.eligible)
    rounds = [stretch.steps * draws for stretch in Schedule.of(cfg.trainer).rounds() if not stretch.warmup]
    reach = selector.reach([min(size, selector.most(trainable) or size) for size in rounds])
    return min(reach, trainable) + len(inputs.candidates.eligible()) - trainable


def _done_before(cfg: DictConfig, output_dir: Path, main_process: bool) -> float:
    """The target loss of a run that is done already. A W&B agent may ask for the same options twice, and waits for
    what the run that it named comes to."""
    from near.training.trackers.log import log_metrics

    files = RunFolder(output_dir)
    metrics = files.metrics
    if agent_sweep() is not None:
        with instantiate(cfg.tracker).run(cfg, output_dir, main_process) as run:
            log_metrics(run, metrics, files.training["steps"])
    return metrics["target_loss"]


def _key(cfg: DictConfig, job: "Job", inputs: "Inputs", args) -> str:
    """What tells this run's twins."""
    picker = None
    if is_dynamic(cfg):
        schedule = Schedule.of(cfg.trainer)
        # a selector of its own, as one may carry state from round to round; what it picks goes into job.planned
        fresh = dataclasses.replace(job, selector=selector_of(cfg.selector))
        picker = Picker(fresh, schedule, Batching.of(args, cfg.trainer.group_by_length))
    return training_key(cfg, inputs.identity, inputs.needs, picker, inputs.neighbours, args.world_size)


def _adopted(cfg: DictConfig, output_dir: Path, twin: Path, job: "Job", inputs: "Inputs") -> float:
    from near.training.trackers.log import log_earlier, log_files, log_metrics

    clear(output_dir)
    claim(output_dir, "train")
    write_config(cfg, output_dir, True)
    told = {"selector": job.selector_name, "max_K": inputs.width(cfg), "identity": inputs.identity}
    with instantiate(cfg.tracker).run(cfg, output_dir, True) as run:
        metrics = adopt(twin, output_dir, told)
        files = RunFolder(output_dir)
        training = files.training
        run.logged_until = -1
        log_earlier(run, output_dir, files.rounds, training["history"], job.pool)
        log_metrics(run, metrics, training["steps"])
        log_files(run, output_dir, inputs.neighbours)
    return metrics["target_loss"]


def _fit(cfg: DictConfig, cache_dir: str, output_dir: Path, inputs: "Inputs", job: "Job", args, state) -> float:
    """Load the model, train it, save and evaluate it; the target loss."""
    from accelerate.utils import broadcast_object_list
    from transformers import set_seed

    from near.training.trackers.base import LogCallback
    from near.training.trackers.log import log_earlier, log_files, log_metrics

    needs = inputs.needs
    resume = newest_checkpoint(cfg, output_dir)
    partitioned(args)
    model = load_base(cfg.model, cache_dir, "cpu" if is_sharded(args) else None)
    settings = EvalSettings.of(cfg, cache_dir)
    base = BaseMetrics(settings, cfg.model, "_target_" in cfg.finetuning, inputs.sets)
    if not is_sharded(args):
        with state.main_process_first():
            base.measure(model)
    log_precision(args, model.dtype)
    set_seed(cfg.seed)  # the adapter's first weights
    model = add_finetuning(model, cfg.finetuning)
    if needs.requires == "gradients":
        watched_layers(model, cfg.scoring.modules)  # what can't be taken is refused before anything is trained
    if cfg.evaluation.at_rounds:
        job.target_loss = _target_loss(settings, inputs, base)
    before = {} if resume is None else read_json(resume / "trainer_state.json")
    resumed_at = before.get("global_step")
    with instantiate(cfg.tracker).run(cfg, output_dir, state.is_main_process, resumed_at) as run:
        job.tracked = run
        job.callbacks.append(LogCallback(run))
        trainer = _trainer(cfg, job, model, args)
        if needs.requires == "gradients":
            job.scorer.probe(model)
        if is_sharded(args):  # its weights can be computed with from the beginning of training on
            trainer.add_callback(base)
        if resume is not None:
            trainer.restore(resume)
            if state.is_main_process:
                log_earlier(run, output_dir, trainer.record.rounds, before["log_history"], job.pool)
        elif state.is_main_process:  # nothing is removed before all that can be refused was built
            clear(output_dir)
        if state.is_main_process:
            claim(output_dir, "train")
            removable(output_dir, "adapter", "model")  # what is trained takes their place
        write_config(cfg, output_dir, state.is_main_process)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        kind = "adapter" if "_target_" in cfg.finetuning else "model"
        save(trainer, inputs.tokenizer, output_dir / kind, cfg.model)
        metrics = {"target_loss": math.nan}
        if is_sharded(args) or state.is_main_process:  # sharded: it takes all processes to compute one answer
            metrics, answers = _measured(cfg, settings, output_dir, trained, inputs)
            if not is_sharded(args):
                metrics["lm_eval"] = benchmarks(trained, inputs.tokenizer, cfg.evaluation, lenient=True)
        if state.is_main_process:
            log_metrics(run, metrics, trainer.state.global_step)
            log_files(run, output_dir, inputs.neighbours)
            write_outcome(cfg, output_dir, trainer, inputs, metrics, answers, base)
            if base.metrics is not None:
                log.info(f"base: {summary(base.metrics)}")
            log.info(f"{job.selector_name}: {summary(metrics)}; wrote {output_dir}")
    state.wait_for_everyone()
    loss = broadcast_object_list([metrics["target_loss"]])[0]
    if not math.isfinite(loss):
        raise UserError(f"the target loss after training is {loss}, not a finite number; {output_dir} is kept; {FIX}")
    return loss


def _measured(
    cfg: DictConfig, settings: EvalSettings, output_dir: Path, model, inputs: "Inputs"
) -> tuple[dict, list[dict]]:
    """Metrics and answers of the model that was trained, and saved in `output_dir`."""
    folder, adapter = base_folder(cfg.model, settings.cache_dir), str(output_dir / "adapter")
    if "_target_" not in cfg.finetuning:
        folder, adapter = str(output_dir / "model"), None
    with answering(settings, model, inputs.tokenizer, folder, adapter, cfg.model.trust_remote_code) as answer:
        return measure_all(
            lambda rows: measure(model, inputs.tokenizer, rows, settings, lenient=True, answer=answer), inputs.sets
        )


def on_cpu(cfg: DictConfig) -> bool:
    """Whether training runs without an accelerator; accelerate joins processes through gloo only if it is told so."""
    import torch

    return bool(cfg.trainer.args.get("use_cpu")) or not torch.accelerator.is_available()


def _with_dtype(cfg: DictConfig) -> DictConfig:
    """`cfg` with `model.dtype=auto` decided for full fine-tuning: weights that are trained stay in float32."""
    if "_target_" in cfg.finetuning or cfg.model.dtype != "auto":
        return cfg
    return OmegaConf.merge(cfg, {"model": {"dtype": "float32"}})


def _with_backend(cfg: DictConfig, embeds: bool) -> DictConfig:
    """`cfg` with `embedder.backend=auto` decided: what it means differs between machines. Said where the run embeds."""
    if cfg.embedder.get("backend") != "auto":
        return cfg
    from near.embedding.embedders.backend import automatic_backend, log_automatic_backend

    if embeds:
        log_automatic_backend()
    return OmegaConf.merge(cfg, {"embedder": {"backend": automatic_backend()[0]}})


def _trainer(cfg: DictConfig, job: "Job", model, args):
    try:
        cfg = copy.deepcopy(cfg)
        with open_dict(cfg):
            for name in ("loraplus", "nonfinite_steps"):  # the job carries them: other trainer classes need not
                cfg.trainer.pop(name, None)
        return instantiate(cfg.trainer)(model=model, job=job, args=args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError(f"trainer.args are refused: {one_line(error)[:200]}") from error


def _target_loss(settings: EvalSettings, inputs: Inputs, base: BaseMetrics) -> Callable:
    """The target loss of a trainer's model at an optimizer step; None where another process computes it."""

    def loss(trainer, step: int) -> float | None:
        if step == 0 and base.metrics is not None:
            return base.metrics["target_loss"]
        if not is_sharded(trainer.args) and not trainer.args.should_save:
            return None
        return loss_of(trainer.accelerator.unwrap_model(trainer.model), inputs.tokenizer, inputs.sets.target, settings)

    return loss
