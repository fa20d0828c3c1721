"""Jobs of one sweep whose rounds come out identical are trained once: a max_K beyond what the rounds use, one selector
under two names."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from near.common.config import public
from near.common.errors import UserError
from near.common.files import digest, read_json, write_json, write_jsonl
from near.common.locks import lock_file, locked
from near.common.moved import class_names
from near.common.outputs import ANSWERS
from near.common.run_folder import ADAPTER, JOBS, LINES, METRICS, MODEL, ROUNDS, TRAINING, RunFolder
from near.selection.needs import Needs
from near.training.picking import Picker

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours
import logging

log = logging.getLogger(__name__)

# What of a configuration decides nothing but the rounds.
OF_ROUNDS = ("selector", "max_K", "embedder", "index", "similarity", "scoring", "indices_path", "mixer")

KEPT = (ROUNDS, ADAPTER, MODEL, "loss.png", *ANSWERS)


def training_key(
    cfg: DictConfig,
    identity: dict,
    needs: Needs,
    picker: Picker | None,
    neighbours: "Neighbours | None",
    processes: int,
) -> str:
    """Equal for two runs that train to the same bits: the same rows in the same order, and all else the same.

    picker: a fresh one, whose rounds are told ahead; None where training has none. Selectors that ask the model, or
    are not ours, can't be told ahead: their rounds are known by what they are made of.
    """
    config = {k: v for k, v in identity["config"].items() if k not in OF_ROUNDS}
    if picker is None:
        rounds = "every row"
    elif needs.requires is None and type(picker.job.selector).__module__.startswith("near."):
        rounds = picker.planned()
    else:
        rounds = {name: class_names(public(cfg[name], decisive=True)) for name in ("selector", "scoring", "similarity")}
        if needs.neighbours:
            content = np.ascontiguousarray(neighbours.ids).tobytes() + np.ascontiguousarray(neighbours.scores).tobytes()
            rounds["neighbours"] = hashlib.sha256(content).hexdigest()
            rounds["embedder"] = class_names(
                public(cfg.embedder, decisive=True)
            )  # similarities beyond the matrix are made of it
        if picker.job.selector.requires is None:  # neighbours by gradients
            rounds["max_K"] = cfg.max_K
    return digest([config, identity["fingerprints"], rounds, processes])


@contextlib.contextmanager
def alone(cache_dir: str, key: str) -> Iterator[None]:
    """Hold off twins, in this or in another process, while one of them trains."""
    with locked(lock_file(cache_dir, f"training-{key}"), remove=True):
        yield


def _place(output_dir: Path, key: str) -> Path:
    """Where the sweep's folder names the job that trained by `key`."""
    return output_dir.parent / JOBS / "trained" / f"{key}.json"


def note(output_dir: Path, key: str) -> None:
    """Let twins know of `output_dir`; before it is done, which they look at."""
    write_json(_place(output_dir, key), {"job": output_dir.name})


def twin_of(output_dir: Path, key: str) -> Path | None:
    """The finished job beside `output_dir` that trained by `key`."""
    if not (path := _place(output_dir, key)).is_file():
        return None
    with contextlib.suppress(UserError, KeyError, OSError):  # damaged, removed since, or of another configuration now
        twin = RunFolder(output_dir.parent / read_json(path)["job"])
        if twin.training["training_key"] == key and twin.path != output_dir and twin.is_evaluated:
            return twin.path
    return None


def adopt(twin: Path, output_dir: Path, told: dict) -> dict:
    """Make `output_dir` a finished run with what its twin trained; its metrics. `told`: selector, max_K and identity of
    its own. Large files are linked."""
    for name in KEPT:
        if (twin / name).is_dir():
            shutil.copytree(twin / name, output_dir / name, copy_function=_link)
        elif (twin / name).is_file():
            _link(twin / name, output_dir / name)
    files = RunFolder(twin)
    training, metrics, lines = files.training, files.metrics, files.rounds
    for line in lines:
        if line["selector"] == training["selector"]:
            line["selector"] = told["selector"]
    write_jsonl(output_dir / ROUNDS / LINES, lines)
    write_json(output_dir / TRAINING, {**training, **told, "same_rows_as": twin.name})
    metrics |= {"selector": told["selector"], "max_K": told["max_K"], "same_rows_as": twin.name}
    write_json(output_dir / METRICS, metrics)
    log.info(f"same rows as {twin.name}: not trained again")
    return metrics


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another device, or a file system without links
        shutil.copy2(source, target)
