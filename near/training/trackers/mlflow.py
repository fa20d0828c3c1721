"""MLflow, in a SQLite file of this folder unless a server is named."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from near.common.errors import UserError, one_line
from near.common.extras import need
from near.common.files import digest
from near.common.locks import lock_file, locked
from near.training.trackers.base import LogOptions, TableRows, Tracker, TrackerRun
from near.training.trackers.runs import described, existing_id, flat, new_id, save_id, sweep_of

LONGEST = 6000  # characters of a parameter
BATCH = 100  # parameters at a time
OURS = "near.run"  # the tag by which a resumed job finds its run


class MlflowTracker(Tracker):
    """One MLflow run for one job; `mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db` shows all jobs."""

    def __init__(
        self,
        experiment: str = "near",
        tracking_uri: str | None = None,
        table_rows: TableRows = 100,
        table_chars: int = 0,
        log_indices: bool = False,
        log_adapter: bool = False,
    ):
        """tracking_uri: None: $MLFLOW_TRACKING_URI, else mlruns/mlflow.db here."""
        self.experiment, self.tracking_uri = experiment, tracking_uri
        self.options = LogOptions(table_rows, table_chars, log_indices, log_adapter)

    def check(self) -> None:
        need("tracker=mlflow", "trackers", ["mlflow"])

    @contextlib.contextmanager
    def opened(self, cfg: DictConfig, output_dir: Path, resumed_at: int | None) -> Iterator[TrackerRun]:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        tag = existing_id(cfg, output_dir, "mlflow") or new_id()
        with locked(
            lock_file(cfg.cache_dir, f"mlflow-{digest(str(Path.cwd()))}")
        ):  # only one process may create its tables
            client, experiment = self._opened_store()
        run_id = self._run(client, experiment, cfg, output_dir, tag)
        save_id(cfg, output_dir, "mlflow", tag)
        status = "FAILED"
        try:
            yield _MlflowRun(client, run_id, self.options)
            status = "FINISHED"
        finally:
            client.set_terminated(run_id, status)

    def _opened_store(self) -> tuple[Any, str]:
        """A client, and the id of the experiment."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri, files = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"), None
        if uri is None:
            folder = Path.cwd() / "mlruns"
            folder.mkdir(exist_ok=True)
            uri, files = f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri()
        try:
            client = MlflowClient(tracking_uri=uri)
            existing = client.get_experiment_by_name(self.experiment)
            return client, existing.experiment_id if existing else client.create_experiment(self.experiment, files)
        except MlflowException as error:
            raise UserError(f"tracker=mlflow: {uri} can't be used: {one_line(error)}") from error

    def _run(self, client, experiment: str, cfg: DictConfig, output_dir: Path, tag: str) -> str:
        """The id of the run with this tag, created where there is none."""
        from mlflow.entities import Param

        if runs := client.search_runs([experiment], f"tags.`{OURS}` = '{tag}'"):
            client.update_run(runs[0].info.run_id, status="RUNNING")
            return runs[0].info.run_id
        group, tags = sweep_of(cfg, output_dir)
        labels = {OURS: tag, "sweep": group or "", "tags": ",".join(tags)}
        run = client.create_run(experiment, run_name=output_dir.name, tags={k: v for k, v in labels.items() if v})
        run_id, config = run.info.run_id, described(cfg)
        params = [Param(_name(k), str(v)[:LONGEST]) for k, v in flat(config).items()]
        for start in range(0, len(params), BATCH):
            client.log_batch(run_id, params=params[start : start + BATCH])
        client.log_dict(run_id, config, "config.yaml")
        return run_id


class _MlflowRun(TrackerRun):
    def __init__(self, client, run_id: str, options: LogOptions):
        logged = client.get_metric_history(run_id, "train/loss")
        super().__init__(options, max((metric.step for metric in logged), default=-1))
        self._client, self._id = client, run_id

    def log(self, metrics: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(_name(name), float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=logged)

    def table(self, index: int, step: int, rows: list[dict]) -> None:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self._client.log_table(self._id, columns, f"rows/round_{index:03d}.json")

    def files(self, kind: str, paths: list[Path]) -> None:
        for path in paths:
            if path.is_dir():
                self._client.log_artifacts(self._id, str(path), f"{kind}/{path.name}")
            else:
                self._client.log_artifact(self._id, str(path), kind)


def _name(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w./: -]", "_", name)
