"""Jobs of one sweep with identical rounds are trained once.

For example, two values of max_K beyond what the rounds use, or one selector under two names.
"""

import contextlib
import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from near.common.config import as_before, public
from near.common.errors import UserError
from near.common.files import digest, link, read_json, write_json
from near.common.locks import lock_file, locked
from near.common.moved import class_names
from near.common.outputs import ANSWERS
from near.common.records import EvalMetrics, RunIdentity, write_rounds
from near.common.run_folder import ADAPTER, JOBS, LINES, METRICS, MODEL, ROUNDS, TRAINING, RunFolder
from near.selection.needs import Needs
from near.selection.plan.kinds import selection_nodes, stage_kinds
from near.training.fingerprints import is_foreign
from near.training.picking import Picker

if TYPE_CHECKING:
    from near.searching.neighbours import Neighbours

log = logging.getLogger(__name__)

# Options that decide nothing but the rounds.
ROUND_OPTIONS = (
    *("selector", "order", "mixer", "plan"),
    *("max_K", "embedder", "index", "similarity", "scoring", "indices_path"),
)
# Fingerprints of what only later rounds read: names, or groups of names
LATER = ("queries", "embedder", "scoring", "mixer", "plan", "indices_path", "candidates.columns")

ADOPTED = (ROUNDS, ADAPTER, MODEL, "loss.png", *ANSWERS)


def training_key(
    cfg: DictConfig,
    identity: RunIdentity,
    needs: Needs,
    picker: Picker | None,
    neighbours: "Neighbours | None",
    processes: int,
) -> str:
    """A key that is equal for two runs with bit-identical training: the same rows in the same order, and equal options.

    Selectors that use the model, or are not of this package, can't select ahead of training: their rounds are
    identified by what they are computed from.

    Args:
        picker: a new one, which selects its rounds ahead; None if training has no rounds.
        neighbours: None if the selector uses none.
        processes: of the job.
    """
    config = _without_rounds(cfg, identity)
    if picker is None:
        rounds = "every row"
    elif needs.requires is None and not any(map(is_foreign, selection_nodes(cfg))):
        rounds = picker.planned()
    else:
        groups = as_before(public(cfg, decisive=True))
        names = (*(("selector", "order") if cfg.get("plan") is None else ("plan",)), "scoring", "similarity")
        rounds = {name: class_names(groups[name]) for name in names if groups.get(name) is not None}
        if needs.neighbours:
            content = np.ascontiguousarray(neighbours.ids).tobytes() + np.ascontiguousarray(neighbours.scores).tobytes()
            rounds["neighbours"] = hashlib.sha256(content).hexdigest()
            # similarities beyond the matrix are computed from its vectors
            rounds["embedder"] = class_names(public(cfg.embedder, decisive=True))
        if picker.job.selector.requires is None:  # neighbours by gradients
            rounds["max_K"] = cfg.max_K
    return digest([config, identity.fingerprints, rounds, processes])


def _without_rounds(cfg: DictConfig, identity: RunIdentity) -> dict:
    """The options of a run that decide more than its rounds: of a plan, those of the stages that weight losses."""
    config = {name: value for name, value in identity.config.items() if name not in ROUND_OPTIONS}
    if cfg.get("plan") is not None:
        config.pop("weighter", None)  # the stages name it
        weigh = [name for name, kind in stage_kinds(cfg.plan).items() if kind == "weigh"]
        if weigh:
            config["plan"] = [identity.config["plan"][name] for name in weigh]
    return config


def warm_up_key(cfg: DictConfig, identity: RunIdentity, picker: Picker, processes: int) -> str:
    """A key that is equal for two jobs whose warm-up trains the same rows in the same order, under equal options.

    Args:
        picker: a new one; it picks the warm-up's rows.
        processes: of the job.
    """
    phase = picker.schedule.rounds()[0]
    round = picker.round(phase)
    draws = picker.take(picker.checked(picker.pick(phase, round), phase, round), phase)
    config = _without_rounds(cfg, identity)
    prints = {name: value for name, value in identity.fingerprints.items() if not {name, name.split(".")[0]} & {*LATER}}
    return digest([config, prints, draws.tolist(), processes])


@contextlib.contextmanager
def alone(cache_dir: str, key: str) -> Iterator[None]:
    """Make twins wait, in this or another process, while one of them trains."""
    with locked(lock_file(cache_dir, f"training-{key}"), remove=True):
        yield


def _registered(output_dir: Path, key: str) -> Path:
    """The file in the sweep's folder that names the job with training key `key`."""
    return output_dir.parent / JOBS / "trained" / f"{key}.json"


def register(output_dir: Path, key: str) -> None:
    """Name `output_dir` to twins. Called before the run has finished: twin_of checks that it has."""
    write_json(_registered(output_dir, key), {"job": output_dir.name})


def twin_of(output_dir: Path, key: str) -> Path | None:
    """The finished job beside `output_dir` with training key `key`."""
    if not (path := _registered(output_dir, key)).is_file():
        return None
    with contextlib.suppress(UserError, KeyError, OSError):  # damaged, removed since, or of another configuration now
        twin = RunFolder(output_dir.parent / read_json(path)["job"])
        if twin.training.training_key == key and twin.path != output_dir and twin.is_evaluated:
            return twin.path
    return None


def adopt(
    twin: Path, output_dir: Path, selector: str, max_K: int | None, identity: RunIdentity, contamination: dict | None
) -> EvalMetrics:
    """Make `output_dir` a finished run with its twin's result. Large files are linked.

    Args:
        selector, max_K, identity, contamination: of the run, which may differ from the twin's.

    Returns:
        the metrics.
    """
    for name in ADOPTED:
        if (twin / name).is_dir():
            shutil.copytree(twin / name, output_dir / name, copy_function=link)
        elif (twin / name).is_file():
            link(twin / name, output_dir / name)
    files = RunFolder(twin)
    training, described = files.training, {"selector": selector, "max_K": max_K, "same_rows_as": twin.name}
    selectors = {training.selector: selector}  # a warm-up's name stays
    rounds = [dataclasses.replace(line, selector=selectors.get(line.selector, line.selector)) for line in files.rounds]
    write_rounds(output_dir / ROUNDS / LINES, rounds)
    dataclasses.replace(training, identity=identity, contamination=contamination, **described).write(
        output_dir / TRAINING
    )
    metrics = dataclasses.replace(files.metrics, **described)
    metrics.write(output_dir / METRICS)
    log.info(f"same rows as {twin.name}: not trained again")
    return metrics
