"""The state of a run in checkpoints: arrays and their metadata in one file, which is complete or absent."""

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
# the newest selection, written at once: a run killed before its next checkpoint does not select again
SELECTED = "selected.npz"
METADATA = "told"  # the name of the metadata in these files


def write_state(path: Path, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    """Write `arrays` and `metadata` (JSON values) to the file `path`."""
    text = np.frombuffer(json.dumps(metadata, sort_keys=True).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays, **{METADATA: text})


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and metadata of a file by write_state. Raises UserError if it is missing, cut short or of another kind."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop(METADATA).tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is incomplete ({one_line(error)})") from error


def write_parts(folder: Path) -> None:
    """List the files of a checkpoint with their sizes, once all processes have written theirs."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / PARTS]
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    write_json(folder / PARTS, {"schema_version": 1, "bytes": sizes})


def read_checkpoint(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read and check a checkpoint.

    Returns:
        arrays and metadata of its selection.npz.

    Raises:
        UserError: a file, also one of the Trainer's, is missing, cut short or of another kind, or numbers contradict
            each other.
    """
    try:
        arrays, metadata = read_state(folder / STATE)
        _check_parts(folder, metadata)
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, framework="numpy"):
                pass
        _check_torch_files(folder)
        _check_rounds(trainer_state(folder)["global_step"], arrays, metadata)
        return arrays, metadata
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError, UserError) as error:
        raise UserError(f"{folder} is incomplete ({one_line(error)}); use another one") from error


def _check_parts(folder: Path, metadata: dict) -> None:
    if metadata.get("model_only"):
        raise ValueError("trainer.args.save_only_model left out the optimizer")
    if not metadata.get("lists_parts"):  # of an earlier version
        processes = metadata["identity"].get("processes", 1)
        for rank in range(processes if processes > 1 else 0):  # each writes its file without waiting for the others
            if not (folder / f"rng_state_{rank}.pth").exists():
                raise ValueError(f"rng_state_{rank}.pth is missing")
        return
    if not (folder / PARTS).is_file():
        raise ValueError(f"{PARTS} is missing")
    for name, size in read_json(folder / PARTS)["bytes"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if (actual := (folder / name).stat().st_size) != size:
            raise ValueError(f"{name} has {actual} bytes, not {size}")


def _check_torch_files(folder: Path) -> None:
    """Raises ValueError for a file of torch's that is cut short, or holds anything but tensors and plain values."""
    import torch
    from transformers.trainer_pt_utils import safe_globals

    for path in folder.rglob("*.pt*"):
        if not zipfile.is_zipfile(path):  # as all of torch's are
            raise ValueError(f"{path.name} is cut short, or not a file of torch")
    for path in (*folder.glob("*.pt"), *folder.glob("*.pth")):  # DeepSpeed and FSDP read those in folders
        try:
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # pickle's, torch's and zipfile's kinds
            raise ValueError(f"{path.name} is no state of torch: {one_line(error)[:100]}") from error


def _check_rounds(step: int, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    """Raises ValueError unless the rounds are those that the run's schedule has started after `step` steps."""
    if not isinstance(metadata["seconds"], int | float) or not 0 <= metadata["seconds"] < math.inf:
        raise ValueError(f"its seconds are {metadata['seconds']}")
    trainer = (metadata["identity"].get("config") or {}).get("trainer") or {}
    if "update_step" not in trainer:
        return
    schedule = Schedule.of(trainer)
    if step > schedule.total:
        raise ValueError(f"global_step={step} is beyond the {schedule.total} steps of its schedule")
    started = schedule.at(step - 1).index + 1
    lines, subsets = metadata["rounds"], [arrays[name] for name in sorted(arrays) if name.startswith("round_")]
    starts = [phase.start for phase in schedule.rounds()[:started]]
    if [(line["step"], line["rows"]) for line in lines] != list(zip(starts, map(len, subsets), strict=False)):
        raise ValueError(f"its {len(lines)} rounds are not the {started} of {step} steps")
