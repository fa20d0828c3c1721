"""Benchmarks by name through lm-eval (evaluation.lm_eval), local task files included; what the base scores is kept."""

import functools
import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from near.common.cached import cached
from near.common.errors import UserError, did_you_mean, one_line
from near.common.extras import install
from near.common.files import cache_folder, digest, read_json, write_json
from near.models.fingerprint import of_model

log = logging.getLogger(__name__)

OPTIONS = ("num_fewshot", "limit", "apply_chat_template")  # what is handed to lm_eval.simple_evaluate as it is


def check_benchmarks(evaluation: DictConfig, sharded: bool = False) -> None:
    """UserError where lm-eval, a task or a task's data is not to be had; nothing is asked for without tasks."""
    if evaluation.lm_eval.tasks:
        if sharded:
            raise UserError("evaluation.lm_eval.tasks: the model is spread over all processes; later: eval.py run=RUN")
        _tasks(json.dumps(OmegaConf.to_container(evaluation.lm_eval)))


@functools.lru_cache(maxsize=2)
def _tasks(options: str):
    """The task manager (reading lm-eval's list of tasks takes seconds) and the tasks by name, their data loaded."""
    options = json.loads(options)
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"evaluation.lm_eval.tasks: lm-eval is not installed; {install('lm-eval')}")
    from lm_eval.tasks import TaskManager

    try:
        manager = TaskManager(include_path=options["include_path"])
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"evaluation.lm_eval.include_path={options['include_path']}: {one_line(error)}") from error
    for name in options["tasks"]:
        if name not in manager.all_tasks:
            raise UserError(f"evaluation.lm_eval.tasks: {name} is no task{did_you_mean(name, manager.all_tasks)}")
    try:
        return manager, manager.load(options["tasks"])["tasks"]
    except Exception as error:  # whatever a task's file or the library that reads its data raises
        raise UserError(
            f"evaluation.lm_eval.tasks={options['tasks']} can't be loaded ({one_line(error)[:200]})"
        ) from error


def benchmarks(model, tokenizer, evaluation: DictConfig, lenient: bool = False) -> dict | None:
    """By task and group, by metric: value, stderr (lm-eval's, None where it has none) and higher_is_better; and n, its
    number of examples. None without tasks.

    `lenient`: a fault is told, and the result None, in the place of an error.
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
            raise UserError(f"evaluation.lm_eval: {one_line(error)[:300]}") from error
        log.warning(f"no benchmarks: {one_line(error)[:300]}; later: python eval.py run=RUN")
        return None
    finally:
        model.train(was_training)


def _scores(model, tokenizer, options: dict, manager) -> dict:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options["batch_size"])
    # its seeds stay its own: the same few-shot examples for every run
    told = lm_eval.simple_evaluate(
        wrapped,
        tasks=list(options["tasks"]),
        task_manager=manager,
        log_samples=False,
        **{name: options[name] for name in OPTIONS},
    )
    found = {}
    for task, values in told["results"].items():
        better = told.get("higher_is_better", {}).get(task, {})
        found[task] = {"n": (told.get("n-samples", {}).get(task) or {}).get("effective")}
        for name, value in values.items():
            metric, _, filtered = name.partition(",")
            if not filtered or metric.endswith("_stderr") or isinstance(value, bool | str):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            found[task][metric if filtered == "none" else f"{metric} ({filtered})"] = {
                "value": value,
                "stderr": error if isinstance(error, float) else None,
                "higher_is_better": better.get(metric),
            }
    return found


def base_benchmarks(
    cfg: DictConfig, model: DictConfig, folder: str, load: Callable[[], tuple[Any, Any]]
) -> dict | None:
    """Those of the untrained model, kept by its files in `folder`, and by the tasks and their data. `load`: makes the
    model and its tokenizer where they are needed."""
    if not cfg.evaluation.lm_eval.tasks:
        return None
    options: Any = OmegaConf.to_container(cfg.evaluation.lm_eval)
    _, tasks = _tasks(json.dumps(options))
    import lm_eval

    content = [
        [name, json.loads(json.dumps(task.dump_config(), default=str)), digest(list(task.eval_docs)), _examples(task)]
        for name, task in sorted(tasks.items())
    ]
    made_of = [lm_eval.__version__, of_model(model, folder), content]
    made_of += [options[name] for name in (*OPTIONS, "tasks")]
    target = cache_folder(cfg.cache_dir, "benchmarks", digest(made_of))
    if target.exists():
        log.info("base model: benchmarks are in the cache")

    def make(new: Path) -> None:
        loaded, tokenizer = load()
        write_json(new / "scores.json", benchmarks(loaded, tokenizer, cfg.evaluation))

    return cached(target, make, lambda folder: read_json(folder / "scores.json"))


def _examples(task) -> str | None:
    """Of the rows that a task's few-shot examples are drawn from; None where it has none."""
    if not (task.has_training_docs() or task.has_validation_docs() or task.config.fewshot_split):
        return None
    return digest(list(task.fewshot_docs() or ()))


def shown(scores: dict | None) -> str:
    """Every task's first metric, for a line."""
    told = [(task, first(values)) for task, values in (scores or {}).items()]
    return "".join(f", {task} {value:.3f}" for task, value in told if value is not None)


def first(values: dict) -> float | None:
    """A task's value of its first metric."""
    return next((v["value"] for k, v in values.items() if k != "n"), None)
