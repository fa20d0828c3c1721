"""Runs that have no result: still going, failed, or begun and left."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, printable
from near.common.locks import acquire
from near.common.run_folder import JOBS, RunFolder

ERROR = 300  # characters of a failed run's line


@dataclass(frozen=True)
class Standing:
    """`state`: going, failed or stopped; `told`: the same in words, with what is known."""

    name: str
    state: str
    told: str


def standings(root: Path, unfinished: list[Path]) -> list[Standing]:
    """Of the folders `unfinished`, and of jobs that failed before they had written anything, by name."""
    folders = set(unfinished)
    for path in root.rglob(f"{JOBS}/*.json"):
        folder = path.parent.parent / path.stem
        if not RunFolder(folder).is_evaluated and RunFolder(folder).job.get("state") in ("failed", "running"):
            folders.add(folder)
    return [_standing(root, folder) for folder in sorted(folders)]


def _standing(root: Path, folder: Path) -> Standing:
    name = str(folder.relative_to(root)) if folder != root else folder.name
    said = RunFolder(folder).job
    if said.get("state") == "failed" and not _held(folder):
        return Standing(name, "failed", f"failed: {printable(str(said.get('error')), ERROR)}")
    going = _held(folder)
    if not going and (why := _diverged(folder)):
        return Standing(name, "failed", f"failed: {printable(why, ERROR)}")
    told = "still going" if going else "begun and not finished"
    return Standing(name, "going" if going else "stopped", told + _reached(folder))


def _diverged(folder: Path) -> str | None:
    """Why a training ended before its time, or what its evaluation came to."""
    files = RunFolder(folder)
    with contextlib.suppress(UserError, OSError):
        if (failure := files.failure) is not None:
            return failure
        if files.is_evaluated:
            return f"its target loss is {files.metrics.target_loss}, not a finite number"
    return None


def _held(folder: Path) -> bool:
    """Whether a living process trains in `folder`: it holds the run's lock."""
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
    told, files = "", RunFolder(folder)
    with contextlib.suppress(UserError, OSError, IndexError):
        line = files.rounds[-1]
        told = f", round {line.round} ({line.selector}) began at step {line.step}"
    newest = next(iter(files.checkpoints()), None)
    return told if newest is None else f"{told}, last checkpoint at step {newest.name.rpartition('-')[2]}"
