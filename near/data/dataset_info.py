"""Entries of a LLaMA-Factory dataset_info.json: `data.candidates.dataset_info=FILE data.candidates.path=NAME`.

An entry is read as LLaMA-Factory's data/parser.py, loader.py and converter.py read it. With `columns` only the listed
columns are read; without them only instruction, input and output, or conversations. With `tags` only the listed roles
are known. A hub's data set takes precedence over file_name. Keys that are present but unused are logged.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from near.common.errors import UserError, as_user_error, did_you_mean
from near.common.files import refuse_special
from near.data.formats.sharegpt import LISTED
from near.data.sources.readers import Kind, kinds_shown

log = logging.getLogger(__name__)

# per formatting: LLaMA-Factory's column names to ours
BESIDE = {"system": "system", "tools": "tools"}
COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output", "history": "history", **BESIDE},
    "sharegpt": {"messages": "conversations", **BESIDE},
    "openai": {"messages": "conversations", **BESIDE},
}
DEFAULTS = {
    "alpaca": {"instruction": "instruction", "input": "input", "output": "output"},
    "sharegpt": {"conversations": "conversations"},
    "openai": {"conversations": "conversations"},
}
MEDIA = ("images", "videos", "audios")
TYPES = {"columns": (dict, "an object"), "tags": (dict, "an object"), "num_samples": (int, "a number")}
TYPES |= dict.fromkeys(("split", "subset", "folder"), (str, "text"))
ELSEWHERE = {  # keys of data that near does not fetch
    "ms_hub_url": "is on ModelScope, which is not supported; download it and set file_name",
    "om_hub_url": "is on Openmind, which is not supported; download it and set file_name",
    "script_url": "is a program that loads data; set file_name instead",
    "cloud_file_name": "is in cloud storage; download it and set file_name",
}
KEYS = ("formatting", "ranking", *TYPES, "file_name", "hf_hub_url", *ELSEWHERE)


def from_dataset_info(source: DictConfig, where: str) -> list[DictConfig]:
    """One source per dataset_info entry that `source.path` names, with the entry's values filled in.

    Args:
        source: a configuration such as `data.candidates`. Without `dataset_info` it is returned as it is.
        where: its dotted key, for error messages.

    Returns:
        The sources in the order of `source.path`; each has the limit of `source`.

    Raises:
        UserError: the file or the entry does not exist, or the entry's kind is not supported.
    """
    if source.dataset_info is None:
        return [source]
    file = Path(source.dataset_info).expanduser()
    entries = read_entries(file, f"{where}.dataset_info")
    several = isinstance(source.path, ListConfig)
    return [
        _entry(source, where, file, entries, str(name), several) for name in (source.path if several else [source.path])
    ]


def read_entries(file: Path, where: str) -> dict:
    """The entries of a dataset_info.json by name; UserError if it can't be read."""
    refuse_special(file, where)
    errors = (OSError, ValueError, RecursionError)
    with as_user_error(errors, f"{where}={file} can't be read", "mend the file or name another"):
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{where}={file} is not an object with one entry per name; see docs/data.md")
    return entries


def _entry(source: DictConfig, where: str, file: Path, entries: dict, name: str, labelled: bool) -> DictConfig:
    if name not in entries:
        raise UserError(f"{where}.path={name} is not an entry of {file}{did_you_mean(name, entries)}")
    entry, prefix = entries[name], f"{where}: entry {name} of {file}"
    form, named, tags = _form(entry, prefix)
    unused = [key for key in entry if key not in KEYS]
    unused += [f"columns.{key}" for key in named if key not in COLUMNS[form]]
    unused += [f"tags.{key}" for key in tags if key not in LISTED]
    path, local = _path(entry, file, prefix)
    if not local and source.get("key") is None:
        sample = {"num_samples": entry.get("num_samples")} if entry.get("num_samples") else None
        split, folder = entry.get("split") or "train", entry.get("folder")
    else:
        unused += [key for key in ("subset", "folder") if entry.get(key)]
        split, folder = None, None
        sample = {"split": entry.get("split") if entry.get("split") != "train" else None}
        sample = {key: value for key, value in {**sample, "num_samples": entry.get("num_samples")}.items() if value}
    if unused:
        log.info(f"{prefix}: not used: {', '.join(unused)}")
    columns = {ours: named[theirs] for theirs, ours in COLUMNS[form].items() if named.get(theirs)}
    values = {
        "path": path,
        "label": name if labelled or isinstance(path, list) else None,
        "name": None if local else entry.get("subset"),
        "folder": folder,
        "split": split,
        "format": "alpaca" if form == "alpaca" else "sharegpt",
        "columns": columns if "columns" in entry else DEFAULTS[form],
        "tags": {tag: value for tag, value in tags.items() if tag in LISTED and value} or None,
        "entry": form,
        "sample": sample or None,
    }
    typed = {key: value for key, value in (source.columns or {}).items() if value is not None}
    return OmegaConf.merge({**source, "path": None, "columns": None}, values, {"columns": typed})


