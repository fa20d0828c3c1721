"""Weights & Biases; offline by itself where there is no key."""

import contextlib
import logging
import netrc
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

from near.common.config import agent_parameters, agent_sweep
from near.common.errors import UserError, one_line
from near.common.extras import need
from near.training.trackers.base import LogOptions, TableRows, Tracker, TrackerRun
from near.training.trackers.runs import described, existing_id, new_id, save_id, sweep_of

log = logging.getLogger(__name__)
Mode = Literal["online", "offline", "disabled"]


class WandbTracker(Tracker):
    """One W&B run for each job, grouped and tagged by its sweep. A resumed job continues its run, whose id is in its
    folder; under a W&B agent the agent names the run."""

    def __init__(
        self,
        project: str = "near",
        entity: str | None = None,
        mode: Mode | None = None,
        table_rows: TableRows = 100,
        table_chars: int = 0,
        log_indices: bool = False,
        log_adapter: bool = False,
    ):
        """mode: None: online with a key, else offline. See near/training/trackers/base.py for the others."""
        self.project, self.entity, self.mode = project, entity, mode
        self.options = LogOptions(table_rows, table_chars, log_indices, log_adapter)

    def check(self) -> None:
        need("tracker=wandb", "wandb", ["wandb"])

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[TrackerRun]:
        import wandb

        mode = self.mode or os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        place = {"project": self.project, "entity": self.entity}
        place["id"] = existing_id(cfg, output_dir, "wandb") or new_id()
        if agent_sweep() is not None:  # which has decided them
            place = {}
        group, tags = sweep_of(cfg, output_dir)
        try:
            started = wandb.init(
                **place,
                resume="allow",
                mode=mode,
                dir=str(output_dir),
                group=group,
                tags=tags,
                name=output_dir.name,
                job_type="train",
                config=_renamed(described(cfg)),
                settings=wandb.Settings(quiet=True),
            )
        except wandb.errors.Error as error:
            raise UserError(f"tracker=wandb: {one_line(error)}; tracker.mode=offline needs no server") from error
        save_id(cfg, output_dir, "wandb", started.id)
        where = started.url if mode == "online" else None
        if mode == "offline":
            where = f"offline; {shlex.join(['wandb', 'sync', started.settings.sync_dir])}"
        try:
            with started as run:
                run.define_metric("step", hidden=True)
                run.define_metric("*", step_metric="step")
                yield _WandbRun(run, self.options)
        finally:
            if where is not None:
                log.info(f"wandb: {where}")


class _WandbRun(TrackerRun):
    def __init__(self, run, options: LogOptions):
        # A killed process leaves an offline file without its last blocks, so the next file holds everything. Online the
        # summary has the server's last step.
        super().__init__(options, run.summary.get("step", -1))
        self._run = run

    def log(self, metrics: dict[str, float], step: int) -> None:
        """W&B drops steps that come late, so the step is logged as a metric, the axis of the others."""
        self._run.log({**metrics, "step": step})

    def table(self, index: int, step: int, rows: list[dict]) -> None:
        import wandb

        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({f"rows/round_{index:03d}": table, "step": step})

    def files(self, kind: str, paths: list[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
        for path in paths:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name)
            else:
                artifact.add_file(str(path), name=path.name)
        self._run.log_artifact(artifact)


def _renamed(config: dict) -> dict:
    """W&B fixes the parameters of its sweeps: `selector`, a name there, would hide the options of that group, which are
    logged as `selector_options` then."""
    fixed = agent_parameters()
    return {f"{k}_options" if k in fixed and isinstance(v, dict) else k: v for k, v in config.items()}


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
