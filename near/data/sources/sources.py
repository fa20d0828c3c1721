"""Opens what a source's path names: local files, saved data sets and data sets of a hub."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
from omegaconf import DictConfig

from near.common.errors import UserError, as_user_error, one_line, reading
from near.common.files import file_digest, folder_digest, read_json, refuse_special, refuse_special_in
from near.data.builtin.assets import resolve
from near.data.sources.paths import absence
from near.data.sources.readers import ARROW_ERRORS, Choose, Kind, Raw, chosen_columns, kinds_shown, read_rows, types_of


@dataclass(frozen=True)
class Opened:
    """One file or data set, opened."""

    path: str
    label: str
    content: object  # a key of its content
    rows: Callable[..., Iterator[Raw]]  # rows(choose: Choose | None = None)
    types: Callable[[], dict[str, pa.DataType]]  # column types; {} if the format declares none


def open_sources(source: DictConfig, where: str, cache_dir: str) -> list[Opened]:
    """Open what `source.path` names, in order: a path, a list of paths, or a mapping of labels to paths; globs, too.

    Raises UserError for a missing path and for a file of an unknown kind.
    """
    named = source.path
    if isinstance(named, str):
        named = [named]
    pairs = list(named.items()) if hasattr(named, "items") else [(None, path) for path in named]
    opened = []
    for label, path in pairs:
        if not isinstance(path, str) or not path:
            raise UserError(f"{where}.path: {path!r} is not a path; give a path, a list of paths or {{label: path}}")
        for matched in _matches(path, where):
            opened.append(_open(matched, str(label) if label else None, source, where, cache_dir))
    if not opened:
        raise UserError(f"{where}.path={source.path} names no file; give at least one")
    return opened


def _matches(path: str, where: str) -> list[str]:
    """The files of a glob, sorted; `path` itself if it is no glob, or if a file has that very name."""
    if not any(c in path for c in "*?[") or Path(path).expanduser().exists():
        return [path]
    pattern = Path(path).expanduser()
    files = sorted(str(p) for p in Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor))))
    if not files:
        raise UserError(f"{where}.path={path}: no file matches; change the pattern")
    return files


def _open(path: str, label: str | None, source: DictConfig, where: str, cache_dir: str) -> Opened:
    local = Path(resolve(path, cache_dir)).expanduser()
    refuse_special(local, f"{where}.path")
    label = label or source.get("label") or local.name.split(".")[0]
    key = None if source.get("key") is None else str(source.key)
    if local.is_file():
        kind = Kind.of(local.name)
        if kind is None:
            raise UserError(f"{where}.path={path}: files can be {kinds_shown()}; name one of these")
        if source.split is not None or source.name is not None:
            raise UserError(f"{where}: a file has no name or split; leave {where}.name and {where}.split null")
        if key is not None and kind.ending != ".json":
            raise _keyless(where, key, path)
        content = [kind.ending, kind.packing, file_digest(local), key]
        return Opened(
            path,
            label,
            content,
            lambda choose=None: read_rows(local, kind, key, choose, f"{where}.key"),
            lambda: types_of(local, kind),
        )
    if key is not None:
        raise _keyless(where, key, path)
    if local.is_dir():
        return _folder(local, path, label, source.split, where)
    if absent := absence(path):
        raise UserError(f"{where}.path={path}: {absent}")
    data = _hub(path, source, where)
    return _data_set(data, path, label, data._fingerprint)


def _keyless(where: str, key: str, path: str) -> UserError:
    return UserError(f"{where}.key={key}: only .json files have rows under a key, {path} is not one; leave it null")


def _data_set(data: datasets.Dataset, path: str, label: str, content: object) -> Opened:
    def types() -> dict[str, pa.DataType]:
        return dict(zip(data.data.schema.names, data.data.schema.types, strict=True))

    return Opened(path, label, content, lambda choose=None: _rows(data, path, choose), types)


def _folder(local: Path, path: str, label: str, split: str | None, where: str) -> Opened:
    """A data set that `datasets` saved to disk, or one split of it."""
    refuse_special_in(local, f"{where}.path")
    if (local / "dataset_dict.json").is_file():
        splits = read_json(local / "dataset_dict.json").get("splits", [])
        if split not in splits:
            raise UserError(f"{where}.split={split}: {path} has the splits {', '.join(splits)}; name one of them")
        local = local / split
    elif split is not None:
        raise UserError(f"{where}.split={split}: {path} has no splits; leave {where}.split null")
    if not (local / "state.json").is_file():
        raise UserError(
            f"{where}.path={path} is a folder without a saved data set; name a file in it ({kinds_shown()}), "
            f"or a glob such as {path.rstrip('/')}/*.jsonl"
        )
    with reading(f"{where}.path={path}: the saved data set"):
        data = datasets.load_from_disk(str(local))
    return _data_set(data, path, label, folder_digest(local))


def _hub(path: str, source: DictConfig, where: str) -> datasets.Dataset:
    try:
        folder = {"data_dir": source.folder} if source.get("folder") else {}
        data = datasets.load_dataset(path, source.name, split=source.split, revision=source.revision, **folder)
    except (OSError, ValueError, KeyError) as error:
        line = one_line(error)[:200]
        if source.split is not None and "split" in line.lower():
            raise UserError(f"{where}.split={source.split}: {line}; name a split of the data set") from error
        raise UserError(
            f"{where}.path={path} is neither a local file nor a data set on the hub ({line}); "
            "without access to a hub use data=demo, or data=files with your files"
        ) from error
    if isinstance(data, dict):
        if len(data) != 1:
            raise UserError(f"{where}.split is missing: set it to one of {', '.join(data)}")
        data = next(iter(data.values()))
    return data


def _rows(data: datasets.Dataset, path: str, choose: Choose | None) -> Iterator[Raw]:
    with as_user_error(ARROW_ERRORS, f"{path} is damaged", "get or save it again"):
        for i, row in enumerate(data.select_columns(chosen_columns(data.column_names, choose, path))):
            yield f"row {i}", row
