"""Runs without a result: still running, failed, or stopped before the end."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, printable
from near.common.locks import acquire
from near.common.run_folder import JOBS, RunFolder
from near.report import races

ERROR = 300  # characters of a failed run's line


@dataclass(frozen=True)
class Standing:
    """A run without a result.

    Attributes:
        name: its folder below the root.
        state: running, failed or stopped.
        description: the state in words, with the error, or the last round and checkpoint.
    """

    name: str
    state: str
    description: str


def standings(root: Path, unfinished: list[Path]) -> list[Standing]:
    """The standings of the folders `unfinished`, and of jobs that failed before they wrote anything, by name."""
    folders = set(unfinished)
    for path in root.rglob(f"{JOBS}/*.json"):
        folder = path.parent.parent / path.stem
        if not RunFolder(folder).is_evaluated and RunFolder(folder).job.get("state") in ("failed", "running"):
            folders.add(folder)
    return [_standing(root, folder) for folder in sorted(folders)]


def _standing(root: Path, folder: Path) -> Standing:
    name = str(folder.relative_to(root)) if folder != root else folder.name
    job, running = RunFolder(folder).job, _is_running(folder)
    if job.get("state") == "failed" and not running:
        return Standing(name, "failed", f"failed: {printable(str(job.get('error')), ERROR)}")
    if not running and (why := races.stopped(folder)):
        return Standing(name, "stopped", why)
    if not running and (why := _diverged(folder)):
        return Standing(name, "failed", f"failed: {printable(why, ERROR)}")
    state, words = ("running", "still running") if running else ("stopped", "started but not finished")
    return Standing(name, state, words + _reached(folder))


def _diverged(folder: Path) -> str | None:
    """Why training stopped early, or that the target loss is not finite; None where neither is recorded."""
    files = RunFolder(folder)
    with contextlib.suppress(UserError, OSError):
        if (failure := files.failure) is not None:
            return failure
        if files.is_evaluated:
            return f"its target loss is {files.metrics.target_loss}, not a finite number"
    return None


def _is_running(folder: Path) -> bool:
    """Whether a process trains in `folder` now: it has the run's lock."""
    with contextlib.suppress(OSError, UserError, OmegaConfBaseException, AttributeError):
        path = RunFolder(folder).lock(RunFolder(folder).config().cache_dir)
        if not path.is_file():
            return False
        if (lock := acquire(path, wait=False)) is None:
            return True
        lock.close()
    return False


def _reached(folder: Path) -> str:
    """Its last round, and the step of its last checkpoint."""
    text, files = "", RunFolder(folder)
    with contextlib.suppress(UserError, OSError, IndexError):
        line = files.rounds[-1]
        text = f", round {line.round} ({line.selector}) started at step {line.step}"
    newest = next(iter(files.checkpoints()), None)
    return text if newest is None else f"{text}, last checkpoint at step {newest.name.rpartition('-')[2]}"
