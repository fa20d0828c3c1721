"""Weights & Biases; offline by itself where there is no key."""

import contextlib
import logging
import netrc
import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from near.config import public
from near.sweep import in_sweep
from near.trackers.base import Log, Tracker

log = logging.getLogger(__name__)


class WandbTracker(Tracker):
    """One W&B run for one job, grouped by sweep; closed with its own exit code, so that jobs never share a run."""

    def __init__(self, project: str = "near", entity: str | None = None, mode: str | None = None):
        self.project, self.entity, self.mode = project, entity, mode

    @contextlib.contextmanager
    def run(self, cfg: DictConfig, output_dir: Path, main_process: bool) -> Iterator[Log]:
        if not main_process:
            yield lambda metrics, step: None
            return
        import wandb

        mode = self.mode or os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        if mode == "offline":
            log.info("wandb: no key, so offline; `wandb sync` the folder below wandb/ later")
        with wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,
            dir=str(output_dir),
            group=cfg.sweep_name if in_sweep() else None,
            name=output_dir.name,
            config=public(cfg),
        ) as run:
            yield lambda metrics, step: run.log(metrics, step=step)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
