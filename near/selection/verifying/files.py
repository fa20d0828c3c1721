"""Whether a folder's files are those that its manifest and its rounds name, and fit each other."""

from pathlib import Path

import numpy as np

from near.common.errors import UserError, one_line, visible
from near.common.files import file_digest
from near.common.outputs import results
from near.common.run_folder import LINES, ROUNDS
from near.common.text import plural
from near.data.row_keys import content_digest
from near.selection.verifying.checks import Check, failed, impossible, passed
from near.selection.verifying.folder import MANIFEST, SelectionFolder, read_array, read_ids

BLOCK = 1 << 22  # numbers of a matrix that are read at a time


def check_files(folder: SelectionFolder) -> list[Check]:
    """Digests of files, and whether their contents fit each other. Reads the folder alone."""
    checks = [_digests(folder)]
    if folder.is_run:
        checks.append(_rounds(folder))
    for name, part in (("matrix", _matrix), ("subset", _subset)):
        try:
            checks += part(folder)
        except UserError as error:
            checks.append(failed(name, one_line(error)))
    return checks


def digests_of(folder: SelectionFolder) -> dict[str, str]:
    """The digests that the folder names, by the file's path relative to it."""
    digests = dict(folder.manifest.sha256 or {}) if folder.manifest is not None else {}
    for line in folder.rounds or ():
        digests |= {f"{ROUNDS}/{name}": digest for name, digest in (line.sha256 or {}).items()}
    return digests


def _digests(folder: SelectionFolder) -> Check:
    digests, wrong = digests_of(folder), []
    for name, digest in digests.items():
        path = folder.path / name
        if not _is_within(path, folder.path):
            wrong.append(f"{name} is not in the folder")
        elif not path.is_file():
            wrong.append(f"{name} is missing")
        elif (now := file_digest(path)) != digest:
            wrong.append(f"{name} has SHA-256 {now[:12]} instead of {str(digest)[:12]}")
    if not digests:
        return impossible("files", f"{folder.path} names no digests: an earlier version of near wrote it")
    bare = [name for name in _results(folder) if name not in digests]
    wrong += [f"{visible(name)} has no digest in {_source(folder)}" for name in bare]
    if wrong:
        count = plural(len(digests) + len(bare), "file")
        return failed("files", f"{len(wrong)} of {count} differ: {'; '.join(wrong[:5])}")
    hint = "" if folder.manifest is not None else f"; near manifest {folder.path} covers the others"
    return passed("files", f"{plural(len(digests), 'file')} with the SHA-256 in {_source(folder)}{hint}")


def _source(folder: SelectionFolder) -> str:
    return MANIFEST if folder.manifest is not None else f"{ROUNDS}/{LINES}"


def _results(folder: SelectionFolder) -> list[str]:
    """The files that must have a digest, relative to the folder."""
    if folder.manifest is not None:
        return results(folder.path)
    return sorted(f"{ROUNDS}/{path.name}" for path in (folder.path / ROUNDS).glob("[0-9]*.npy"))


def _is_within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _rounds(folder: SelectionFolder) -> Check:
    """Whether every round's draws are of its subset, and as many as its line says."""
    draws = 0
    for line in folder.rounds:
        name = f"round {line.round}"
        try:
            ids = read_ids(folder.run.round_file(line.round))
            order = folder.run.round_ids(line.round, "order")
        except UserError as error:
            return failed("rounds", one_line(error))
        if len(ids) != line.rows or len(np.unique(ids)) != len(ids):
            return failed(
                "rounds", f"{name} has {len(np.unique(ids))} distinct rows in its file, {line.rows} in its line"
            )
        if order is None:
            continue
        if len(order) != line.draws or len(np.setdiff1d(order, ids)):
            return failed("rounds", f"{name} has draws that are not the {line.draws} of its {line.rows} rows")
        draws += len(order)
    return passed(
        "rounds", f"{plural(len(folder.rounds), 'round')}, {plural(draws, 'draw')}, each of a row of its subset"
    )


def _matrix(folder: SelectionFolder) -> list[Check]:
    """Whether the matrix's arrays fit each other and the pool, and are ranked as near ranks: scores descend, ties by
    lower id, no row twice for a query."""
    if not folder.has_matrix:
        return []
    ids, scores = (read_array(folder.path / f"top_{name}.npy", mapped=True) for name in ("indices", "scores"))
    if (
        ids.dtype != np.int64
        or ids.ndim != 2
        or 0 in ids.shape
        or ids.shape != scores.shape
        or scores.dtype != np.float32
    ):
        return [failed("matrix", f"{ids.dtype} {ids.shape} ids and {scores.dtype} {scores.shape} scores don't fit")]
    rows = (folder.manifest.candidates and folder.manifest.candidates.rows) or np.iinfo(np.int64).max
    values: list[Check] = []
    order: list[Check] = []
    step = max(1, BLOCK // max(1, ids.shape[1]))
    for start in range(0, len(ids), step):
        block, of_block = np.asarray(ids[start : start + step]), np.asarray(scores[start : start + step])
        values += _first(
            "matrix",
            start,
            {
                "a score that is not finite": ~np.isfinite(of_block),
                f"a row outside the {rows} of its pool": (block < 0) | (block >= rows),
            },
        )
        equal = of_block[:, 1:] == of_block[:, :-1]
        order += _first(
            "ranking",
            start,
            {
                "scores that do not descend": of_block[:, 1:] > of_block[:, :-1],
                "a row twice": np.diff(np.sort(block, axis=1), axis=1) == 0,
                "equal scores that are not by lower id": equal & (block[:, 1:] < block[:, :-1]),
            },
        )
    shape = f"{len(ids)} x {ids.shape[1]} neighbours"
    return (values or [passed("matrix", shape)])[:1] + (order or [passed("ranking", "by score, ties by lower id")])[:1]


def _first(name: str, start: int, faults: dict[str, np.ndarray]) -> list[Check]:
    """The first fault of a block of queries from `start` on. faults: bool (n_queries, m), by what is wrong."""
    where = {fault: at.any(axis=1) for fault, at in faults.items()}
    return [failed(name, f"query {start + int(at.argmax())} has {fault}") for fault, at in where.items() if at.any()][
        :1
    ]


def _subset(folder: SelectionFolder) -> list[Check]:
    """Whether the picked rows are as many as the manifest says, and have the content that it says."""
    described = None if folder.manifest is None else folder.manifest.subset
    ids, keys = folder.subset(), folder.keys("candidates")
    if not isinstance(described, dict):
        undescribed = ids is not None and not folder.is_run
        return [failed("subset", "subset.npy is there, and the manifest does not describe it")] if undescribed else []
    if ids is None:
        return [failed("subset", "subset.npy is missing, and the manifest describes it")]
    if len(ids) != described.get("rows") or len(np.unique(ids)) != len(ids):
        return [failed("subset", f"{len(np.unique(ids))} distinct rows, {described.get('rows')} in the manifest")]
    if keys is None or described.get("content") is None:
        return [passed("subset", f"{plural(len(ids), 'row')}; the folder has no digest of their content")]
    if len(ids) and ids.max() >= len(keys):
        return [failed("subset", f"row {ids.max()} is outside the {len(keys)} of its pool")]
    digest = content_digest(keys, ids)
    if digest != described["content"]:
        return [
            failed("subset", f"the content of its rows has digest {digest[:12]} instead of {described['content'][:12]}")
        ]
    return [passed("subset", f"{plural(len(ids), 'row')} with content digest {digest[:12]}")]
