"""The contract of a tracker: a context that gives a run to report to, and is closed even when a job fails."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from transformers import TrainerCallback

from near.common.bounds import between


@dataclass(frozen=True)
class LogOptions:
    """What is logged beside metrics.

    Args:
        table_rows: rows of each round, as a table.
        table_chars: characters of each row's prompt in that table.
        log_indices: whether the rows of all rounds are logged as files.
        log_adapter: whether the trained weights are logged as files.
    """

    table_rows: int = 0
    table_chars: int = 0
    log_indices: bool = False
    log_adapter: bool = False


TableRows = Annotated[int, between(0, 10_000)]  # of each round's table


class TrackerRun:
    """A tracker's run, which one job logs to. This one logs nothing: all processes but the main one have it."""

    def __init__(self, options: LogOptions | None = None, logged_until: float = math.inf):
        """logged_until: the last step that the tracker has of a resumed run; what follows is logged again."""
        self.options, self.logged_until = options or LogOptions(), logged_until

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log metrics, named `group/name`, of an optimizer step. After a resume a step may be logged again."""

    def table(self, index: int, step: int, rows: list[dict]) -> None:
        """Log rows of round `index`, which starts at `step`. All rows have the same columns."""

    def files(self, kind: str, paths: list[Path]) -> None:
        """Log files and folders. kind: indices, adapter or model."""


class Tracker:
    """Where metrics go beside the files that every run writes."""

    def check(self) -> None:
        """Raise UserError where it can't be used here. Called before anything is loaded."""

    @contextlib.contextmanager
    def run(
        self, cfg: DictConfig, output_dir: Path, main_process: bool, resumed_at: int | None = None
    ) -> Iterator[TrackerRun]:
        """One run for one job, named by its folder and grouped by its sweep; only the main process writes.

        resumed_at: the optimizer step of the checkpoint that the job resumes from; None: it starts anew.
        """
        if not main_process:
            yield TrackerRun()
            return
        output_dir.mkdir(parents=True, exist_ok=True)
        with self.opened(cfg, output_dir, resumed_at) as run:
            yield run

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[TrackerRun]:
        """The run of the main process."""
        yield TrackerRun()


class LogCallback(TrainerCallback):
    """Logs the Trainer's metrics to a run: the loss on evaluation rows under target/, the rest under train/."""

    def __init__(self, run: TrackerRun):
        self.run = run

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            metrics = {named(k): v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            self.run.log(metrics, state.global_step)


def named(metric: str) -> str:
    """A metric of the Trainer's with its group."""
    return f"{'target' if metric.startswith('eval_') else 'train'}/{metric}"
