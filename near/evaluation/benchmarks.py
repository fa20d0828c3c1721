"""Benchmarks of lm-eval and of local task files (evaluation.lm_eval); the base model's scores are cached."""

import functools
import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from near.common.cached import cached
from near.common.errors import UserError, as_user_error, did_you_mean, one_line
from near.common.extras import install
from near.common.files import cache_folder, digest, read_json, write_json
from near.models.fingerprint import of_model

log = logging.getLogger(__name__)

OPTIONS = ("num_fewshot", "limit", "apply_chat_template")  # passed to lm_eval.simple_evaluate


def check_benchmarks(evaluation: DictConfig, sharded: bool = False) -> None:
    """UserError if lm-eval, a task or its data is not available. Without tasks nothing is checked."""
    if evaluation.lm_eval.tasks:
        if sharded:
            raise UserError("evaluation.lm_eval.tasks: the model is spread over all processes; later: eval.py run=RUN")
        _tasks(json.dumps(OmegaConf.to_container(evaluation.lm_eval)))


@functools.lru_cache(maxsize=2)
def _tasks(options: str):
    """The task manager (cached: reading lm-eval's tasks takes seconds), and the tasks by name with their data."""
    options = json.loads(options)
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"evaluation.lm_eval.tasks: lm-eval is not installed; {install('lm-eval')}")
    from lm_eval.tasks import TaskManager

    what = f"evaluation.lm_eval.include_path={options['include_path']} can't be read"
    with as_user_error((OSError, ValueError, TypeError), what, "name a folder of task files"):
        manager = TaskManager(include_path=options["include_path"])
    for name in options["tasks"]:
        if name not in manager.all_tasks:
            raise UserError(f"evaluation.lm_eval.tasks: {name} is no task{did_you_mean(name, manager.all_tasks)}")
    what = f"evaluation.lm_eval.tasks={options['tasks']} can't be loaded"
    with as_user_error(Exception, what, "name other tasks"):  # task files and libraries for their data raise anything
        return manager, manager.load(options["tasks"])["tasks"]


def benchmarks(model, tokenizer, evaluation: DictConfig, lenient: bool = False) -> dict | None:
    """Scores by task or group and metric: value, stderr (lm-eval's, or None) and higher_is_better; and `n` examples.

    Args:
        evaluation: the configuration's `evaluation`.
        lenient: log an error and return None instead of raising.

    Returns:
        None without tasks.
    """
    if not evaluation.lm_eval.tasks:
        return None
    options = OmegaConf.to_container(evaluation.lm_eval)
    manager, _ = _tasks(json.dumps(options))
    was_training = model.training
    try:
        return _scores(model, tokenizer, options, manager)
    except Exception as error:
        if not lenient:
            raise UserError(f"evaluation.lm_eval failed ({one_line(error)[:300]}); name other tasks") from error
        log.warning(f"no benchmarks: {one_line(error)[:300]}; later: python eval.py run=RUN")
        return None
    finally:
        model.train(was_training)


def _scores(model, tokenizer, options: dict, manager) -> dict:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options["batch_size"])
    # lm-eval's default seeds: the same few-shot examples for every run
    results = lm_eval.simple_evaluate(
        wrapped,
        tasks=list(options["tasks"]),
        task_manager=manager,
        log_samples=False,
        **{name: options[name] for name in OPTIONS},
    )
    scores = {}
    for task, values in results["results"].items():
        better = results.get("higher_is_better", {}).get(task, {})
        scores[task] = {"n": (results.get("n-samples", {}).get(task) or {}).get("effective")}
        for name, value in values.items():
            metric, _, filtered = name.partition(",")
            if not filtered or metric.endswith("_stderr") or isinstance(value, bool | str):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            scores[task][metric if filtered == "none" else f"{metric} ({filtered})"] = {
                "value": value,
                "stderr": error if isinstance(error, float) else None,
                "higher_is_better": better.get(metric),
            }
    return scores


def base_benchmarks(
    evaluation: DictConfig, model: DictConfig, folder: str, cache_dir: str, load: Callable[[], tuple[Any, Any]]
) -> dict | None:
    """Scores of the untrained model, cached under its files, the tasks and their data; None without tasks.

    Args:
        folder: the model's files.
        load: loads the model and its tokenizer; called only if the scores are not in the cache.
    """
    if not evaluation.lm_eval.tasks:
        return None
    options: Any = OmegaConf.to_container(evaluation.lm_eval)
    _, tasks = _tasks(json.dumps(options))
    import lm_eval

    content = [
        [name, json.loads(json.dumps(task.dump_config(), default=str)), digest(list(task.eval_docs)), _examples(task)]
        for name, task in sorted(tasks.items())
    ]
    key_parts = [lm_eval.__version__, of_model(model, folder), content]
    key_parts += [options[name] for name in (*OPTIONS, "tasks")]
    target = cache_folder(cache_dir, "benchmarks", digest(key_parts))
    if target.exists():
        log.info("base model: benchmarks are in the cache")

    def make(new: Path) -> None:
        loaded, tokenizer = load()
        write_json(new / "scores.json", benchmarks(loaded, tokenizer, evaluation))

    return cached(target, make, lambda folder: read_json(folder / "scores.json"))


def _examples(task) -> str | None:
    """Digest of the rows that a task draws few-shot examples from; None if there are none."""
    if not (task.has_training_docs() or task.has_validation_docs() or task.config.fewshot_split):
        return None
    return digest(list(task.fewshot_docs() or ()))


def shown(scores: dict | None) -> str:
    """Each task's first metric, as the end of a line."""
    firsts = [(task, first(values)) for task, values in (scores or {}).items()]
    return "".join(f", {task} {value:.3f}" for task, value in firsts if value is not None)


def first(values: dict) -> float | None:
    """The value of a task's first metric."""
    return next((v["value"] for k, v in values.items() if k != "n"), None)
