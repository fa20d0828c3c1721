"""What eval.py does, and the files that an evaluation writes."""

import copy
import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from near.common.config import public, raw_words
from near.common.errors import UserError, as_user_error
from near.common.files import provenance, write_jsonl
from near.common.outputs import ANSWERS, claim, remove
from near.common.records import EvalMetrics, ModelMetrics
from near.common.run_folder import METRICS, START, TRAINING, RunFolder
from near.common.text import plural
from near.evaluation.base_model import base_metrics
from near.evaluation.benchmarks import benchmarks, shown
from near.evaluation.generation import answering
from near.evaluation.graders.base import no_answers
from near.evaluation.measure import check_evaluation, evaluation_sets, measure, measure_all
from near.evaluation.settings import EvalSettings
from near.models.loading import base_folder, load_base, load_tokenizer, with_adapter

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, output_dir: Path, check: Callable[[DictConfig], None]) -> None:
    """What eval.py does: write metrics.json and answers.jsonl of a model, a model with an adapter, or a run.

    Args:
        cfg: the configuration of eval.py.
        check: called with the configuration once a run's has been merged into it; raises UserError.
    """
    adapter, base_model = cfg.adapter_name_or_path, cfg.model
    described = {"selector": None, "seed": None, "start": cfg.model.get("adapter")}
    if cfg.run is not None:
        config, adapter, described = _run_parts(Path(cfg.run), cfg.allow_targets)
        cfg = with_run(cfg, config)
        check(cfg)
        described["start"] = cfg.model.get("adapter")
        if described["start"] is not None and (Path(cfg.run) / START).is_dir():
            cfg = OmegaConf.merge(cfg, {"model": {"adapter": str(Path(cfg.run) / START)}})
        base_model = cfg.model
        if adapter is None:
            cfg = OmegaConf.merge(cfg, {"model": {"name_or_path": str(Path(cfg.run) / "model"), "adapter": None}})
    elif not cfg.overwrite and (output_dir / TRAINING).exists():
        raise UserError(f"{output_dir} is a run of train.py; evaluate it with run={output_dir}")
    check_evaluation(cfg)
    cache_dir = cfg.cache_dir
    settings, sets = EvalSettings.of(cfg, cache_dir), evaluation_sets(cfg.data, cache_dir)
    base_answers = None
    if adapter is None:
        metrics, answers = base_metrics(settings, cfg.model, sets)
    else:
        _check_adapter(adapter)
        tokenizer = load_tokenizer(cfg.model, cache_dir)
        model = with_adapter(load_base(cfg.model, cache_dir), adapter)
        folder, trusted = base_folder(cfg.model, cache_dir), cfg.model.trust_remote_code
        with answering(settings, model, tokenizer, folder, adapter, trusted) as answer:
            metrics, answers = measure_all(lambda rows: measure(model, tokenizer, rows, settings, answer=answer), sets)
        metrics = dataclasses.replace(metrics, lm_eval=benchmarks(model, tokenizer, cfg.evaluation))
    described |= {
        "model": str(public(base_model, decisive=True)["name_or_path"]),
        "adapter": adapter,
        "selection_saw_them": sets.seen,
    }
    if adapter is not None or cfg.run is not None:
        described["base"], base_answers = base_metrics(settings, base_model, sets)
    claim(output_dir, "eval")
    write_metrics(output_dir, EvalMetrics.of(metrics, **described), answers, base_answers, cfg)
    log.info(f"{summary(metrics)}; wrote {output_dir}")


def _run_parts(folder: Path, allow_targets: object) -> tuple[DictConfig, str | None, dict]:
    """A run's configuration, its adapter (None: every weight was trained), and its entries for metrics.json."""
    files = RunFolder(folder)
    if not files.is_trained:
        raise UserError(f"run={folder} has no train_metrics.json; give the output_dir of a finished train.py")
    if not files.has_config:
        raise UserError(f"run={folder} has no config.yaml; give the output_dir of a finished train.py")
    trained, config = files.training, files.config(allow_targets, retyped=True)
    with as_user_error(OmegaConfBaseException, f"run={folder}: its config.yaml is damaged", "name another run"):
        described = {
            "selector": trained.selector,
            "seed": config.seed,
            "max_K": config.max_K if trained.max_K is None else trained.max_K,
            "run": str(folder),
        }
    if (weights := files.weights()) is None:
        raise UserError(f"run={folder} has neither adapter/ nor model/; train it again")
    return config, str(weights[1]) if weights[0] == "adapter" else None, described


def with_run(cfg: DictConfig, run: DictConfig) -> DictConfig:
    """`cfg` with the run's data, model and evaluation settings, except those set by the command."""
    typed = OverridesParser.create().parse_overrides(raw_words(HydraConfig.get().overrides.task))
    groups = {override.key_or_group for override in typed}
    cfg = copy.deepcopy(cfg)
    for part in ("data", "model", "evaluation"):
        if part not in groups:
            if not isinstance(run.get(part), DictConfig):
                raise UserError(f"run={cfg.run}: its config.yaml is damaged (no group {part}); name another run")
            cfg[part] = run[part]
            if part == "evaluation":  # a run's configuration must not turn the sandbox off
                OmegaConf.update(cfg, "evaluation.unsafe", False, force_add=True)
            for override in typed:
                if override.key_or_group.startswith(f"{part}."):
                    OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=True)
    return cfg


def _check_adapter(path: str) -> None:
    if not (Path(path) / "adapter_config.json").is_file():
        raise UserError(f"adapter_name_or_path={path} has no adapter_config.json; name a run's adapter folder")


def write_metrics(
    folder: Path, metrics: EvalMetrics, answers: list[dict], base_answers: list[dict] | None, cfg: DictConfig
) -> None:
    """Write an evaluation's files; metrics.json last, so that where it exists the others are complete.

    Args:
        answers: for answers.jsonl, and for dataflow.jsonl in the format of DataFlow's evaluation.
        base_answers: the untrained model's, for base_answers.jsonl; None: not written.
    """
    remove(folder, *ANSWERS[1:])  # left by an earlier evaluation, and not written by this one
    write_jsonl(folder / "answers.jsonl", answers)
    if base_answers is not None:
        write_jsonl(folder / "base_answers.jsonl", base_answers)
    generated = [
        {"question": a["question"], "reference": a["reference"], "model_generated_answer": a["answer"]}
        for a in answers
        if "answer" in a
    ]
    if generated:
        write_jsonl(folder / "dataflow.jsonl", generated)
    dataclasses.replace(metrics, **provenance(), evaluation=public(cfg.evaluation)).write(folder / METRICS)


def summary(metrics: ModelMetrics) -> str:
    """One line for the log: target loss, scores and benchmarks."""
    right = "" if metrics.answers_right is None else f", answers right {metrics.answers_right}/{metrics.rows}"
    value = metrics.target_loss
    shown_loss = "not a finite number" if value is None or not math.isfinite(value) else f"{value:.4f}"
    loss = f"target loss {shown_loss} on {plural(metrics.rows, f'{metrics.evaluated_on} row')}"
    right += "".join(
        f", {name} {score.mean:.3f}" + no_answers(score.no_answer, score.graded)
        for name, score in metrics.scores.items()
        if name != "exact" and score.mean is not None
    )
    return loss + right + shown(metrics.lm_eval)
