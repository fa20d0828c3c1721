"""The model before training, in every comparison: evaluated once, then read from the cache by all runs.

It is the untrained model; of training that goes on from an adapter (model.adapter), the model with that adapter.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from near.common.cached import cached, existing
from near.common.files import cache_folder, digest, folder_aside, read_json, write_json
from near.common.processes import is_main
from near.common.records import ModelMetrics, SetMetrics
from near.data.rows import Rows
from near.evaluation.benchmarks import base_benchmarks
from near.evaluation.generation import answering, check_backend_start
from near.evaluation.graded_columns import graded_columns, grader_code
from near.evaluation.measure import Sets, measure, measure_all
from near.evaluation.settings import EvalSettings
from near.models.fingerprint import of_model
from near.models.loading import base_folder, load_start, load_tokenizer
from near.models.start import mode_of, start_folder
from near.models.tokens import OPTIONS

log = logging.getLogger(__name__)

SCHEMA_VERSION = 5  # of cached evaluations; raise it when a grader's grades change


def base_metrics(
    settings: EvalSettings, model: DictConfig, sets: Sets, loaded=None, together: bool = False
) -> tuple[ModelMetrics, list[dict]]:
    """Metrics and answers of an untrained model on all sets; each set is measured once, then read from the cache.

    Args:
        model: the configuration's `model`.
        loaded: the model, if it is loaded already.
        together: the job's processes hold parts of the model, so that all of them measure if one does.
    """
    cache_dir = settings.cache_dir
    parts = functools.cache(  # loaded at the first set that is not in the cache
        lambda: (loaded or load_start(model, cache_dir), load_tokenizer(model, cache_dir))
    )
    metrics, answers = measure_all(lambda rows: _one(settings, model, rows, parts, together), sets)
    if not together:
        folder = base_folder(model, cache_dir)
        scores = base_benchmarks(settings.evaluation, model, folder, cache_dir, parts)
        metrics = dataclasses.replace(metrics, lm_eval=scores)
    return metrics, answers


def _one(
    settings: EvalSettings, model: DictConfig, rows: Rows, parts: Callable[[], tuple], together: bool
) -> tuple[SetMetrics, list[dict]]:
    target, cache_dir = _folder(settings, model, rows), settings.cache_dir

    def evaluate() -> tuple[SetMetrics, list[dict]]:
        base, tokenizer = parts()
        folder, trusted = base_folder(model, cache_dir), model.trust_remote_code
        check_backend_start(settings.evaluation, model)
        adapter = str(start_folder(model)) if mode_of(model) == "continue" else None
        with answering(settings, base, tokenizer, folder, adapter, trusted) as answer:
            metrics, answers = measure(base, tokenizer, rows, settings, answer=answer)
        if is_main():
            log.info(f"{_name(model)}: evaluated on {rows.name}, target loss {metrics.target_loss:.4f}")
        return metrics, answers

    def make(new: Path) -> None:
        metrics, answers = evaluate()
        write_json(new / "base.json", {"metrics": metrics.to_json(), "answers": answers})

    if target.exists() and is_main():
        log.info(f"{_name(model)}: evaluation on {rows.name} is in the cache")
    if not together:
        return cached(target, make, _read)
    if (cached_result := cached_metrics(settings, model, rows)) is not None:
        return cached_result
    metrics, answers = evaluate()
    if is_main():
        with folder_aside(target, replace=True) as new:
            write_json(new / "base.json", {"metrics": metrics.to_json(), "answers": answers})
    return metrics, answers


def cached_metrics(settings: EvalSettings, model: DictConfig, rows: Rows) -> tuple[SetMetrics, list[dict]] | None:
    """Metrics and answers of the untrained model on `rows`; None if they are not in the cache."""
    return existing(_folder(settings, model, rows), _read)


def _name(model: DictConfig) -> str:
    return "base model" if mode_of(model) is None else f"base model with model.adapter={model.adapter}"


def _read(target: Path) -> tuple[SetMetrics, list[dict]]:
    base = read_json(target / "base.json")
    return SetMetrics.from_json(base["metrics"], target / "base.json"), base["answers"]


def _folder(settings: EvalSettings, model: DictConfig, rows: Rows) -> Path:
    """The cache folder of an untrained model's evaluation; its key is computed from all that decides the result."""
    data, cache_dir = settings.data, settings.cache_dir
    key_parts = [
        SCHEMA_VERSION,
        of_model(model, base_folder(model, cache_dir)),
        {name: data.get(name) for name in OPTIONS if name != "train_on_prompt"},  # only answers are measured
        rows.fingerprint,
        graded_columns(settings.evaluation, data, rows, cache_dir),
        settings.key_parts,
        grader_code(settings.evaluation),
    ]
    if settings.evaluation.get("unsafe"):
        key_parts.append("unsafe")
    return cache_folder(cache_dir, "evaluations", digest(key_parts))
