"""Runs that have no result: still going, failed, or begun and left."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from near.common.errors import UserError, printable
from near.common.files import digest, read_json, read_jsonl
from near.common.foreign import read_config
from near.common.locks import acquire, lock_file
from near.common.outputs import FAILED

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
    for path in root.rglob(".jobs/*.json"):
        folder = path.parent.parent / path.stem
        if not (folder / "metrics.json").is_file() and _job(folder).get("state") in ("failed", "running"):
            folders.add(folder)
    return [_standing(root, folder) for folder in sorted(folders)]


def _standing(root: Path, folder: Path) -> Standing:
    name = str(folder.relative_to(root)) if folder != root else folder.name
    said = _job(folder)
    if said.get("state") == "failed" and not _held(folder):
        return Standing(name, "failed", f"failed: {printable(str(said.get('error')), ERROR)}")
    going = _held(folder)
    if not going and (why := _diverged(folder)):
        return Standing(name, "failed", f"failed: {printable(why, ERROR)}")
    told = "still going" if going else "begun and not finished"
    return Standing(name, "going" if going else "stopped", told + _reached(folder))


def _diverged(folder: Path) -> str | None:
    """Why a training ended before its time, or what its evaluation came to."""
    with contextlib.suppress(UserError, OSError):
        if (folder / FAILED).is_file():
            return str(read_json(folder / FAILED).get("error"))
        if (folder / "metrics.json").is_file():
            return f"its target loss is {read_json(folder / 'metrics.json').get('target_loss')}, not a finite number"
    return None


def _job(folder: Path) -> dict:
    """What a sweep's job said of itself last."""
    with contextlib.suppress(UserError, OSError):
        return read_json(folder.parent / ".jobs" / f"{folder.name}.json")
    return {}


def _held(folder: Path) -> bool:
    """Whether a living process trains in `folder`: it holds the run's lock."""
    with contextlib.suppress(OSError, UserError, OmegaConfBaseException, AttributeError):
        cache_dir = read_config(folder / "config.yaml").cache_dir
        path = lock_file(cache_dir, f"run-{digest(str(folder.resolve()))}")
        if not path.is_file():
            return False
        if (lock := acquire(path, wait=False)) is None:
            return True
        lock.close()
    return False


def _reached(folder: Path) -> str:
    """Its last round, and the step of its last checkpoint."""
    told = ""
    with contextlib.suppress(UserError, OSError, IndexError, KeyError):
        line = read_jsonl(folder / "rounds" / "rounds.jsonl")[-1]
        told = f", round {line['round']} ({line['selector']}) began at step {line['step']}"
    steps = [re.fullmatch(r"checkpoint-(\d+)", p.name) for p in (folder / "checkpoints").glob("checkpoint-*")]
    last = max((int(found[1]) for found in steps if found), default=None)
    return told if last is None else f"{told}, last checkpoint at step {last}"
