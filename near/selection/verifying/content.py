"""Whether the digests and copies of rows in a folder are of the pool's rows, as they are here."""

import json

import numpy as np
from omegaconf import DictConfig

from near.common.files import read_jsonl
from near.common.outputs import POOL_KEYS
from near.common.records import RowsRecord
from near.common.text import plural
from near.data.row_keys import content_digest
from near.data.rows import Rows
from near.selection.subset_files import COLUMNS, as_json, our_names, rows_of
from near.selection.verifying.checks import Check, failed, passed
from near.selection.verifying.folder import KEYS, SelectionFolder, read_array
from near.selection.verifying.rows import Matched

EXPORT = "exported rows"


def check_keys(part: str, record: RowsRecord | None, keys: np.ndarray | None, rows: Rows) -> list[Check]:
    """Whether a folder's hashes of rows are those of the same rows here; nothing without hashes, and of other rows,
    which are matched by them.

    Args:
        part: candidates or queries.
        record, keys: of the folder.
        rows: the data here.
    """
    if keys is None or record is None or record.fingerprint != rows.fingerprint:
        return []
    name, here = KEYS[part], rows.content_keys()
    if np.array_equal(keys, here):
        return []
    differing = f"{np.count_nonzero((keys != here).any(axis=1))} of " if keys.shape == here.shape else ""
    return [
        failed(name, f"it is not of these rows: {differing}{len(keys)} hashes differ from those of {len(here)} rows")
    ]


def check_content(
    folder: SelectionFolder, cfg: DictConfig, cache_dir: str, pool: Rows, of_pool: Matched
) -> list[Check]:
    """Whether the picked rows have the content that the manifest says, and subset.jsonl has these rows.

    Args:
        cfg: the configuration, with the data here.
        pool: the rows here; no id of the folder is outside of_pool.
    """
    ids = folder.subset()
    if ids is None:
        return []
    here = of_pool.here[ids]
    if (here < 0).any():
        return []  # the check of the pool names them
    checks = []
    digest = (folder.manifest.subset or {}).get("content") if folder.manifest is not None else None
    if digest is not None and content_digest(pool.content_keys(), here) != digest:
        checks.append(failed("content", f"the rows here have another digest than {digest[:12]}, that of {POOL_KEYS}"))
    elif digest is not None:
        checks.append(passed("content", f"{plural(len(ids), 'row')} here with that digest"))
    if not folder.is_run and (folder.path / "subset.jsonl").is_file():
        checks.append(_exported(folder, cfg, cache_dir, pool, ids, here))
    if not folder.is_run and (folder.path / "subset.parquet").is_file():
        checks.append(Check(EXPORT, "not checked", "subset.parquet is not compared with the pool; export=jsonl is"))
    return checks


def _exported(
    folder: SelectionFolder, cfg: DictConfig, cache_dir: str, pool: Rows, ids: np.ndarray, here: np.ndarray
) -> Check:
    """Compare subset.jsonl with the columns of the sources here. Its nearest_query and source are not compared, nor a
    score that is not the selector's."""
    lines = read_jsonl(folder.path / "subset.jsonl")
    if len(lines) != len(ids):
        return failed(EXPORT, f"subset.jsonl has {plural(len(lines), 'line')}, subset.npy {plural(len(ids), 'row')}")
    raw = rows_of(cfg.data, pool, here, cache_dir)
    ours = dict(zip(COLUMNS, our_names(raw), strict=True))
    path = folder.path / "subset_scores.npy"
    scores = read_array(path) if path.is_file() else np.full(len(ids), np.nan, dtype=np.float32)
    if scores.shape != ids.shape:
        return failed(EXPORT, f"subset_scores.npy is {scores.shape}, and there are {plural(len(ids), 'row')}")
    for at, (line, columns) in enumerate(zip(lines, raw, strict=True)):
        expected = {**json.loads(json.dumps(as_json(columns))), ours["row"]: int(ids[at]), ours["rank"]: at + 1}
        if np.isfinite(scores[at]):
            expected[ours["score"]] = float(scores[at])
        wrong = [name for name, value in expected.items() if name not in line or line[name] != value]
        wrong += [name for name in line if name not in expected and name not in ours.values()]
        if wrong:
            names = ", ".join(map(repr, wrong[:3]))
            return failed(EXPORT, f"line {at + 1} of subset.jsonl is not row {ids[at]} as its source has it: {names}")
    return passed(EXPORT, f"{plural(len(ids), 'line')} of subset.jsonl with the columns of the source")
