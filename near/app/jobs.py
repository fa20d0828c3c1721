"""The record of every job of a sweep, a file each, and the table of all jobs at the end of the sweep.

<sweep folder>/.jobs/<job>.json: state (running, done, failed), error, overrides, seconds, host, pid. The record of a
killed job stays at `running`: after the end of the sweep it is shown as not finished.
"""

import contextlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from near.app import dry_runs
from near.common.config import raw_words, swept_keys
from near.common.cost import Cost
from near.common.errors import UserError, one_line, printable
from near.common.files import read_json, refuse_special, write_json
from near.common.outputs import CHECKPOINT, check_notes, remove_folder
from near.common.outputs import check as check_outputs
from near.common.processes import is_main
from near.common.run_folder import FORECAST, JOBS, METRICS, WARM_UPS, RunFolder
from near.common.secrets import scrub
from near.common.sweep import in_sweep
from near.evaluation.forecast import VerdictForecast

HEADS = ("job", "state", "target loss", "seconds", "")


class Sweeps(Callback):
    """Remembers the folder of this process's sweep, and names its jobs' folders by the swept options alone, without
    those that all jobs share. Hydra calls it before the first job."""

    folder: Path | None = None
    before: dict[Path, int] = {}  # records and dry runs of an earlier sweep in that folder, and when they were written

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """Exit where Hydra is about to write into a folder that is not near's; Hydra ignores exceptions here."""
        name, folder = config.hydra.job.name, Path(config.hydra.run.dir)
        if name not in ("select", "train") or folder.resolve() == Path.cwd():
            return
        try:
            refuse_special(folder, "output_dir")
            check_outputs(folder, name)
            check_notes(folder)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        Sweeps.folder = Path(config.hydra.sweep.dir).resolve()
        written = [*_records(Sweeps.folder), *dry_runs.files(Sweeps.folder), *dry_runs.files(Sweeps.folder, FORECAST)]
        Sweeps.before = {path: path.stat().st_mtime_ns for path in written}
        overrides, naming = config.hydra.overrides, config.hydra.job.config.override_dirname
        swept = swept_keys(overrides.task, config.hydra.sweeper)
        typed = {o.key_or_group for o in OverridesParser.create().parse_overrides(raw_words(overrides.task))}
        # what a file of sweeps/ sweeps stays in the names, so that seed=1 and later seed=2 have folders of their own
        named = config.hydra.sweeper.get("params") or {}
        shared = typed - set(swept) - set(named)
        if swept or named:  # Hydra composes every job with these overrides, in whatever process it runs
            keys = ",".join(f"'{key}'" for key in dict.fromkeys([*naming.exclude_keys, *sorted(shared)]))
            with read_write(config), open_dict(config):
                overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{keys}]")


def _records(folder: Path) -> list[Path]:
    return sorted((folder / JOBS).glob("*.json"))


