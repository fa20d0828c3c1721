"""TensorBoard event files in the run's folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig

from near.config import public
from near.trackers.base import Log, Tracker


class TensorboardTracker(Tracker):
    """Scalars under <output_dir>/tensorboard; `tensorboard --logdir runs` shows all jobs."""

    @contextlib.contextmanager
    def run(self, cfg: DictConfig, output_dir: Path, main_process: bool) -> Iterator[Log]:
        if not main_process:
            yield lambda metrics, step: None
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(output_dir / "tensorboard")) as writer:
            writer.add_text("config", f"```\n{yaml.safe_dump(public(cfg), sort_keys=False)}\n```")

            def log(metrics: dict[str, float], step: int) -> None:
                for name, value in metrics.items():
                    writer.add_scalar(name, value, step)

            yield log
