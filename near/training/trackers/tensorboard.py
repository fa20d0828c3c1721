"""TensorBoard event files in the run's folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig

from near.common.extras import need
from near.training.trackers.base import Tracker, TrackerRun
from near.training.trackers.runs import described


class TensorboardTracker(Tracker):
    """Scalars under <output_dir>/tensorboard; `tensorboard --logdir runs` shows all jobs."""

    def check(self) -> None:
        need("tracker=tensorboard", "tensorboard", ["tensorboard"])

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[TrackerRun]:
        from torch.utils.tensorboard import SummaryWriter

        # what an earlier process logged is not shown: it may have died with events in its buffer
        with SummaryWriter(str(output_dir / "tensorboard"), purge_step=0) as writer:
            writer.add_text("config", f"```\n{yaml.safe_dump(described(cfg), sort_keys=False)}\n```")
            yield _TensorboardRun(writer)


class _TensorboardRun(TrackerRun):
    def __init__(self, writer):
        super().__init__(logged_until=-1)
        self._writer = writer

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