@contextlib.contextmanager
def recorded(fault_line: Callable[[Exception], str | None], dry_run: bool = False) -> Iterator[None]:
    """Record the state of the running job; nothing outside a sweep, or in a dry run. `fault_line`: the line to show for
    an error that a user can fix, None for a bug."""
    if not in_sweep() or not is_main() or dry_run:
        yield
        return
    output_dir = Path(HydraConfig.get().runtime.output_dir)
    path = RunFolder(output_dir).job_file
    record = {
        "state": "running",
        "overrides": raw_words(HydraConfig.get().overrides.task),
        "number": HydraConfig.get().job.num,
    }
    record |= {"host": platform.node(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    before, started = _written(output_dir), time.perf_counter()
    write_json(path, record)
    try:
        yield
    except BaseException as error:
        line = fault_line(error) if isinstance(error, Exception) else None
        record |= {"state": "failed", "error": line or scrub(f"{type(error).__name__}: {one_line(error)}")}
        if line is None:
            record["traceback"] = scrub(traceback.format_exc())
        raise
    else:
        record |= {"state": "done", "found": before is not None and before == _written(output_dir)}
    finally:
        write_json(path, {**record, "seconds": round(time.perf_counter() - started, 1)})


def _written(folder: Path) -> int | None:
    """When the last file of a finished run was written, in ns since the epoch; None for any other run."""
    return (folder / METRICS).stat().st_mtime_ns if (folder / METRICS).is_file() else None


def ended() -> list[dict]:
    """Print the jobs of the sweep that this process ran, and return the records of those that are not done. Without a
    sweep there are none. Once all are done, the warm-ups that they shared are removed."""
    if Sweeps.folder is None:
        return []
    from near.common.tables import console, table

    _show_dry_runs(_new(dry_runs.files(Sweeps.folder)))
    _show_forecasts(_new(dry_runs.files(Sweeps.folder, FORECAST)))
    paths = _new(_records(Sweeps.folder))
    records = {path.stem: read_json(path) for path in paths}
    records = dict(sorted(records.items(), key=lambda pair: pair[1].get("number", 0)))
    names = labels({name: record["overrides"] for name, record in records.items()})
    if records:
        rows = [_cells(name, record, names) for name, record in records.items()]
        console().print(table(HEADS, rows, breaking=None))
    unfinished = [record for record in records.values() if record["state"] != "done"]
    if not unfinished:
        with contextlib.suppress(UserError):  # another file lies there
            remove_folder(Sweeps.folder / JOBS / WARM_UPS, [f"*/checkpoint-*/{name}" for name in CHECKPOINT])
    return unfinished


def _new(paths: list[Path]) -> list[Path]:
    """Those of the paths that were written in this process's sweep."""
    return [path for path in paths if Sweeps.before.get(path) != path.stat().st_mtime_ns]


def _show_dry_runs(paths: list[Path]) -> None:
    """Print what the jobs of a sweep with dry_run=true would take together."""
    costs = {path.parent.name: Cost.read(path) for path in paths}
    costs = dict(sorted(costs.items(), key=lambda pair: pair[1].number or 0))
    if costs:
        names = labels({name: cost.overrides for name, cost in costs.items()})
        dry_runs.show(Sweeps.folder, list(costs.values()), [names[name] for name in costs])


def _show_forecasts(paths: list[Path]) -> None:
    """Print what the jobs of a sweep with dry_run=forecast said, the best first."""
    forecasts = {path.parent.name: VerdictForecast.read(path) for path in paths}
    if forecasts:
        names = labels({name: forecast.overrides for name, forecast in forecasts.items()})
        dry_runs.show_forecasts({names[name]: forecast for name, forecast in forecasts.items()})


def labels(overrides: dict[str, list[str]]) -> dict[str, str]:
    """A label for each job: the overrides that not all jobs have. A single job keeps its name."""
    common = set.intersection(*map(set, overrides.values())) if len(overrides) > 1 else set()
    return {
        name: printable(" ".join(w for w in words if w not in common), 100) if common else name
        for name, words in overrides.items()
    }


def _cells(name: str, record: dict, names: dict[str, str]) -> list[str]:
    state, note, loss = record["state"], "", "-"
    if state == "failed":
        note = printable(record["error"], 300)
        if "traceback" in record:
            note += f" (traceback in {Sweeps.folder / JOBS / name}.json)"
    elif state == "running":
        state, note = "not finished", "killed? start the sweep again: it continues where it stopped"
    elif (files := RunFolder(Sweeps.folder / name)).is_evaluated:
        with contextlib.suppress(UserError, TypeError):  # damaged, or without a loss
            metrics = files.metrics
            loss = f"{metrics.target_loss:.4f}"
            if metrics.same_rows_as:
                note = f"same rows as {names.get(metrics.same_rows_as, metrics.same_rows_as)}"
            if record.get("found"):
                state = "done before"
    return [names[name], state, loss, str(record.get("seconds", "-")), note]
