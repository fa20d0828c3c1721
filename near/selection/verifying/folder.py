"""A selection that was handed on: the output folder of select.py, or a run of train.py. Whoever wrote it is not
trusted: its configuration executes nothing (near/common/foreign.py), and arrays are read without pickle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError, as_user_error
from near.common.foreign import config_within
from near.common.outputs import POOL_KEYS, QUERY_KEYS
from near.common.records import WARMUP, RoundRecord, RowsRecord, SelectionManifest
from near.common.run_folder import LINES, ROUNDS, RunFolder
from near.selection.verifying.manifest import check_manifest, check_rounds

MANIFEST = "manifest.json"
KEYS = {"candidates": POOL_KEYS, "queries": QUERY_KEYS}


@dataclass(frozen=True)
class SelectionFolder:
    """Attributes:
    path: the folder.
    manifest: of select.py; of a run only where `near manifest` wrote one, else None.
    rounds: of a run; None: it is a folder of select.py.
    """

    path: Path
    manifest: SelectionManifest | None
    rounds: list[RoundRecord] | None

    @classmethod
    def of(cls, path: Path) -> "SelectionFolder":
        """Read manifest.json or rounds.jsonl. UserError if there is neither, or one is damaged."""
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; name an output folder of select.py or train.py")
        file, run = path / MANIFEST, RunFolder(path)
        manifest = SelectionManifest.read(file) if file.is_file() else None
        if manifest is not None:
            check_manifest(file, manifest)
        if (path / ROUNDS / LINES).is_file() and run.has_config:
            rounds = run.rounds
            check_rounds(path / ROUNDS / LINES, rounds)
            selects = manifest is not None and manifest.key is not None  # select.py wrote it into the run's folder
            return cls(path, None if selects else manifest, rounds)
        if manifest is None:
            raise UserError(
                f"{path} has no {MANIFEST} of select.py and no {ROUNDS}/{LINES} of train.py; name a folder of "
                "one of them"
            )
        return cls(path, manifest, None)

    @property
    def is_run(self) -> bool:
        return self.rounds is not None

    def check_single(self) -> None:
        """UserError if it holds a run and the manifest of a selection, which says nothing of the run's files."""
        if self.is_run and self.manifest is None and (self.path / MANIFEST).is_file():
            raise UserError(
                f"{self.path} is a run, and its {MANIFEST} is of a selection by select.py, which vouches for none of "
                "the run's files; move that selection to another folder"
            )

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def has_matrix(self) -> bool:
        return not self.is_run and (self.path / "top_indices.npy").is_file()

    def config(self, allow_targets: object = None) -> DictConfig:
        """Its configuration, without values that execute code. UserError if there is none or it is damaged."""
        if self.is_run:
            return self.run.config(allow_targets, retyped=True)
        if not isinstance(self.manifest.config, dict):
            raise UserError(f"{self.path / MANIFEST} has no configuration; select again")
        return config_within(self.path / MANIFEST, self.manifest.config, allow_targets)

    def record(self, part: str) -> RowsRecord | None:
        """What it was made from. `part`: candidates, queries, or of a run eval."""
        if not self.is_run:
            return getattr(self.manifest, part, None)
        fingerprint = self.run.training.identity.fingerprints.get(part)
        return None if fingerprint is None else RowsRecord(fingerprint=fingerprint)

    def keys(self, part: str) -> np.ndarray | None:
        """The hash of every row's content, uint64 (n, 2), memory-mapped; None if the folder has none."""
        name = KEYS.get(part)
        if name is None or self.is_run and part != "candidates":
            return None
        path = self.path / ROUNDS / name if self.is_run else self.path / name
        if not path.is_file():
            return None
        keys = read_array(path, mapped=True)
        if keys.dtype != np.uint64 or keys.ndim != 2 or keys.shape[1] != 2:
            raise UserError(f"{path} is no uint64 matrix (rows, 2); select again")
        return keys

    def subset(self) -> np.ndarray | None:
        """The rows that were picked: int64 (m,), distinct, in the order of selection; of a run over all its rounds
        without warm-ups; None for a folder of select.py with a matrix alone."""
        if not self.is_run:
            path = self.path / "subset.npy"
            return read_ids(path) if path.is_file() else None
        picked = [line.round for line in self.rounds if line.selector != WARMUP]
        return distinct([read_ids(self.run.round_file(index)) for index in picked])

    def named(self) -> np.ndarray:
        """All rows that its files name, int64 ascending."""
        parts = [np.empty(0, dtype=np.int64)]
        if self.has_matrix:
            parts.append(np.unique(read_array(self.path / "top_indices.npy", mapped=True)))
        if self.is_run:
            parts += [read_ids(self.run.round_file(line.round)) for line in self.rounds]
        elif (subset := self.subset()) is not None:
            parts.append(subset)
        return np.unique(np.concatenate(parts))


def read_array(path: Path, mapped: bool = False) -> np.ndarray:
    """An .npy file without objects. UserError if it is missing or damaged."""
    with as_user_error((OSError, ValueError, EOFError), f"{path} can't be read", "name a folder that is whole"):
        return np.load(path, "r" if mapped else None, allow_pickle=False)


def read_ids(path: Path) -> np.ndarray:
    """Row ids of a file, int64 (m,). UserError if it holds anything else."""
    ids = read_array(path)
    if ids.dtype != np.int64 or ids.ndim != 1 or len(ids) and ids.min() < 0:
        raise UserError(f"{path} is no int64 array of row ids; name a folder that is whole")
    return ids


def distinct(parts: list[np.ndarray]) -> np.ndarray:
    """The ids of all parts, each once, in the order of their first appearance, int64 (m,)."""
    ids = np.concatenate([np.empty(0, dtype=np.int64), *parts])
    _, first = np.unique(ids, return_index=True)
    return ids[np.sort(first)]
