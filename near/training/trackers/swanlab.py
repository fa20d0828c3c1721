"""SwanLab, offline by default."""

import contextlib
import importlib.util
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from near.common.errors import UserError, one_line
from near.common.extras import need
from near.training.trackers.base import Tracker, TrackerRun
from near.training.trackers.runs import described, existing_id, new_id, save_id, sweep_of

log = logging.getLogger(__name__)
Mode = Literal["offline", "local", "online", "disabled"]


class SwanlabTracker(Tracker):
    """One SwanLab run for one job, under <output_dir>/swanlog; a resumed job continues its run."""

    def __init__(self, project: str = "near", workspace: str | None = None, mode: Mode = "offline"):
        """mode: offline (files to sync later), local (with SwanLab's own dashboard), online, disabled."""
        self.project, self.workspace, self.mode = project, workspace, mode

    def check(self) -> None:
        need("tracker=swanlab", "trackers", ["swanlab"])
        if self.mode == "local" and importlib.util.find_spec("swanboard") is None:
            raise UserError("tracker.mode=local: swanboard is not installed; pip install swanboard, or use offline")

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[TrackerRun]:
        import swanlab

        run_id = existing_id(cfg, output_dir, "swanlab") or new_id()
        group, tags = sweep_of(cfg, output_dir)
        try:
            run = swanlab.init(
                project=self.project,
                workspace=self.workspace,
                name=output_dir.name,
                id=run_id,
                resume="allow",
                mode=self.mode,
                log_dir=str(output_dir / "swanlog"),
                group=group,
                tags=tags,
                config=described(cfg),
            )
        except (RuntimeError, ValueError, OSError) as error:  # no key, no network
            raise UserError(f"tracker=swanlab: {one_line(error)}; tracker.mode=offline needs no server") from error
        save_id(cfg, output_dir, "swanlab", run_id)
        fault = "the job failed"
        try:
            yield _SwanlabRun(run)
            fault = None
        finally:
            run.finish("crashed" if fault else "success", error=fault)
            if self.mode == "offline":
                log.info(f"swanlab: offline; {shlex.join(['swanlab', 'sync', str(run.dir)])}")


class _SwanlabRun(TrackerRun):
    def __init__(self, run):
        super().__init__(logged_until=-1)  # SwanLab keeps one of two equal points
        self._run = run

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)
