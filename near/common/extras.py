"""The extras of the package (pyproject.toml): their modules, and the error if one is not installed."""

import importlib.util
from collections.abc import Iterable

from near.common.errors import UserError

EXTRAS = {
    "embed": (
        *("httpx", "huggingface_hub", "jinja2", "sentence_transformers", "tenacity", "tokenizers", "torch"),
        "transformers",
    ),
    "train": ("accelerate", "cloudpickle", "gguf", "joblib", "matplotlib", "peft", "rapidfuzz", "regex", "scipy"),
    "bm25": ("bm25s", "scipy"),
    "report": ("jinja2", "plotly", "sklearn"),
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard",),
    "trackers": ("mlflow", "swanlab", "trackio"),
    "workspaces": ("wandb_workspaces",),
    "qlora": ("bitsandbytes",),
    "deepspeed": ("deepspeed",),
    "vllm": ("vllm",),
    "ray": ("ray",),
    "sweeps": ("submitit", "hydra_plugins.hydra_optuna_sweeper"),
    "lm-eval": ("lm_eval",),
    "maths": ("math_verify", "latex2sympy2_extended"),
    "reasoning": ("reasoning_gym",),
}


def install(extra: str) -> str:
    """The command that installs an extra, for a wheel, a clone (`pip install -e .`) and the package index."""
    assert extra in EXTRAS, extra
    return f'pip install "near[{extra}]"'


def missing_module(error: ModuleNotFoundError) -> str | None:
    """The error line for a missing module of an extra; None for other modules."""
    top = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if top in modules), None)
    return None if extra is None else f"{top} is not installed; {install(extra)}"


def need(subject: str, extra: str, modules: Iterable[str] = ()) -> None:
    """UserError if `subject` (a script, an option) needs an extra that is not installed.

    `modules`: those that are needed; by default all of the extra.
    """
    absent = sorted(name for name in modules or EXTRAS[extra] if importlib.util.find_spec(name) is None)
    if absent:
        verb = "are" if len(absent) > 1 else "is"
        raise UserError(f"{subject}: {', '.join(absent)} {verb} not installed; {install(extra)}")
