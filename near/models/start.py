"""The adapter that training goes on from (`model.adapter`): its files, their digest, and what it was trained on itself.

    model.adapter_mode=continue  its weights are trained further
    model.adapter_mode=stack     it is merged into the base in memory, and a new adapter (or all weights) is trained

A run has a copy of these files in start/, so that its result can be evaluated and merged without the original.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from near.common.errors import UserError, one_line
from near.common.files import digest, file_digest, read_json, refuse_special, refuse_special_in
from near.common.run_folder import ADAPTER, CHECKPOINTS, START

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)
RECORD = "start.json"  # beside the copy: the original's folder, its digest, and the mode


@dataclass(frozen=True)
class Origin:
    """The start of a run: the copy of its files, the folder they were in, and model.adapter_mode."""

    copy: Path
    adapter: Path
    mode: str
    digest: str

    @property
    def stacked(self) -> bool:
        return self.mode == "stack"

    @property
    def folder(self) -> Path:
        """The original folder if its files are still the same, else the copy."""
        same = all((self.adapter / name).is_file() for name in FILES) and adapter_digest(self.adapter) == self.digest
        return self.adapter if same else self.copy


def mode_of(model: Mapping | DictConfig) -> str | None:
    """`continue` or `stack`; None without an adapter. model: the configuration's `model`."""
    return None if model.get("adapter") is None else model.get("adapter_mode") or "continue"


def start_folder(model: Mapping | DictConfig) -> Path | None:
    """The folder of model.adapter's files; None if it is not set. UserError if it has none."""
    return None if model.get("adapter") is None else adapter_folder(model["adapter"])


def adapter_folder(name: str, option: str = "model.adapter") -> Path:
    """The folder with an adapter's files: `name` (an adapter, a checkpoint, or a hub id, which is downloaded), or
    adapter/ of a run's folder. UserError if there is none, or its weights are not in safetensors."""
    path = Path(name).expanduser()
    refuse_special(path, option)
    if not path.is_dir():
        path = _downloaded(name, option)
    for folder in (path, path / ADAPTER):
        if not (folder / CONFIG).is_file():
            continue
        refuse_special_in(folder, option)
        if not (folder / WEIGHTS).is_file():
            raise UserError(
                f"{option}={name} has no {WEIGHTS}; near reads no other format (a .bin file may execute code): save it "
                "as safetensors"
            )
        return folder
    if (path / "config.json").is_file() or (path / "model").is_dir():
        raise UserError(f"{option}={name} is a whole model, not an adapter; use model.name_or_path for it")
    unfinished = "; its training has not ended: name one of its checkpoints" if (path / CHECKPOINTS).is_dir() else ""
    raise UserError(f"{option}={name} has no {CONFIG}{unfinished or '; name an adapter, a run or a checkpoint'}")


def check_here(cfg: DictConfig) -> None:
    """UserError if model.adapter or embedder.adapter would be downloaded, which a dry run does not do."""
    for group in ("model", "embedder"):
        name = (cfg.get(group) or {}).get("adapter")
        if name is None or Path(name).expanduser().exists() or not is_hub_id(name):
            continue
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(name, allow_patterns=list(FILES), local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{group}.adapter={name} would be downloaded, and dry_run downloads nothing; download it first: "
                f"hf download {name}"
            ) from error


def is_hub_id(name: str) -> bool:
    """Whether an adapter's name that is no folder would be looked up on the hub."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


@functools.cache  # one commit for all jobs of the process, and one request
def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(FILES)))


def _downloaded(name: str, option: str) -> Path:
    if not is_hub_id(name):
        raise UserError(f"{option}={name}: no such folder; name an adapter, a run, a checkpoint or a hub id")
    from huggingface_hub.errors import HFValidationError

    try:
        return _snapshot(name)
    except (OSError, ValueError, HFValidationError, RuntimeError) as error:
        raise UserError(
            f"{option}={name}: no such folder, and the hub did not provide it ({one_line(error)[:160]}); name the "
            f"folder of an adapter (a run that started from it has a copy in {START}/)"
        ) from error


def adapter_digest(folder: Path) -> str:
    """32 hex digits that identify an adapter's files."""
    return digest([file_digest(folder / name) for name in FILES])


def start_digest(model: Mapping | DictConfig) -> str | None:
    """The digest of model.adapter's files; None if it is not set."""
    folder = start_folder(model)
    return None if folder is None else adapter_digest(folder)


def by_content(config: dict, cfg: DictConfig) -> dict:
    """`config`, a part of `cfg` as plain values, with the digests of adapters' files in place of their folders: a copy
    may stand in for them, and other files in the same folder may not."""
    for group in ("model", "embedder"):
        if (config.get(group) or {}).get("adapter") is not None:
            config[group]["adapter"] = adapter_digest(adapter_folder(cfg[group].adapter, f"{group}.adapter"))
    return config


def run_of(folder: Path) -> Path | None:
    """The folder of the run that the adapter in `folder` lies in: RUN/adapter or RUN/checkpoints/checkpoint-N."""
    folder = folder.resolve()
    if folder.name == ADAPTER:
        return folder.parent
    return folder.parent.parent if folder.parent.name == CHECKPOINTS else None


def origin_of(folder: Path) -> Origin | None:
    """What the run went on from that trained the adapter in `folder`; None if it began anew, or is no run of near."""
    run = run_of(folder)
    if run is None or not (run / START / RECORD).is_file():
        return None
    record = read_json(run / START / RECORD)
    values = [record.get(name) for name in ("adapter", "mode", "digest")]
    if not all(isinstance(value, str) for value in values) or values[1] not in ("continue", "stack"):
        raise UserError(f"{run / START / RECORD} is damaged; name another run")
    return Origin(run / START, Path(values[0]), values[1], values[2])


def check_beneath(model, folder: Path) -> None:
    """UserError if the adapter in `folder` was trained on top of another one, which is not merged into `model`."""
    origin = origin_of(folder)
    if origin is not None and origin.stacked and getattr(model, "merged_adapter", None) != origin.digest:
        raise UserError(
            f"{folder} was trained on top of another adapter, which is not merged into this model: set "
            f"model.adapter={origin.folder} and model.adapter_mode=stack, or merge both into one model: python "
            f"merge.py adapter_name_or_path={folder} export_dir=OUT"
        )
