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
from near.training.trackers.base import Run, Tracker, Wanted
from near.training.trackers.runs import described, keep_id, kept_id, new_id, sweep_of

log = logging.getLogger(__name__)
Mode = Literal["online", "offline", "disabled"]


class WandbTracker(Tracker):
    """One W&B run for one job, grouped and tagged by sweep; closed with its own exit code, so that jobs never share a
    run. A resumed job goes on in its own run, whose id is in its folder; under a W&B agent the agent names the run."""

    def __init__(
        self,
        project: str = "near",
        entity: str | None = None,
        mode: Mode | None = None,
        table_rows: int = 100,
        table_chars: int = 0,
        log_indices: bool = False,
        log_adapter: bool = False,
    ):
        """mode: None: online with a key, else offline. See near/training/trackers/base.py for the others."""
        self.project, self.entity, self.mode = project, entity, mode
        self.wanted = Wanted(table_rows, table_chars, log_indices, log_adapter)

    def check(self) -> None:
        need("tracker=wandb", "wandb", ["wandb"])

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[Run]:
        import wandb

        mode = self.mode or os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        place = {"project": self.project, "entity": self.entity}
        place["id"] = kept_id(cfg, output_dir, "wandb") or new_id()
        if agent_sweep() is not None:  # which has decided them
            place = {}
        group, tags = sweep_of(cfg, output_dir)
        try:
            begun = wandb.init(
                **place,
                resume="allow",
                mode=mode,
                dir=str(output_dir),
                group=group,
                tags=tags,
                name=output_dir.name,
                job_type="train",
                config=_settled(described(cfg)),
                settings=wandb.Settings(quiet=True),
            )
        except wandb.errors.Error as error:
            raise UserError(f"tracker=wandb: {one_line(error)}; tracker.mode=offline needs no server") from error
        keep_id(cfg, output_dir, "wandb", begun.id)
        where = begun.url if mode == "online" else None
        if mode == "offline":
            where = f"offline; {shlex.join(['wandb', 'sync', begun.settings.sync_dir])}"
        try:
            with begun as run:
                run.define_metric("step", hidden=True)
                run.define_metric("*", step_metric="step")
                yield _WandbRun(run, self.wanted)
        finally:
            if where is not None:
                log.info(f"wandb: {where}")


class _WandbRun(Run):
    def __init__(self, run, wanted: Wanted):
        # a killed process leaves an offline file without its last blocks, so the next file holds all; online what the
        # server has is in the summary
        kept = run.summary.get("step", -1)
        super().__init__(wanted, kept)
        self._run = run

    def log(self, metrics: dict[str, float], step: int) -> None:
        """W&B's own step only ever grows and drops what comes late; so ours is a metric, and the axis of the others."""
        self._run.log({**metrics, "step": step})

    def table(self, index: int, step: int, rows: list[dict]) -> None:
        import wandb

        found = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({f"rows/round_{index:03d}": found, "step": step})

    def files(self, kind: str, paths: list[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
        for path in paths:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name)
            else:
                artifact.add_file(str(path), name=path.name)
        self._run.log_artifact(artifact)


def _settled(config: dict) -> dict:
    """A sweep's own parameters hold fast in W&B: `selector`, there a name, would hide the options of the group. These
    then stand under `selector_options`."""
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
