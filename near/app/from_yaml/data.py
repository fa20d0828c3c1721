"""Data sets of a DataFlex or LLaMA-Factory file: entries of dataset_info.json as pool, target and evaluation set."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from near.app.from_yaml.file import File
from near.common.errors import UserError, did_you_mean
from near.data.dataset_info import read_entries
from near.data.sources.readers import bounded
from near.data.templates.named import TEMPLATES

SHOWN = 100  # rows of the pool that are evaluated on where a file names no others
PREFERENCES = ("chosen", "rejected", "kto_tag")
MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True)
class PoolSizes:
    """How many rows each of the file's data sets has, None where that can't be counted or other data is typed."""

    counts: tuple[int | None, ...] = ()

    @property
    def rows(self) -> int | None:
        return sum(self.counts) if self.counts and None not in self.counts else None


def data(file: File, targeted: bool, plain: bool = False) -> PoolSizes:
    """The data's overrides. `targeted`: the selector looks at a target, which the evaluation set then is. `plain`: of
    each row one column of text is trained whole (stage: pt).

    Raises UserError for a data set that is not named, not in dataset_info.json, or of a kind that is not trained.
    """
    typed = file.typed_value("data") is not None
    if typed:
        for key in ("dataset", "dataset_dir", "eval_dataset", "val_size", "max_samples", "eval_on_each_dataset"):
            file.take(key)
    else:
        file.put("data", "files")
    file.put("data.cutoff_len", file.number("cutoff_len", 2048, 2))
    _processes(file)
    if file.take("overwrite_cache"):
        file.put("data.refresh", True)
    _reading(file, plain)
    return PoolSizes() if typed else _sets(file, targeted, plain)


def _processes(file: File) -> None:
    if file.take("preprocessing_num_workers") is None:
        return
    wanted, there = file.whole("preprocessing_num_workers", 1, 1), len(os.sched_getaffinity(0))
    file.put("data.num_proc", min(wanted, there))
    if wanted > there:
        file.said.append(f"preprocessing_num_workers={wanted}: {there}, as many as this machine has cores")


def _reading(file: File, plain: bool) -> None:
    """How rows become tokens and labels."""
    both = [key for key in ("train_on_prompt", "mask_history") if file.take(key)]
    if len(both) == 2:
        raise UserError(f"{file.path}: train_on_prompt and mask_history exclude each other; use one")
    if both and plain:
        raise UserError(f"{file.path}: {both[0]} goes with stage: sft; stage: pt trains whole texts")
    for key in both:
        file.put(f"data.{key}", True)
    if (system := file.take("default_system")) is not None:
        file.put("data.default_system", str(system))
    if file.take("split_special_tokens"):
        file.put("model.split_special_tokens", True)
    if "enable_thinking" in file.values and not plain:
        _thinking(file)


def _thinking(file: File) -> None:
    """`enable_thinking`, which means something to templates of reasoning models, and to a tokenizer's own template.

    A template by its name takes thinking out of answers itself. A tokenizer's own is handed the switch and may still
    write thinking, so that it is dropped from the rows.
    """
    typed = file.typed_value("model.template")
    name = file.values.get("template") if typed is None else typed
    template = TEMPLATES.get(str(name))
    thinking = file.take("enable_thinking")
    if template is not None and not template.reasoning:
        if thinking is not True:
            why = f"template={name} is not of a reasoning model, so it changes nothing there either"
            file.name("enable_thinking", f"{why}; data.reasoning=drop takes thinking out")
    elif thinking is None:
        file.name("enable_thinking", "null keeps thinking and leaves its absence untrained; use true or false")
    elif isinstance(thinking, bool):
        file.put("model.enable_thinking", thinking)
        if template is None and not thinking:
            file.put("data.reasoning", "drop")


def _sets(file: File, targeted: bool, plain: bool) -> PoolSizes:
    pool, asked = file.names("dataset"), file.names("eval_dataset")
    limit = None if file.take("max_samples") is None else file.whole("max_samples", 1, 1)
    part, share = "queries" if targeted else "eval", file.take("val_size")
    if not pool and file.typed_value("data.candidates.path") is None:
        raise UserError(f"{file.path}: dataset is missing; name an entry of dataset_info.json, or type data=...")
    if asked and share:
        raise UserError(f"{file.path}: val_size={share} and eval_dataset exclude each other; use one")
    typed = {one for one in ("candidates", part) if file.typed_value(f"data.{one}.path") is not None}
    needed = pool and "candidates" not in typed or (asked or pool) and part not in typed
    info = _info(file) if needed else None
    source = _Sources(file, info, plain)
    source.put("candidates", pool, limit, "dataset")
    counts = [source.rows(name, limit) for name in pool]
    if "candidates" in typed:
        counts = []
    found = PoolSizes(tuple(counts))
    if asked:
        source.put(part, asked, limit, "eval_dataset")
        if set(asked) & set(pool):
            file.put("data.leakage", "keep")
            file.said.append("a data set is both trained and evaluated on: data.leakage=keep")
        _each(file, source, asked, limit)
    elif share:
        _held_out(source, part, pool, found.rows, share)
    elif part in typed:
        pass
    elif targeted:
        raise UserError(
            f"{file.path}: eval_dataset is missing, the target that rows are selected by; name it, or type "
            "data.queries.path=..."
        )
    elif pool and "candidates" not in typed:
        source.put(part, pool, math.ceil(SHOWN / len(pool)), "dataset")
        file.put("data.leakage", "keep")
        file.said.append(
            f"no eval_dataset: the target loss is taken on the first {SHOWN} rows of the pool, which training may see"
        )
    if not asked and file.take("eval_on_each_dataset"):
        file.name("eval_on_each_dataset", "there is no eval_dataset")
    return found


def _each(file: File, source: "_Sources", asked: list[str], limit: int | None) -> None:
    """`eval_on_each_dataset`: every data set as a further set, beside all of them together."""
    if file.take("eval_on_each_dataset") and len(asked) > 1:
        file.put("data.more_eval", {name: source.options([name], limit) for name in asked})


def _held_out(source: "_Sources", part: str, pool: list[str], rows: int | None, share: object) -> None:
    """`val_size`: the first rows as a set of their own, which data.leakage then leaves out of the pool."""
    file = source.file
    if not isinstance(share, int | float) or isinstance(share, bool) or share < 0 or share < 1 and rows is None:
        if part == "queries":
            raise UserError(
                f"{file.path}: val_size={share} goes by the rows, which can't be counted; give a number of rows"
            )
        file.name("val_size", "the rows can't be counted here; give a number of rows, or eval_dataset")
        return
    count = math.ceil((share if share >= 1 else share * rows) / max(1, len(pool)))
    source.put(part, pool, count, "dataset")
    file.said.append(f"val_size={share}: the first {count} rows of each data set, in place of random ones")


def _info(file: File) -> Path | None:
    """The dataset_info.json; None where data sets are named by their hub ids."""
    folder = str(file.take("dataset_dir", "data"))
    if folder == "ONLINE":
        return None
    if folder.startswith("REMOTE:"):
        name = folder.removeprefix("REMOTE:")
        raise UserError(
            f"{file.path}: dataset_dir={folder} is a hub's dataset_info.json, which is not fetched here; download it "
            f"(hf download {name} --repo-type dataset --local-dir data) and write dataset_dir: data"
        )
    path = file.found(f"{folder}/dataset_info.json")
    if path is None:
        raise UserError(
            f"{file.path}: dataset_dir={folder} holds no dataset_info.json, neither here nor above the file; "
            "run in the folder it is relative to, or mend dataset_dir"
        )
    return Path(path)


@dataclass
class _Sources:
    """Entries of `info` (None: hub ids) as sources of rows."""

    file: File
    info: Path | None
    plain: bool

    def put(self, part: str, names: list[str], limit: int | None, key: str) -> None:
        """`data.<part>` as the entries `names`; nothing where another path was typed for it."""
        if not names or self.file.typed_value(f"data.{part}.path") is not None:
            return
        for name in names:
            self._check(name, key)
        for option, value in self.options(names, limit).items():
            self.file.put(f"data.{part}.{option}", value)

    def options(self, names: list[str], limit: int | None) -> dict[str, object]:
        """Of a source of rows."""
        if self.info is None:
            found = {"split": "train", "path": names[0] if len(names) == 1 else names}
        elif self.plain:
            found = self._texts(names)
        else:
            found = {"dataset_info": str(self.info), "path": names[0] if len(names) == 1 else names}
        return found if limit is None else {**found, "limit": limit}

    def rows(self, name: str, limit: int | None) -> int | None:
        """How many rows an entry has; None where that takes more than reading a JSON file."""
        entry = self._entry(name)
        path = None if "file_name" not in entry else self.info.parent / entry["file_name"]
        try:
            if path is None or not path.is_file():
                return None
            if path.suffix == ".json":
                count = len(json.loads(path.read_text(encoding="utf-8-sig")))
            elif path.suffix == ".jsonl":
                with open(path, "rb") as lines:
                    count = sum(bool(line.strip()) for line in bounded(lines, path))
            else:
                return None
        except (OSError, ValueError, TypeError):  # whoever loads it says what is wrong
            return None
        samples = entry.get("num_samples")
        count = samples if isinstance(samples, int) else count
        return count if limit is None else min(count, limit)

    def _entry(self, name: str) -> dict:
        return {} if self.info is None else read_entries(self.info, "dataset_info.json").get(name, {})

    def _check(self, name: str, key: str) -> None:
        """UserError for an entry that is not there, or of a kind that is not trained."""
        if self.info is None:
            return
        entries = read_entries(self.info, "dataset_info.json")
        where = f"{self.file.path}: {key}={name}"
        if name not in entries:
            raise UserError(f"{where} is no entry of {self.info}{did_you_mean(name, entries)}")
        entry = entries[name]
        columns = entry.get("columns") if isinstance(entry.get("columns"), dict) else {}
        if entry.get("ranking") or (found := [name for name in PREFERENCES if name in columns]):
            told = "ranking" if entry.get("ranking") else f"columns.{found[0]}"
            raise UserError(f"{where} holds preferences ({told}), which are not trained on; name other rows")
        if found := [name for name in MEDIA if name in columns]:
            raise UserError(f"{where} holds {found[0]} (columns.{found[0]}); only text is trained on; name other rows")

    def _texts(self, names: list[str]) -> dict[str, object]:
        """Columns of plain text, which entries name as their prompt."""
        paths, told = {}, {}
        for name in names:
            entry = self._entry(name)
            columns = entry.get("columns") or {}
            extra = sorted(set(columns) - {"prompt"})
            if entry.get("formatting", "alpaca") != "alpaca" or "prompt" not in columns or extra:
                raise UserError(
                    f"{self.file.path}: dataset={name} names no column of plain text alone "
                    "(columns: {prompt: NAME}), which stage: pt trains on"
                )
            told.setdefault("columns.text", set()).add(columns["prompt"])
            for option, key in (("name", "subset"), ("split", "split")):
                told.setdefault(option, set()).add(
                    entry.get(key, "train" if key == "split" and "file_name" not in entry else None)
                )
            paths[name] = (
                str(self.info.parent / entry["file_name"]) if "file_name" in entry else entry.get("hf_hub_url")
            )
        for option, values in told.items():
            if len(values) > 1:
                raise UserError(f"{self.file.path}: dataset={','.join(names)} differ in {option}; name those alike")
        found = {option: next(iter(values)) for option, values in told.items()}
        path = paths[names[0]] if len(names) == 1 else paths
        return {
            "format": "text",
            "path": path,
            **{option: value for option, value in found.items() if value is not None},
        }
