"""What a run must not lose: arrays, and what is told of them, in one file that is whole or not there."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from near.common.errors import UserError, one_line
from near.common.files import aside, read_json, write_json
from near.models.trainer_state import trainer_state
from near.training.rounds.schedule import Schedule

PARTS = "files.json"  # the names and sizes of a checkpoint's files; written last
STATE = "selection.npz"  # the rounds so far, in every checkpoint
# the newest selection, from the moment it is made: a run killed before its next checkpoint does not select again
SELECTED = "selected.npz"


def write_state(path: Path, arrays: dict[str, np.ndarray], told: dict) -> None:
    """`arrays` and `told`, which JSON can hold, into `path`, written aside and renamed."""
    text = np.frombuffer(json.dumps(told, sort_keys=True).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays, told=text)


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """What write_state was given; UserError for a file that is missing, cut short or another's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop("told").tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not whole ({one_line(error)})") from error


def write_parts(folder: Path) -> None:
    """List the files of a checkpoint with their sizes, when all processes have written theirs."""
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    write_json(folder / PARTS, {"schema_version": 1, "bytes": sizes})


def read_checkpoint(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """What a checkpoint holds of ours; UserError where that, or a file of the Trainer's, is missing, cut short or of
    another kind, or where its numbers contradict each other."""
    try:
        arrays, told = read_state(folder / STATE)
        _check_parts(folder, told)
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, framework="numpy"):
                pass
        _check_torch_files(folder)
        _check_rounds(trainer_state(folder)["global_step"], arrays, told)
        return arrays, told
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError, UserError) as error:
        raise UserError(f"{folder} is not whole ({one_line(error)}); use another one") from error


def _check_parts(folder: Path, told: dict) -> None:
    if told.get("model_only"):
        raise ValueError("trainer.args.save_only_model left out the optimizer")
    if not told.get("lists_parts"):  # of an earlier version
        processes = told["identity"].get("processes", 1)
        for rank in range(processes if processes > 1 else 0):  # each writes its own, and none waits for the others
            if not (folder / f"rng_state_{rank}.pth").exists():
                raise ValueError(f"rng_state_{rank}.pth is missing")
        return
    if not (folder / PARTS).is_file():
        raise ValueError(f"{PARTS} is missing")
    for name, size in read_json(folder / PARTS)["bytes"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if (there := (folder / name).stat().st_size) != size:
            raise ValueError(f"{name} has {there} bytes, not {size}")


def _check_torch_files(folder: Path) -> None:
    """ValueError for a file of torch's that is cut short, or a pickle of anything but tensors and plain values."""
    import torch
    from transformers.trainer_pt_utils import safe_globals

    for path in folder.rglob("*.pt*"):
        if not zipfile.is_zipfile(path):  # as all of torch's are
            raise ValueError(f"{path.name} is cut short, or not of torch")
    for path in (*folder.glob("*.pt"), *folder.glob("*.pth")):  # those below are DeepSpeed's and FSDP's to read
        try:
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # pickle's, torch's and zipfile's kinds
            raise ValueError(f"{path.name} holds no state of torch: {one_line(error)[:100]}") from error


def _check_rounds(step: int, arrays: dict[str, np.ndarray], told: dict) -> None:
    """ValueError unless the rounds are those that the run's own schedule has begun after `step` steps."""
    if not isinstance(told["seconds"], int | float) or not 0 <= told["seconds"] < math.inf:
        raise ValueError(f"it has taken {told['seconds']} seconds")
    trainer = (told["identity"].get("config") or {}).get("trainer") or {}
    if "update_step" not in trainer:
        return
    schedule = Schedule.of(trainer)
    if step > schedule.total:
        raise ValueError(f"global_step={step} is beyond the {schedule.total} steps of its schedule")
    begun = schedule.at(step - 1).index + 1
    lines, subsets = told["rounds"], [arrays[name] for name in sorted(arrays) if name.startswith("round_")]
    starts = [stretch.start for stretch in schedule.rounds()[:begun]]
    if [(line["step"], line["rows"]) for line in lines] != list(zip(starts, map(len, subsets), strict=False)):
        raise ValueError(f"its {len(lines)} rounds are not the {begun} of {step} steps")
