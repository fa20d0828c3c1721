"""The data sets of a DataFlex or LLaMA-Factory file: entries of dataset_info.json as pool, target and evaluation."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from near.app.from_yaml.file import File
from near.common.errors import UserError, did_you_mean
from near.common.text import plural
from near.data.dataset_info import read_entries
from near.data.sources.readers import bounded
from near.data.templates.named import TEMPLATES

SHOWN = 100  # rows of the pool that are the evaluation set of a file without one
PREFERENCES = ("chosen", "rejected", "kto_tag")
MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True)
class PoolSizes:
    """The number of rows of each data set of the file, None where it can't be counted; empty where data is typed."""

    counts: tuple[int | None, ...] = ()

    @property
    def rows(self) -> int | None:
        return sum(self.counts) if self.counts and None not in self.counts else None


def data(file: File, targeted: bool, plain: bool = False) -> PoolSizes:
    """Translate the keys of the data.

    Args:
        file: to translate.
        targeted: the selector needs a target, for which the evaluation set is used.
        plain: stage: pt, which trains one column of text whole.

    Raises:
        UserError: a data set is not named, is not in dataset_info.json, or can't be trained on.
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
    workers, cores = file.whole("preprocessing_num_workers", 1, 1), len(os.sched_getaffinity(0))
    file.put("data.num_proc", min(workers, cores))
    if workers > cores:
        file.notes.append(f"preprocessing_num_workers={workers}: {cores}, as many as this machine has cores")


def _reading(file: File, plain: bool) -> None:
    """Translate how rows become tokens and labels."""
    masks = [key for key in ("train_on_prompt", "mask_history") if file.take(key)]
    if len(masks) == 2:
        raise UserError(f"{file.path}: train_on_prompt and mask_history exclude each other; use one")
    if masks and plain:
        raise UserError(f"{file.path}: {masks[0]} goes with stage: sft; stage: pt trains whole texts")
    for key in masks:
        file.put(f"data.{key}", True)
    if (system := file.take("default_system")) is not None:
        file.put("data.default_system", str(system))
    if file.take("split_special_tokens"):
        file.put("model.split_special_tokens", True)
    if "enable_thinking" in file.values and not plain:
        _thinking(file)


def _thinking(file: File) -> None:
    """Translate `enable_thinking`, which matters to the templates of reasoning models and to a tokenizer's template.

    A template of near removes thinking from answers by itself. A tokenizer's template gets the switch but may still
    write thinking, which is therefore dropped from the rows.
    """
    typed = file.typed_value("model.template")
    name = file.values.get("template") if typed is None else typed
    template = TEMPLATES.get(str(name))
    thinking = file.take("enable_thinking")
    if template is not None and not template.reasoning:
        if thinking is not True:
            why = f"template={name} is not of a reasoning model, so it changes nothing there, either"
            file.skip_always("enable_thinking", f"{why}; data.reasoning=drop removes thinking")
    elif thinking is None:
        file.skip_always("enable_thinking", "null keeps thinking and does not train its absence; use true or false")
    elif isinstance(thinking, bool):
        file.put("model.enable_thinking", thinking)
        if template is None and not thinking:
            file.put("data.reasoning", "drop")


def _sets(file: File, targeted: bool, plain: bool) -> PoolSizes:
    pool, evaluation = file.names("dataset"), file.names("eval_dataset")
    limit = None if file.take("max_samples") is None else file.whole("max_samples", 1, 1)
    part, share = "queries" if targeted else "eval", file.take("val_size")
    if not pool and file.typed_value("data.candidates.path") is None:
        raise UserError(f"{file.path}: dataset is missing; name an entry of dataset_info.json, or type data=...")
    if evaluation and share:
        raise UserError(f"{file.path}: val_size={share} and eval_dataset exclude each other; use one")
    typed = {name for name in ("candidates", part) if file.typed_value(f"data.{name}.path") is not None}
    needed = pool and "candidates" not in typed or (evaluation or pool) and part not in typed
    info = _info(file) if needed else None
    source = _Sources(file, info, plain)
    source.put("candidates", pool, limit, "dataset")
    counts = [source.rows(name, limit) for name in pool]
    if "candidates" in typed:
        counts = []
    sizes = PoolSizes(tuple(counts))
    if evaluation:
        source.put(part, evaluation, limit, "eval_dataset")
        if set(evaluation) & set(pool):
            file.put("data.leakage", "keep")
            file.notes.append("a data set is both trained on and evaluated on: data.leakage=keep")
        _each(file, source, evaluation, limit)
    elif share:
        _first_rows(source, part, pool, sizes.rows, share)
    elif part in typed:
        pass
    elif targeted:
        raise UserError(
            f"{file.path}: eval_dataset is missing, the target of the selection; name it, or type data.queries.path=..."
        )
    elif pool and "candidates" not in typed:
        source.put(part, pool, math.ceil(SHOWN / len(pool)), "dataset")
        file.put("data.leakage", "keep")
        file.notes.append(
            f"no eval_dataset: the target loss is that of the first {SHOWN} rows of the pool, which training may see"
        )
    if not evaluation and file.take("eval_on_each_dataset"):
        file.skip_always("eval_on_each_dataset", "there is no eval_dataset")
    return sizes


def _each(file: File, source: "_Sources", names: list[str], limit: int | None) -> None:
    """Translate `eval_on_each_dataset`: every data set is evaluated on alone, too."""
    if file.take("eval_on_each_dataset") and len(names) > 1:
        file.put("data.more_eval", {name: source.options([name], limit) for name in names})


def _first_rows(source: "_Sources", part: str, pool: list[str], rows: int | None, share: object) -> None:
    """Translate `val_size`: the first rows become the set, and data.leakage leaves them out of the pool."""
    file = source.file
    if not isinstance(share, int | float) or isinstance(share, bool) or share < 0 or share < 1 and rows is None:
        if part == "queries":
            raise UserError(
                f"{file.path}: val_size={share} is a share of rows, which can't be counted; give a number of rows"
            )
        file.skip_always("val_size", "the rows can't be counted here; give a number of rows, or eval_dataset")
        return
    count = math.ceil((share if share >= 1 else share * rows) / max(1, len(pool)))
    source.put(part, pool, count, "dataset")
    file.notes.append(f"val_size={share}: the first {plural(count, 'row')} of each data set, in place of random ones")


def _info(file: File) -> Path | None:
    """The path of dataset_info.json; None where data sets are hub ids."""
    folder = str(file.take("dataset_dir", "data"))
    if folder == "ONLINE":
        return None
    if folder.startswith("REMOTE:"):
        name = folder.removeprefix("REMOTE:")
        raise UserError(
            f"{file.path}: dataset_dir={folder} is a hub's dataset_info.json, which near does not fetch; download it "
            f"(hf download {name} --repo-type dataset --local-dir data) and write dataset_dir: data"
        )
    path = file.locate(f"{folder}/dataset_info.json")
    if path is None:
        raise UserError(
            f"{file.path}: dataset_dir={folder} contains no dataset_info.json, neither here nor above the file; "
            "run in the folder to which it is relative, or correct dataset_dir"
        )
    return Path(path)


@dataclass
class _Sources:
    """Data sets as sources of rows: entries of the dataset_info.json at `info`, or hub ids where that is None."""

    file: File
    info: Path | None
    plain: bool

    def put(self, part: str, names: list[str], limit: int | None, key: str) -> None:
        """Set `data.<part>` to the data sets `names`, unless another path was typed for it."""
        if not names or self.file.typed_value(f"data.{part}.path") is not None:
            return
        for name in names:
            self._check(name, key)
        for option, value in self.options(names, limit).items():
            self.file.put(f"data.{part}.{option}", value)

    def options(self, names: list[str], limit: int | None) -> dict[str, object]:
        """The options of a source of rows."""
        if self.info is None:
            options: dict[str, object] = {"split": "train", "path": names[0] if len(names) == 1 else names}
        elif self.plain:
            options = self._texts(names)
        else:
            options = {"dataset_info": str(self.info), "path": names[0] if len(names) == 1 else names}
        return options if limit is None else {**options, "limit": limit}

    def rows(self, name: str, limit: int | None) -> int | None:
        """The number of rows of an entry; None where it takes more than reading a JSON file."""
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
        except (OSError, ValueError, TypeError):  # the code that loads it reports this
            return None
        samples = entry.get("num_samples")
        count = samples if isinstance(samples, int) else count
        return count if limit is None else min(count, limit)

    def _entry(self, name: str) -> dict:
        return {} if self.info is None else read_entries(self.info, "dataset_info.json").get(name, {})

    def _check(self, name: str, key: str) -> None:
        """UserError for an entry that does not exist, or that can't be trained on."""
        if self.info is None:
            return
        entries = read_entries(self.info, "dataset_info.json")
        where = f"{self.file.path}: {key}={name}"
        if name not in entries:
            raise UserError(f"{where} is not an entry of {self.info}{did_you_mean(name, entries)}")
        entry = entries[name]
        columns = entry.get("columns") if isinstance(entry.get("columns"), dict) else {}
        if keys := [*["ranking"] * bool(entry.get("ranking")), *(f"columns.{c}" for c in PREFERENCES if c in columns)]:
            raise UserError(f"{where} contains preferences ({keys[0]}), on which near does not train; name other rows")
        if media := [name for name in MEDIA if name in columns]:
            raise UserError(f"{where} contains {media[0]} (columns.{media[0]}); near trains on text; name other rows")

    def _texts(self, names: list[str]) -> dict[str, object]:
        """The options of plain text, whose column entries name as their prompt."""
        paths, values = {}, {}
        for name in names:
            entry = self._entry(name)
            columns = entry.get("columns") or {}
            extra = sorted(set(columns) - {"prompt"})
            if entry.get("formatting", "alpaca") != "alpaca" or "prompt" not in columns or extra:
                raise UserError(
                    f"{self.file.path}: dataset={name} does not name one column of plain text "
                    "(columns: {prompt: NAME}), as stage: pt requires; add it"
                )
            values.setdefault("columns.text", set()).add(columns["prompt"])
            for option, key in (("name", "subset"), ("split", "split")):
                values.setdefault(option, set()).add(
                    entry.get(key, "train" if key == "split" and "file_name" not in entry else None)
                )
            paths[name] = (
                str(self.info.parent / entry["file_name"]) if "file_name" in entry else entry.get("hf_hub_url")
            )
        for option, different in values.items():
            if len(different) > 1:
                raise UserError(f"{self.file.path}: dataset={','.join(names)} differ in {option}; name ones that agree")
        common = {option: next(iter(value)) for option, value in values.items()}
        path = paths[names[0]] if len(names) == 1 else paths
        return {
            "format": "text",
            "path": path,
            **{option: value for option, value in common.items() if value is not None},
        }
