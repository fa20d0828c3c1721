"""Which files of a folder are ours: nothing else is ever removed or replaced.

Every script lists the files that it writes into a folder in `LIST` there, before it writes the first. Folders from
before there were lists are recognised by the content of their files.
"""

import contextlib
import json
import logging
import re
import time
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from near.common.errors import UserError
from near.common.files import TEMPORARY, read_json, write_json

log = logging.getLogger(__name__)

LIST = ".near-files.json"
ANSWERS = ("answers.jsonl", "base_answers.jsonl", "dataflow.jsonl")  # files of an evaluation, beside metrics.json
SUBSET = ("subset.npy", "subset_scores.npy", "subset.jsonl", "subset.parquet")
POOL_KEYS, QUERY_KEYS = "pool_keys.npy", "query_keys.npy"  # a hash of every row's content (near/data/row_keys.py)
SELECTION_PAGE = "selection.html"
ROUND_EXPORT = (
    "trained.jsonl",
    "trained.json",
    "trl_train.py",
    "dataset_info.json",
    "llamafactory.yaml",
    "axolotl.yaml",
)
ROUND_EXPORT += ("tokenizer",)
MODEL = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
MODEL += ("pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_config.json", "adapter_model.safetensors")
MODEL += ("README.md", "chat_template.jinja", "additional_chat_templates/*.jinja", "tokenizer.json", "tokenizer.model")
MODEL += ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt")
MODEL += ("merges.txt", "spiece.model", "sentencepiece.bpe.model", "training_args.bin")
CHECKPOINT = (*MODEL, "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "selection.npz")
CHECKPOINT += ("trainer_state.json", "files.json", "best.safetensors")
CHECKPOINT += ("latest", "zero_to_fp32.py", "global_step*/*", "optimizer_*/*", "pytorch_model_fsdp_*/*")
ROUNDS = ("[0-9]*.npy", "rounds.jsonl", "selected.npz", POOL_KEYS)
WRITES = {  # script to patterns of the files in its output folder
    "eval": ("metrics.json", *ANSWERS),
    "merge": ("merge.json",),
    "report": ("report.html", "report.json"),
    "select": (
        *(
            "dry_run.json",
            "manifest.json",
            "top_indices.npy",
            "top_scores.npy",
            "query_scales.npy",
            "contaminated.jsonl",
            POOL_KEYS,
            QUERY_KEYS,
        ),
        *(*SUBSET, SELECTION_PAGE, *ROUND_EXPORT, *(f"tokenizer/{name}" for name in MODEL)),
    ),
    "train": (
        *("config.yaml", "metrics.json", "train_metrics.json", "loss.png", "tracker.json", "failed.json", *ANSWERS),
        *("contaminated.jsonl", "dry_run.json", "forecast.json", "manifest.json"),
        *(f"rounds/{name}" for name in ROUNDS),
        *(f"{kind}/{name}" for kind in ("adapter", "model", ".adapter.part", ".model.part") for name in MODEL),
        *(f"checkpoints/checkpoint-*/{name}" for name in CHECKPOINT),
        *(f"start/{name}" for name in ("adapter_config.json", "adapter_model.safetensors", "start.json")),
        "checkpoints/best.safetensors",
    ),
}
# what describes how a run went, or shows its results again: no results, and without digests in a manifest
HOW_IT_WENT = (
    "manifest.json",
    "dry_run.json",
    "forecast.json",
    "tracker.json",
    "failed.json",
    "loss.png",
    "checkpoints",
    SELECTION_PAGE,
)
REMOVED = ("metrics.json", "train_metrics.json", "loss.png", "failed.json", "contaminated.jsonl", *ANSWERS)
REMOVED += ("checkpoints", "rounds", "adapter", "model")

WRITING_S = 2.0  # a file that was changed within so many seconds may be half written
_PROVENANCE = {"created", "command", "versions"}  # see near.common.files.provenance


def claim(folder: Path, script: str, names: Collection[str] = ()) -> None:
    """List the files that `script` will write into `folder`; UserError if it would replace one that is not ours.

    names: patterns of these files; (): all that the script writes.
    """
    check(folder, script)
    listed, names = _listed(folder), names or WRITES[script]
    if not set(names) <= set(listed):
        list_files(folder, [*listed, *names])


def check(folder: Path, script: str) -> None:
    """UserError if `script` would replace a file in `folder` that is not ours."""
    tops = {pattern.split("/")[0] for pattern in WRITES[script]}
    written = [name for name in _files(folder, tops) if _fits(name, WRITES[script])]
    if written:
        _refuse(folder, written, _ours(folder))


def check_notes(folder: Path) -> None:
    """UserError if .hydra/ in `folder`, which Hydra replaces, belongs to another program."""
    notes, started = folder / ".hydra" / "hydra.yaml", time.monotonic()
    while notes.is_file() and not (_contains(notes, "near.app.jobs.Sweeps") or _contains(notes, "near.jobs.Sweeps")):
        if time.monotonic() - started > WRITING_S or not _just_changed(notes):
            raise UserError(f"{folder} has a run of another program ({notes.name}); set another output_dir")
        time.sleep(0.05)  # another rank of this run may be writing it


def _just_changed(path: Path) -> bool:
    """Whether a file was changed within WRITING_S, or replaced meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return abs(time.time() - path.stat().st_mtime) < WRITING_S
    return True


def list_files(folder: Path, names: Iterable[str] | None = None, **more: object) -> None:
    """Write the list of `folder`.

    Args:
        folder: the folder.
        names: patterns, relative to it; None: all files in it now.
        more: further keys of the list.
    """
    names = _files(folder) if names is None else names
    write_json(folder / LIST, {"schema_version": 1, "files": sorted({*names, LIST}), **more})


def read_list(folder: Path) -> dict:
    """The list of `folder`; {} if there is none."""
    path = folder / LIST
    return {} if path.is_symlink() or not path.is_file() else read_json(path)


def results(folder: Path, scripts: Collection[str] = ("select", "train", "eval")) -> list[str]:
    """Files in `folder` under names that `scripts` write results to, and all that is in folders of such a name; without
    HOW_IT_WENT, logs and hidden files."""
    tops = {pattern.split("/")[0] for script in scripts for pattern in WRITES[script]}.difference(HOW_IT_WENT)
    return [name for name in _files(folder, tops) if not any(part.startswith(".") for part in name.split("/"))]


def removable(folder: Path, *names: str) -> list[str]:
    """The files among and below `names` in `folder`; UserError if one is not ours."""
    files = _files(folder, names)
    _refuse(folder, files, _ours(folder))
    return files


def remove(folder: Path, *names: str) -> None:
    """Remove files and folders `names` from `folder`; missing ones are skipped.

    Raises UserError, and removes nothing, if a file is not ours.
    """
    _remove(folder, removable(folder, *names))
    for name in names:
        _remove_empty(folder / name)


def remove_folder(folder: Path, ours: Collection[str] = ()) -> None:
    """Remove `folder`. `ours`: patterns of files that are ours, beside its list.

    Raises UserError, and removes nothing, if another file is in it.
    """
    _remove(folder, removable_folder(folder, ours))
    _remove_empty(folder)


def removable_folder(folder: Path, ours: Collection[str]) -> list[str]:
    """The files in `folder`; UserError if remove_folder would raise one."""
    files = _files(folder)
    _refuse(folder, files, (*ours, *_listed(folder)))
    return files


def check_model(folder: Path) -> None:
    """UserError if `folder` has anything but an export of merge.py."""
    _refuse(folder, _files(folder), _exported(folder))


def is_model(folder: Path) -> bool:
    """Whether `folder` has nothing but an export of merge.py."""
    try:
        check_model(folder)
    except UserError:
        return False
    return True


def remove_model(folder: Path) -> None:
    """Remove an export of merge.py; UserError, and nothing removed, if `folder` has anything else."""
    check_model(folder)
    remove_folder(folder, _exported(folder))


def _exported(folder: Path) -> Collection[str]:
    if "merged" in read_list(folder):
        return _listed(folder)
    if not (folder / LIST).exists() and _contains(folder / "README.md", "\n- near\n"):  # from before there were lists
        return MODEL
    return ()


def prune_checkpoints(folder: Path, limit: int | None, best: str | None = None) -> None:
    """Remove old checkpoints.

    Args:
        folder: the folder of the checkpoints.
        limit: the newest ones that stay; None: all.
        best: a further one that stays. So do checkpoints with a file that is not ours.
    """
    steps = {p: int(m[1]) for p in folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
    written = sorted(steps, key=lambda path: (path.stat().st_mtime_ns, steps[path]))
    for old in written[: -limit if limit else 0]:
        if best is not None and old == Path(best):
            continue
        try:
            remove_folder(old, CHECKPOINT)
        except UserError as error:
            log.warning(f"not removed: {old}: {error}")


def _ours(folder: Path) -> list[str]:
    """Patterns of the files in `folder` that are ours."""
    patterns = list(_listed(folder))
    patterns += [f"{kind}/{name}" for kind in ("adapter", "model") for name in _listed(folder / kind)]
    described = [name for name in ("metrics.json", "train_metrics.json", "manifest.json", "merge.json")]
    described = [name for name in described if _PROVENANCE <= _keys(folder / name)]
    rounds = (folder / "rounds" / "rounds.jsonl").is_file()
    if "manifest.json" in described:
        patterns += WRITES["select"]
    if "merge.json" in described:
        patterns += WRITES["merge"]
    if "metrics.json" in described:
        patterns += WRITES["eval"]
    if rounds or "train_metrics.json" in described or _contains(folder / "config.yaml", "\nsweep_name:"):
        patterns += WRITES["train"]
    if _contains(
        folder / "report.html", '<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security'
    ):
        patterns += WRITES["report"]
    return patterns


def _listed(folder: Path) -> list[str]:
    names = read_list(folder).get("files")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _keys(path: Path) -> set[str]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        return set(value) if isinstance(value, dict) else set()
    return set()


def _contains(path: Path, text: str) -> bool:
    """Whether the first 64 KiB of a file contain `text`."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return text.encode() in file.read(1 << 16)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a relative path matches one of `patterns`, part by part."""
    patterns, parts = list(patterns), name.split("/")
    if name in patterns:
        return True
    split = (pattern.split("/") for pattern in patterns)
    return any(len(p) == len(parts) and all(map(fnmatchcase, parts, p)) for p in split)


def _files(folder: Path, tops: Iterable[str] | None = None) -> list[str]:
    """Relative paths of everything but folders in `folder`, sorted; `tops`: only these and below. Links are not
    followed."""
    roots = [folder] if tops is None else [folder / name for name in tops]
    return sorted(path.relative_to(folder).as_posix() for root in roots for path in _walk(root))


def _walk(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        if path.is_symlink() or path.exists():
            yield path
        return
    for entry in path.iterdir():
        yield from _walk(entry)


def _refuse(folder: Path, names: Iterable[str], ours: Collection[str]) -> None:
    for name in names:
        path = folder / name
        part = TEMPORARY.fullmatch(path.name)  # from a process that was killed while it wrote the file
        whole = name if part is None else f"{name.rpartition('/')[0]}/{part['name']}".lstrip("/")
        if path.is_symlink() or not (whole == LIST or _fits(whole, ours)):
            kind = "a link" if path.is_symlink() else "a file"
            raise UserError(
                f"{folder} holds {name}, {kind} that near did not write: nothing is removed or replaced; "
                "move it elsewhere or name another folder"
            )


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files one by one: files that another process adds meanwhile stay."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    """Remove a folder that contains only folders."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in folder.iterdir():
        _remove_empty(entry)
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()
