"""`Neighbours`, every query's nearest rows, and the files that hold them: read, checked, cut to max_K."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from near.common.errors import UserError
from near.common.files import file_digest
from near.common.records import SelectionManifest
from near.common.text import plural
from near.data.rows import Rows

SCHEMA_VERSION = SelectionManifest.schema_version


@dataclass(frozen=True)
class Neighbours:
    """Every query's nearest rows of the pool, with the scores.

    Attributes:
        ids: int64 (n_queries, max_K), rows of the pool, best first, ties by lower id.
        scores: float32 (n_queries, max_K), cosine similarities, or BM25 scores.
        manifest: what the matrix was made from, and figures of the search.
        typical: float32 (n_queries,), each query's similarity with just any row (find.typical_scores).
        scales: of BM25 scores, float32 (n_queries,): what no row can reach for each query; None: scores are cosines.
        cached: nothing had to be searched.
    """

    ids: np.ndarray
    scores: np.ndarray
    manifest: SelectionManifest
    typical: np.ndarray | None = None
    scales: np.ndarray | None = None
    cached: bool = False

    @property
    def similarities(self) -> np.ndarray:
        """Scores in units that are the same for all queries, at most 1, float32 (n_queries, max_K): cosines, or BM25
        scores as shares of what the query's words can give."""
        if self.scales is None:
            return self.scores
        return self.scores / np.where(self.scales > 0, self.scales, 1)[:, None]

    def of_queries(self, positions: np.ndarray) -> "Neighbours":
        """The rows of the matrix at `positions`, int64 (m,)."""
        parts = {name: getattr(self, name) for name in ("ids", "scores", "typical", "scales")}
        parts = {name: part[positions] for name, part in parts.items() if part is not None}
        return dataclasses.replace(self, **parts)


FILES = ("top_indices.npy", "top_scores.npy", "typical_scores.npy", "query_scales.npy")  # of a matrix


def matrix_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a matrix's files."""
    return {name: file_digest(folder / name) for name in FILES if (folder / name).is_file()}


def read_neighbours(path: str | Path, candidates: Rows, queries: Rows, max_K: int | None) -> Neighbours:
    """The first columns of a matrix that select.py wrote (`indices_path`).

    Args:
        path: its top_indices.npy, or the folder of it.
        candidates: the pool that it must have been made for.
        queries: the queries that it must have been made for.
        max_K: columns to take; None: all.

    Raises:
        UserError: files are missing or damaged, the data differ, or the matrix is too narrow.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.name not in ("top_indices.npy", folder.name):
        raise UserError(f"indices_path={path}: give the top_indices.npy that select.py wrote, or its folder")
    for name in ("top_indices.npy", "top_scores.npy", "manifest.json"):
        if not (folder / name).is_file():
            raise UserError(f"indices_path={path}: no {name} in {folder}; give a top_indices.npy that select.py wrote")
    neighbours = read_matrix(folder)
    for name, rows in (("candidates", candidates), ("queries", queries)):
        source = getattr(neighbours.manifest, name)
        if source is None:
            raise UserError(f"{folder / 'manifest.json'} does not say which {name} it was made for; select again")
        if source.fingerprint != rows.fingerprint:
            raise UserError(
                f"indices_path={path} was made for other {name} ({str(source.fingerprint)[:12]}, "
                f"{plural(source.rows, 'row')}) than data.{name} ({rows.fingerprint[:12]}, "
                f"{plural(len(rows), 'row')}); run select.py on these"
            )
    width = neighbours.ids.shape[1]
    max_K = width if max_K is None else max_K
    if width < max_K:
        raise UserError(
            f"indices_path={path} holds {plural(width, 'neighbour')} a query, fewer than max_K={max_K}; use "
            f"max_K<={width}"
        )
    if neighbours.ids.max() >= len(candidates):
        raise UserError(f"indices_path={path} names row {neighbours.ids.max()} of {len(candidates)}; select again")
    return first_columns(neighbours, max_K)


def first_columns(neighbours: Neighbours, max_K: int) -> Neighbours:
    """Each query's first `max_K` neighbours, copied from the memory-mapped files."""
    parts = (np.array(a[:, :max_K]) for a in (neighbours.ids, neighbours.scores))
    return dataclasses.replace(neighbours, **dict(zip(("ids", "scores"), parts, strict=True)))


def read_matrix(folder: Path) -> Neighbours:
    try:
        ids, scores = (np.load(folder / f"top_{name}.npy", "r", allow_pickle=False) for name in ("indices", "scores"))
        typical, scales = (
            np.load(path, allow_pickle=False) if (path := folder / f"{name}.npy").is_file() else None
            for name in ("typical_scores", "query_scales")
        )
        manifest = SelectionManifest.read(folder / "manifest.json")
        digests = matrix_digests(folder)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"the selection in {folder} is damaged ({error}); delete the folder and select again"
        ) from error
    if not isinstance(manifest.sha256, dict) or not digests.keys() <= manifest.sha256.keys():
        raise UserError(f"{folder / 'manifest.json'} holds no digests of its files; select again")
    if any(digests.get(n) != d for n, d in manifest.sha256.items() if n in FILES):
        raise UserError(f"the selection in {folder} is damaged (its bytes changed); delete the folder and select again")
    if manifest.schema_version != SCHEMA_VERSION:
        raise UserError(f"{folder / 'manifest.json'} has schema {manifest.schema_version}; select again")
    if ids.dtype != np.int64 or ids.ndim != 2 or ids.shape != scores.shape or ids.size and ids.min() < 0:
        raise UserError(
            f"{folder / 'top_indices.npy'} is no int64 matrix of row ids of the scores' shape; select again"
        )
    if scores.dtype.kind != "f" or not all(map(_is_ranked, *_blocks(ids, scores))):
        raise UserError(
            f"{folder / 'top_scores.npy'} has scores that are not finite, or a row of {folder / 'top_indices.npy'} "
            "holds an id twice; select again"
        )
    return Neighbours(ids, scores, manifest, typical, scales)


def _blocks(*arrays: np.ndarray) -> list[list[np.ndarray]]:
    """Each array cut into blocks of rows that fit into memory easily."""
    rows = max(1, (1 << 22) // max(1, arrays[0].shape[1]))
    return [[array[i : i + rows] for i in range(0, len(array), rows)] for array in arrays]


def _is_ranked(ids: np.ndarray, scores: np.ndarray) -> bool:
    """Whether scores are finite and no query has an id twice."""
    ordered = np.sort(ids, axis=1)
    return bool(np.isfinite(scores).all() and (ordered[:, 1:] != ordered[:, :-1]).all())
