"""Data sets of a DataFlex or LLaMA-Factory file: entries of dataset_info.json as pool, target and evaluation set."""

import json
import math
from pathlib import Path

from near.dataflex.file import File
from near.dataset_info import read_entries
from near.errors import UserError, did_you_mean

SHOWN = 100  # rows of the pool that are evaluated on where a file names no others


def data(file: File, targeted: bool) -> int | None:
    """The data's overrides; how many rows the pool has, where that can be counted. `targeted`: the selector looks at a
    target, which the evaluation set then is.

    Raises UserError for a data set that is not named, or not in dataset_info.json.
    """
    if file.typed_value("data") is not None:
        for key in ("dataset", "dataset_dir", "eval_dataset", "val_size", "max_samples"):
            file.take(key)
    else:
        file.put("data", "files")
    file.put("data.cutoff_len", file.number("cutoff_len", 2048, 2))
    if file.take("preprocessing_num_workers") is not None:
        file.put("data.num_proc", file.number("preprocessing_num_workers", 1, 1))
    if file.take("overwrite_cache"):
        file.put("data.refresh", True)
    return None if file.typed_value("data") is not None else _sets(file, targeted)


def _sets(file: File, targeted: bool) -> int | None:
    pool, asked = file.names("dataset"), file.names("eval_dataset")
    limit = None if file.take("max_samples") is None else file.whole("max_samples", 1, 1)
    if not pool and file.typed_value("data.candidates.path") is None:
        raise UserError(f"{file.path}: dataset is missing; name an entry of dataset_info.json, or type data=...")
    info = _info(file) if pool or asked else None
    part = "queries" if targeted else "eval"
    _source(file, "candidates", pool, info, limit, "dataset")
    counted = [_rows(info, name, limit) for name in pool]
    rows = None if None in counted or not pool else sum(counted)
    if asked:
        _source(file, part, asked, info, limit, "eval_dataset")
        if set(asked) & set(pool):
            file.put("data.leakage", "keep")
            file.said.append("a data set is both trained and evaluated on: data.leakage=keep")
    elif share := file.take("val_size"):
        _held_out(file, part, pool, info, rows, share)
    elif not targeted and pool and file.typed_value("data.eval.path") is None:
        _source(file, part, pool, info, math.ceil(SHOWN / len(pool)), "dataset")
        file.put("data.leakage", "keep")
        file.said.append(
            f"no eval_dataset: the target loss is taken on the first {SHOWN} rows of the pool, which training may see"
        )
    elif targeted and file.typed_value("data.queries.path") is None:
        raise UserError(
            f"{file.path}: eval_dataset is missing, the target that rows are selected by; name it, or type "
            "data.queries.path=..."
        )
    file.take("val_size")
    return rows


def _held_out(file: File, part: str, pool: list[str], info: Path | None, rows: int | None, share: object) -> None:
    """`val_size`: the first rows as a set of their own, which data.leakage then leaves out of the pool."""
    if not isinstance(share, int | float) or isinstance(share, bool) or share < 0 or share < 1 and rows is None:
        file.skip("val_size", "the rows can't be counted here; give a number of rows, or eval_dataset")
        return
    count = math.ceil((share if share >= 1 else share * rows) / max(1, len(pool)))
    _source(file, part, pool, info, count, "dataset")
    file.said.append(f"val_size={share}: the first {count} rows of each data set, in place of random ones")


def _info(file: File) -> Path | None:
    """The dataset_info.json; None where data sets are named by their hub ids."""
    folder = str(file.take("dataset_dir", "data"))
    if folder == "ONLINE":
        return None
    path = file.found(f"{folder}/dataset_info.json")
    if path is None:
        raise UserError(
            f"{file.path}: dataset_dir={folder} holds no dataset_info.json, neither here nor above the file; "
            "run in the folder it is relative to, or mend dataset_dir"
        )
    return Path(path)


def _source(file: File, part: str, names: list[str], info: Path | None, limit: int | None, key: str) -> None:
    """`data.<part>` as the entries `names`; nothing where another path was typed for it."""
    if not names or file.typed_value(f"data.{part}.path") is not None:
        return
    entries = {} if info is None else read_entries(info, "dataset_info.json")
    if info is None:
        file.put(f"data.{part}.split", "train")
    else:
        for name in names:
            if name not in entries:
                raise UserError(f"{file.path}: {key}={name} is no entry of {info}{did_you_mean(name, entries)}")
        file.put(f"data.{part}.dataset_info", str(info))
    file.put(f"data.{part}.path", names[0] if len(names) == 1 else names)
    if limit is not None:
        file.put(f"data.{part}.limit", limit)


def _rows(info: Path | None, name: str, limit: int | None) -> int | None:
    """How many rows an entry has; None where that takes more than reading a JSON file."""
    entry = {} if info is None else read_entries(info, "dataset_info.json").get(name, {})
    path = Path(entry["file_name"]) if "file_name" in entry else None
    path = None if path is None else info.parent / path
    try:
        if path is None or not path.is_file():
            return None
        if path.suffix == ".json":
            count = len(json.loads(path.read_text(encoding="utf-8-sig")))
        elif path.suffix == ".jsonl":
            with open(path, "rb") as lines:
                count = sum(bool(line.strip()) for line in lines)
        else:
            return None
    except (OSError, ValueError, TypeError):  # whoever loads it says what is wrong
        return None
    return count if limit is None else min(count, limit)
