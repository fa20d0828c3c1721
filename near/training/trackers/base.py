"""The contract of a tracker: a context that gives a run to report to, and is closed even when a job fails."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from transformers import TrainerCallback


@dataclass(frozen=True)
class Wanted:
    """What a run keeps beside metrics. table_rows: of each round, as a table; table_chars: of a row's prompt, in that
    table; log_indices, log_adapter: the rows of all rounds, and what was trained, as files."""

    table_rows: int = 0
    table_chars: int = 0
    log_indices: bool = False
    log_adapter: bool = False


class Run:
    """What one job reports to. This one keeps nothing: it is what every process but the main one has."""

    def __init__(self, wanted: Wanted | None = None, kept: float = math.inf):
        """kept: up to which step a resumed run has what it was told before; the rest is told again."""
        self.wanted, self.kept = wanted or Wanted(), kept

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Metrics by name, `group/name`, and the optimizer step they belong to, which may come again after a resume."""

    def table(self, index: int, step: int, rows: list[dict]) -> None:
        """Rows of round `index`, which begins at `step`; all have the same columns."""

    def files(self, kind: str, paths: list[Path]) -> None:
        """Files and folders to keep with the run; `kind`: indices, adapter or model."""


class Tracker:
    """Where metrics go beside the files that every run writes."""

    def check(self) -> None:
        """UserError where it can't be used here; called before anything is loaded."""

    @contextlib.contextmanager
    def run(
        self, cfg: DictConfig, output_dir: Path, main_process: bool, resumed_at: int | None = None
    ) -> Iterator[Run]:
        """One run for one job, named by its folder and grouped by its sweep; only the main process writes.

        resumed_at: the optimizer step of the checkpoint that the job goes on from; None: it begins anew.
        """
        if not main_process:
            yield Run()
            return
        output_dir.mkdir(parents=True, exist_ok=True)
        with self.opened(cfg, output_dir, resumed_at) as run:
            yield run

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[Run]:
        """The run of the main process."""
        yield Run()


class LogCallback(TrainerCallback):
    """Hands what the Trainer logs to a run: the loss on evaluation rows under target/, the rest under train/."""

    def __init__(self, run: Run):
        self.run = run

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            found = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            self.run.log({named(k): v for k, v in found.items()}, state.global_step)


def named(metric: str) -> str:
    """A metric of the Trainer's with its group."""
    return f"{'target' if metric.startswith('eval_') else 'train'}/{metric}"
