"""Entries of a LLaMA-Factory dataset_info.json: `data.candidates.dataset_info=FILE data.candidates.path=NAME`."""

import json
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from near.errors import UserError, did_you_mean, one_line

# its column names, ours; its own defaults are LLaMA-Factory's (data/README.md there)
COLUMNS = {
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "system": "system",
        "history": "history",
    },
    "sharegpt": {"messages": "conversations", "system": "system"},
}
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag")
# Columns that change what a row means and that nothing here reads yet.
UNREAD = ("chosen", "rejected", "kto_tag", "images", "videos", "audios")


def from_dataset_info(source: DictConfig, where: str) -> list[DictConfig]:
    """`source` with what its entry says, one for each entry where it names several (a limit is each one's own);
    `source` itself where it names no dataset_info.

    Raises UserError for a file or entry that is not there, and for an entry of a kind that is not supported.
    """
    if source.dataset_info is None:
        return [source]
    file = Path(source.dataset_info)
    entries = read_entries(file, f"{where}.dataset_info")
    several = isinstance(source.path, ListConfig)
    return [
        _entry(source, where, file, entries, str(name), several) for name in (source.path if several else [source.path])
    ]


def read_entries(file: Path, where: str) -> dict:
    """The entries of a dataset_info.json by name; UserError where it can't be read."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}={file} can't be read ({one_line(error)})") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{where}={file} holds no entries by name")
    return entries


def _entry(source: DictConfig, where: str, file: Path, entries: dict, name: str, labelled: bool) -> DictConfig:
    if name not in entries:
        raise UserError(f"{where}.path={name} is no entry of {file}{did_you_mean(name, entries)}")
    entry = entries[name]
    form, named = entry.get("formatting", "alpaca"), entry.get("columns", {})
    if form not in COLUMNS or entry.get("ranking") or any(c in named for c in UNREAD):
        raise UserError(f"{where}: entry {name} of {file} is of a kind that is not supported (formatting {form})")
    columns = {ours: named[theirs] for theirs, ours in COLUMNS[form].items() if named.get(theirs)}
    path = _path(entry, file, where, name)
    said = {
        "path": {name: path} if labelled else path,
        "name": entry.get("subset"),
        "split": entry.get("split", "train") if "file_name" not in entry else None,
        "format": form,
        "columns": columns,
        "tags": {tag: entry["tags"][tag] for tag in TAGS if tag in entry.get("tags", {})} or None,
        "limit": source.limit or entry.get("num_samples"),
    }
    own = {key: value for key, value in (source.columns or {}).items() if value is not None}
    return OmegaConf.merge({**source, "path": None}, said, {"columns": own})


def _path(entry: dict, file: Path, where: str, name: str) -> str:
    if "file_name" in entry:
        path = file.parent / entry["file_name"]
        return str(path / "*.json*") if path.is_dir() else str(path)
    if "hf_hub_url" in entry:
        return entry["hf_hub_url"]
    raise UserError(f"{where}: entry {name} of {file} names neither file_name nor hf_hub_url")