def _form(entry: Mapping, prefix: str) -> tuple[str, dict, dict]:
    """An entry's formatting, columns and tags; UserError if training does not support its kind."""
    form = entry.get("formatting") or "alpaca"
    if form not in COLUMNS:
        raise UserError(f"{prefix}: formatting={form} is none of {', '.join(COLUMNS)}; use one")
    for key, (kind, shown) in TYPES.items():
        if entry.get(key) is not None and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
            raise UserError(f"{prefix}: {key} is of type {type(entry[key]).__name__}, not {shown}; correct it")
    if entry.get("num_samples") is not None and entry["num_samples"] < 1:
        raise UserError(f"{prefix}: num_samples={entry['num_samples']} is less than one row; set 1 or more")
    named, tags = entry.get("columns") or {}, entry.get("tags") or {}
    for part, values in (("columns", named), ("tags", tags)):
        for key, value in values.items():
            if value is not None and not isinstance(value, str):
                raise UserError(f"{prefix}: {part}.{key} is of type {type(value).__name__}, not text; correct it")
    if entry.get("ranking"):
        raise UserError(f"{prefix}: ranking=true is preference data, not trained here; name another entry")
    if named.get("kto_tag"):
        raise UserError(f"{prefix}: columns.kto_tag is preference data, not trained here; name another entry")
    if media := [key for key in MEDIA if named.get(key)]:
        raise UserError(f"{prefix}: columns.{media[0]} is multimodal data; only text is trained here")
    prompts = ("prompt", "query") if form == "alpaca" else ("messages",)
    if "columns" in entry and not any(named.get(key) for key in prompts):
        listed = f"lists {', '.join(named)}" if named else "lists nothing"
        raise UserError(f"{prefix}: columns {listed}, but no prompt; add {' or '.join(prompts)}")
    return form, named, tags


def _path(entry: Mapping, file: Path, prefix: str) -> tuple[str | list[str], bool]:
    """The data that an entry names, in LLaMA-Factory's order of precedence, and whether it is local.

    That is the id of a hub's data set, a file, or the files of a folder.
    """
    for key in ("hf_hub_url", *ELSEWHERE, "file_name"):
        if key in entry and not (isinstance(entry[key], str) and entry[key]):
            raise UserError(f"{prefix}: {key}={entry[key]!r} is not a text; write one")
    if "hf_hub_url" in entry:
        return entry["hf_hub_url"], False
    if other := next((key for key in ELSEWHERE if key in entry), None):
        raise UserError(f"{prefix}: {other}={entry[other]} {ELSEWHERE[other]}")
    if "file_name" not in entry:
        raise UserError(f"{prefix} names no data: no file_name and no hf_hub_url; add one")
    path = file.parent / entry["file_name"]
    if not path.is_dir() or any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return str(path), True
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    read = [str(p) for p in files if Kind.of(p.name)]
    if not read:
        raise UserError(f"{prefix}: the folder {path} has no supported file; files can be {kinds_shown()}")
    if len({Kind.of(p).ending.replace("jsonl", "json") for p in read}) > 1:
        raise UserError(f"{prefix}: {path} has files of several kinds; keep files of one kind")
    if len(read) < len(files):
        log.info(f"{prefix}: not read: {', '.join(p.name for p in files if str(p) not in read)}")
    return read, True
