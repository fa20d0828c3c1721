"""What a run must not lose: arrays, and what is told of them, in one file that is whole or not there."""

import json
import zipfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from near.errors import UserError, one_line
from near.files import aside

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


def read_checkpoint(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """What a checkpoint holds of ours; UserError where that, or a file of the Trainer's, is missing or cut short."""
    try:
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, framework="numpy"):
                pass
        cut = [path.name for path in folder.rglob("*.pt*") if not zipfile.is_zipfile(path)]  # torch's are zip files
        if cut:
            raise ValueError(f"{cut[0]} is cut short")
        arrays, told = read_state(folder / STATE)
        processes = told["identity"].get("processes", 1)
        for rank in range(processes if processes > 1 else 0):  # each writes its own, and none waits for the others
            if not (folder / f"rng_state_{rank}.pth").exists():
                raise ValueError(f"rng_state_{rank}.pth is missing")
        return arrays, told
    except (OSError, ValueError, SafetensorError, UserError) as error:
        raise UserError(f"{folder} is not whole ({one_line(error)}); use another one") from error
