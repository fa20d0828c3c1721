"""Trackio, on this machine unless a Space is named."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from near.common.extras import need
from near.training.trackers.base import LogOptions, TableRows, Tracker, TrackerRun
from near.training.trackers.runs import described, existing_id, new_id, save_id, sweep_of


class TrackioTracker(Tracker):
    """One Trackio run for one job, in $TRACKIO_DIR or Trackio's folder; `trackio show --project near` shows all."""

    def __init__(
        self, project: str = "near", space_id: str | None = None, table_rows: TableRows = 100, table_chars: int = 0
    ):
        """space_id: the Hugging Face Space that metrics are sent to; None: $TRACKIO_SPACE_ID, else none."""
        self.project, self.space_id = project, space_id
        self.options = LogOptions(table_rows, table_chars)

    def check(self) -> None:
        need("tracker=trackio", "trackers", ["trackio"])

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[TrackerRun]:
        import trackio

        run_id = existing_id(cfg, output_dir, "trackio") or new_id()
        away = self.space_id or os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        with contextlib.nullcontext() if away else _no_hub():
            run = trackio.init(
                project=self.project,
                name=f"{output_dir.name}-{run_id[:6]}",  # a resumed job finds its run by this name
                group=sweep_of(cfg, output_dir)[0],
                space_id=self.space_id,
                config=described(cfg),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        save_id(cfg, output_dir, "trackio", run_id)
        try:
            yield _TrackioRun(run, self.options)
        finally:
            trackio.finish()


@contextlib.contextmanager
def _no_hub() -> Iterator[None]:
    """Block Trackio's request to the hub for the owner of a token, which it sends even for local runs."""
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise OSError("no request to the hub")

    whoami, huggingface_hub.whoami = huggingface_hub.whoami, refuse
    try:
        yield
    finally:
        huggingface_hub.whoami = whoami


class _TrackioRun(TrackerRun):
    def __init__(self, run, options: LogOptions):
        super().__init__(options)
        self._run = run

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def table(self, index: int, step: int, rows: list[dict]) -> None:
        import trackio

        table = trackio.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({f"rows/round_{index:03d}": table}, step=step)
