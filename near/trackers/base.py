"""The contract of a tracker: a context that gives a function to log with, and is closed even when a job fails."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig
from transformers import TrainerCallback

Log = Callable[[dict[str, float], int], None]  # metrics by name, and the optimizer step they belong to


class Tracker:
    """Where metrics go beside the files that every run writes."""

    @contextlib.contextmanager
    def run(self, cfg: DictConfig, output_dir: Path, main_process: bool) -> Iterator[Log]:
        """One run for one job, named by its folder and grouped by its sweep; only the main process writes."""
        yield lambda metrics, step: None


class LogCallback(TrainerCallback):
    """Hands what the Trainer logs to a tracker, under train/ where it has no group of its own."""

    def __init__(self, log: Log):
        self.log = log

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            found = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            self.log({k if "/" in k else f"train/{k}": v for k, v in found.items()}, state.global_step)
