"""What every job of a sweep says of itself, in a file of its own, and the table of all of them at the sweep's end.

<sweep folder>/.jobs/<job>.json: state (running, done, failed), error, overrides, seconds, host, pid. A job that was
killed still says `running`: where the sweep has ended, that is shown as not finished.
"""

import contextlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from near.common.config import raw_words, swept_keys
from near.common.errors import UserError, one_line, printable, visible
from near.common.files import read_json, refuse_special, write_json
from near.common.outputs import check as check_outputs
from near.common.outputs import check_notes
from near.common.processes import is_main
from near.common.run_folder import JOBS, METRICS, RunFolder
from near.common.secrets import scrub
from near.common.sweep import in_sweep

WIDTH = 150  # columns of a table that goes into a file
HEADS = ("job", "state", "target loss", "seconds", "")


class Sweeps(Callback):
    """Notes where the sweep of this process writes, and has its jobs' folders named by what is swept, not by what all
    of them share; Hydra calls it before the first job."""

    folder: Path | None = None
    before: dict[Path, int] = {}  # jobs that an earlier sweep left there, by when they were written

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """End the process where Hydra is about to write into somebody else's folder; Hydra passes over exceptions."""
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
        Sweeps.before = {path: path.stat().st_mtime_ns for path in _records(Sweeps.folder)}
        overrides, naming = config.hydra.overrides, config.hydra.job.config.override_dirname
        swept = swept_keys(overrides.task, config.hydra.sweeper)
        shared = {o.key_or_group for o in OverridesParser.create().parse_overrides(raw_words(overrides.task))} - set(
            swept
        )
        if swept:  # Hydra composes every job with what stands here, in whatever process it runs
            keys = ",".join(f"'{key}'" for key in dict.fromkeys([*naming.exclude_keys, *sorted(shared)]))
            with read_write(config), open_dict(config):
                overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{keys}]")


def _records(folder: Path) -> list[Path]:
    return sorted((folder / JOBS).glob("*.json"))


@contextlib.contextmanager
def told(fault_line, dry_run: bool = False) -> Iterator[None]:
    """Write down how the running job goes; nothing outside a sweep, or in a dry run. `fault_line`: the line of an error
    a user can mend."""
    if not in_sweep() or not is_main() or dry_run:
        yield
        return
    output_dir = Path(HydraConfig.get().runtime.output_dir)
    path = RunFolder(output_dir).job_file
    said = {
        "state": "running",
        "overrides": raw_words(HydraConfig.get().overrides.task),
        "number": HydraConfig.get().job.num,
    }
    said |= {"host": platform.node(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    before, begun = _written(output_dir), time.perf_counter()
    write_json(path, said)
    try:
        yield
    except BaseException as error:
        line = fault_line(error) if isinstance(error, Exception) else None
        said |= {"state": "failed", "error": line or scrub(f"{type(error).__name__}: {one_line(error)}")}
        if line is None:
            said["traceback"] = scrub(traceback.format_exc())
        raise
    else:
        said |= {"state": "done", "found": before is not None and before == _written(output_dir)}
    finally:
        write_json(path, {**said, "seconds": round(time.perf_counter() - begun, 1)})


def _written(folder: Path) -> int | None:
    """When a finished run's last file was written."""
    return (folder / METRICS).stat().st_mtime_ns if (folder / METRICS).is_file() else None


def ended() -> list[dict]:
    """Print the table of the sweep that this process ran, and return its jobs that did not end well; none without a
    sweep."""
    if Sweeps.folder is None:
        return []
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found = {path: read_json(path) for path in _records(Sweeps.folder)}
    found = {p.stem: said for p, said in found.items() if Sweeps.before.get(p) != p.stat().st_mtime_ns}  # this sweep's
    found = dict(sorted(found.items(), key=lambda pair: pair[1].get("number", 0)))  # in the order asked for
    names = labels({name: said["overrides"] for name, said in found.items()})
    table = Table(*HEADS, box=box.SIMPLE, pad_edge=False)
    for name, said in found.items():
        table.add_row(*(escape(visible(cell)) for cell in _cells(name, said, names)))
    if table.row_count:
        console = Console(highlight=False, emoji=False)
        console = console if console.is_terminal else Console(highlight=False, emoji=False, width=WIDTH)
        console.print(table)
    return [said for said in found.values() if said["state"] != "done"]


def labels(overrides: dict[str, list[str]]) -> dict[str, str]:
    """Jobs by what sets them apart: of each job's overrides those that not all of them have; of one job, its name."""
    common = set.intersection(*map(set, overrides.values())) if len(overrides) > 1 else set()
    return {
        name: printable(" ".join(w for w in words if w not in common), 100) if common else name
        for name, words in overrides.items()
    }


def _cells(name: str, said: dict, names: dict[str, str]) -> list[str]:
    state, note, loss = said["state"], "", "-"
    if state == "failed":
        note = printable(said["error"], 300)
        if "traceback" in said:
            note += f" (traceback in {Sweeps.folder / JOBS / name}.json)"
    elif state == "running":
        state, note = "not finished", "killed? start the sweep again: it goes on where it was"
    elif (files := RunFolder(Sweeps.folder / name)).is_evaluated:
        with contextlib.suppress(UserError, TypeError):  # damaged, or without a loss
            metrics = files.metrics
            loss = f"{metrics.target_loss:.4f}"
            if metrics.same_rows_as:
                note = f"same rows as {names.get(metrics.same_rows_as, metrics.same_rows_as)}"
            if said.get("found"):
                state = "done before"
    return [names[name], state, loss, str(said.get("seconds", "-")), note]
