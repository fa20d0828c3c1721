"""Entry scripts: compose, check, call, and report faults in one line with a status of 1."""

import functools
import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from near.app import jobs
from near.app.check.check import check, check_sources
from near.app.faults import fault_line
from near.app.installed import check_installed
from near.app.user_code import failed_class, traceback_of
from near.common.command_line import current
from near.common.config import CONF, raw_words, register_resolvers
from near.common.disk import watch
from near.common.errors import UserError, one_line, user_error, visible
from near.common.outputs import REMOVED, removable, remove_folder
from near.common.outputs import check as check_outputs
from near.common.secrets import check_words, faults, scrub
from near.common.sweep import in_sweep

log = logging.getLogger(__name__)

register_resolvers()
# Hydra then raises instead of printing a report, and `run` prints one line.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")


def run(main: Callable[[], object]) -> None:
    """Call a Hydra main function; end the process with one line and status 1 for a fault that a user can fix."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a row's characters is no fault
    try:
        check_words(sys.argv[1:])
        if any("from_yaml" in word for word in sys.argv[1:]):
            from near.app.from_yaml.expanded import expanded

            sys.argv[1:] = expanded(current(), sys.argv[1:])
            check_words(sys.argv[1:])
        _drop_schemas()
        _with_table(main)
    except KeyboardInterrupt:
        jobs.ended()
        sys.exit(130)
    except Exception as error:
        _stop(error)
    except BaseException as error:  # of a library in Rust, such as a tokenizer's pattern that never ends
        if type(error).__name__ != "PanicException":
            raise
        _stop(UserError(f"a tokenizer or its library failed ({one_line(error)}); use another model or text"))


def _with_table(main: Callable[[], object]) -> None:
    """Call `main`; after a sweep print its jobs and the comparison, and raise UserError where a job failed."""
    fault = None
    try:
        main()
    except Exception as error:
        fault = error
    failed, folder = jobs.ended(), jobs.Sweeps.folder
    if folder is not None and len(list(folder.glob("*/train_metrics.json"))) > 1:
        from near.report import runs, verdict

        verdict.show(runs.collect(folder)[0])
    if failed:
        first = failed[0].get("error", "it was killed")
        raise UserError(f"{len(failed)} of the sweep's jobs failed; the first: {first}") from fault
    if fault is not None:
        raise fault


def _stop(error: Exception) -> NoReturn:
    """Print the line for `error` and exit with status 1; raise it where it is a bug, or NEAR_TRACEBACK is set."""
    fault = fault_line(error)
    if fault is None or os.environ.get("NEAR_TRACEBACK"):
        sys.excepthook = _scrubbed_traceback
        raise error
    print(f"error: {visible(fault)}", file=sys.stderr)
    sys.exit(1)


def _scrubbed_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(scrub("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def output_dir() -> Path:
    """The folder of the running job, made by Hydra."""
    return Path(HydraConfig.get().runtime.output_dir)


def is_new(folder: Path) -> bool:
    """Whether a job's folder contains only what Hydra has just written: its notes, and an empty log."""
    log = folder / f"{HydraConfig.get().job.name}.log"
    only_notes = folder != Path.cwd() and folder.is_dir() and {p.name for p in folder.iterdir()} <= {".hydra", log.name}
    return only_notes and not (log.is_file() and log.stat().st_size)


def drop_empty_output(new: bool = True) -> None:
    """Remove a job's folder that was `new`, if it contains only Hydra's notes."""
    folder, log = output_dir(), f"{HydraConfig.get().job.name}.log"
    if new and folder != Path.cwd() and folder.is_dir() and {p.name for p in folder.iterdir()} <= {".hydra", log}:
        remove_folder(folder, (log, ".hydra/*.yaml"))


def _remove_notes() -> None:
    """Remove the configuration that Hydra wrote before the job could refuse it for a secret."""
    written = [*(output_dir() / ".hydra").glob("*.yaml")]
    if in_sweep():
        written.append(Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir, "multirun.yaml"))
    for path in written:
        path.unlink(missing_ok=True)


def _drop_schemas() -> None:
    """Drop the schemas that published plugins register for launchers and sweepers of the same names as near's."""
    Plugins.instance()  # registers them
    for path in CONF.glob("hydra/*/*.yaml"):
        group = ConfigStore.instance().repo.get("hydra", {}).get(path.parent.name, {})
        group.pop(path.name, None)


def _let_go(error: BaseException | None) -> None:
    """Free the objects of a failed job, such as its model: Hydra keeps the error and its frames to the sweep's end."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _free_memory() -> None:
    """Free what the finished job had in memory, on an accelerator too, before the next job of this process loads."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _named_folder(cfg: DictConfig) -> Path:
    """`cfg.output_dir`; the working directory where it refers to a missing option, which the check will name."""
    try:
        return Path(cfg.output_dir)
    except OmegaConfBaseException:
        return Path.cwd()


def script(name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], object]]:
    """Decorator for an entry script's function: composed from conf/<name>.yaml and checked before it is called.

    A job that is refused for a fault leaves no folder behind.
    """

    def decorate(work: Callable[[DictConfig], object]) -> Callable[[], object]:
        @functools.wraps(work)
        def job(cfg: DictConfig) -> object:
            new = is_new(output_dir())
            folder = output_dir() if name in ("select", "train") else _named_folder(cfg)
            try:
                watch(cfg, folder)
                with jobs.recorded(fault_line, bool(cfg.get("dry_run"))):
                    check_installed(name, cfg)
                    check(cfg, raw_words(HydraConfig.get().overrides.task))
                    check_sources(cfg)
                    check_outputs(folder, name)
                    if name == "train" and cfg.overwrite:
                        removable(folder, *REMOVED)
                    result = work(cfg)
                if cfg.get("dry_run"):
                    drop_empty_output(new)
                return result
            except KeyboardInterrupt:
                drop_empty_output(new)
                raise
            except Exception as error:
                fault = fault_line(error)
                users = fault is not None and user_error(error) is None and failed_class(error) is not None
                if users:
                    log.error(traceback_of(error))
                if faults(cfg):
                    _remove_notes()
                if in_sweep():
                    _let_go(error)
                if fault is None:
                    raise
                if not users:  # whose folder has the log with the traceback
                    drop_empty_output(new)
                if in_sweep():  # the other jobs continue; Hydra raises it again at the end
                    raise UserError(fault) from error
                _stop(error)
            finally:
                if in_sweep():
                    _free_memory()

        return hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)

    return decorate
