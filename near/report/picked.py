"""The rows of a selection as its files have them: a folder of select.py, a run, or an array of ids of one of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from near.common.errors import UserError
from near.common.records import WARMUP
from near.common.run_folder import ROUNDS
from near.searching.neighbours import first_columns, read_matrix
from near.selection.selectors.near import walk
from near.selection.verifying.folder import SelectionFolder, distinct, read_array, read_ids


@dataclass(frozen=True)
class Picked:
    """Attributes:
    name: as it was typed.
    what: a few words on it.
    folder: that it is in.
    ids: int64 (m,), distinct rows of its pool in the selector's order.
    scores: float32 (m,), the selector's, or similarities of a matrix; NaN for a row without one; None: it has none.
    """

    name: str
    what: str
    folder: SelectionFolder
    ids: np.ndarray
    scores: np.ndarray | None

    @property
    def fingerprint(self) -> str | None:
        """Of its pool."""
        record = self.folder.record("candidates")
        return None if record is None else record.fingerprint

    @property
    def places(self) -> dict[int, int]:
        """The place of each row in the selector's order, from 1."""
        return {row: place for place, row in enumerate(self.ids.tolist(), 1)}

    @classmethod
    def of(cls, name: str) -> "Picked":
        """Read it. UserError for another file, or one that is missing or damaged."""
        path = Path(name)
        if path.is_dir():
            folder = SelectionFolder.of(path)
            return _of_run(name, folder) if folder.is_run else _of_selection(name, folder)
        if path.suffix != ".npy" or not path.is_file():
            raise UserError(
                f"{name}: no such folder or .npy file; name a folder of select.py or train.py, or ids in one"
            )
        if path.parent.name == ROUNDS:
            scores = path.with_name(f"{path.stem}_scores.npy")
            return _of_ids(name, SelectionFolder.of(path.parent.parent), "a round", path, scores)
        return _of_ids(
            name, SelectionFolder.of(path.parent), "a subset", path, path.with_name(f"{path.stem}_scores.npy")
        )


def _of_ids(name: str, folder: SelectionFolder, what: str, path: Path, scores: Path) -> Picked:
    ids = read_ids(path)
    once = distinct([ids])
    values = read_array(scores) if scores.is_file() else None
    if values is not None and values.shape != ids.shape:
        raise UserError(f"{scores} has {values.shape} scores for {len(ids)} rows; name a folder that is whole")
    return Picked(name, what, folder, once, values if len(once) == len(ids) else None)


def _of_selection(name: str, folder: SelectionFolder) -> Picked:
    path = folder.path / "subset.npy"
    if path.is_file():
        selector = (folder.manifest.subset or {}).get("selector")
        target = selector.get("_target_") if isinstance(selector, dict) else None
        what = f"by selector {str(target).rpartition('.')[2]}" if target else "a subset"
        return _of_ids(name, folder, what, path, folder.path / "subset_scores.npy")
    neighbours = read_matrix(folder.path)
    neighbours = first_columns(neighbours, neighbours.ids.shape[1])
    rows = int(neighbours.ids.max(initial=-1)) + 1
    ids, scores = walk(neighbours, rows)
    return Picked(name, f"the {neighbours.ids.shape[1]} nearest of {len(neighbours.ids)} queries", folder, ids, scores)


def _of_run(name: str, folder: SelectionFolder) -> Picked:
    """All rounds without warm-ups; a row's score is its highest."""
    lines = [line for line in folder.rounds if line.selector != WARMUP]
    parts = [read_ids(folder.run.round_file(line.round)) for line in lines]
    ids, best = distinct(parts), {}
    for line, rows in zip(lines, parts, strict=True):
        scores = folder.run.round_ids(line.round, "scores")
        for row, score in zip(rows.tolist(), [] if scores is None else scores.tolist(), strict=False):
            best[row] = max(score, best.get(row, score))
    values = np.array([best.get(row, np.nan) for row in ids.tolist()], dtype=np.float32) if best else None
    selectors = ", ".join(dict.fromkeys(line.selector for line in lines))
    return Picked(name, f"{len(lines)} rounds by {selectors}", folder, ids, values)
