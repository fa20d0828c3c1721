"""Where an export comes from: its adapters, the runs that trained them, and the base model they name."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from near.common.errors import UserError
from near.common.files import read_json, refuse_special_in
from near.common.run_folder import ADAPTER, CHECKPOINTS, RunFolder

# how the field marks a quantised copy of a model, at the end of its name
QUANTISED = re.compile(
    r"(-(unsloth|dynamic))*([-_.](bnb|nf4|fp8|int[48]|[48]-?bits?|w\d+a\d+|awq|gptq|gguf|hqq|eetq|aqlm|quantized))+(-dynamic)?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AdapterRun:
    """A folder of train.py that an adapter lies in; `final`: the adapter is its result, not a checkpoint's."""

    files: RunFolder
    config: DictConfig
    final: bool

    @property
    def folder(self) -> Path:
        return self.files.path

    @cached_property
    def trained(self) -> dict:
        """train_metrics.json; empty until training ends."""
        return self.files.training

    @cached_property
    def metrics(self) -> dict:
        """metrics.json; empty where other weights than the adapter's were evaluated, or none."""
        return self.files.metrics if self.final else {}


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, its adapter_config.json, and the run it lies in."""

    path: Path
    config: dict
    run: AdapterRun | None

    @property
    def base(self) -> tuple[str | None, str | None]:
        """The base model that it names, and its revision. A checkpoint names a folder of the machine that trained it,
        so there the run's configuration counts."""
        if self.run is not None and not self.run.final:
            return self.run.config.model.name_or_path, self.run.config.model.revision
        return self.config.get("base_model_name_or_path"), self.config.get("revision")

    @property
    def quantised(self) -> DictConfig | None:
        """How its run quantised the base (finetuning=qlora); None where it did not."""
        return None if self.run is None else OmegaConf.select(self.run.config, "model.quantization")


def adapters_of(given: str | ListConfig, allow_targets: object = None) -> list[Adapter]:
    """The adapters of `adapter_name_or_path`: a folder, several with commas between, or a list.

    UserError where one holds no adapter, or its run's configuration is damaged.
    """
    if isinstance(given, str):
        paths = [given] if Path(given).is_dir() else [part.strip() for part in given.split(",")]
    else:
        paths = [str(path) for path in given]
    if not all(paths) or not paths:
        raise UserError(f"adapter_name_or_path={given} names no adapter; give a folder, or several as [a,b]")
    return [_adapter(Path(path).expanduser(), allow_targets) for path in paths]


def _adapter(path: Path, allow_targets: object) -> Adapter:
    refuse_special_in(path, "adapter_name_or_path")
    file = path / "adapter_config.json"
    if not file.is_file():
        other = "; this model has no adapter and needs no merge" if (path / "config.json").is_file() else ""
        raise UserError(
            f"adapter_name_or_path={path}: no adapter_config.json there{other}; give a run's adapter folder"
        )
    config = read_json(file)
    for key in ("base_model_name_or_path", "revision"):
        if not isinstance(config.get(key), str | None):
            raise UserError(f"{file}: {key}={config[key]!r} is not text; set model_name_or_path and mend the file")
    return Adapter(path, config, _run_of(path, allow_targets))


def _run_of(path: Path, allow_targets: object) -> AdapterRun | None:
    path = path.resolve()
    final = path.name == ADAPTER
    if not final and path.parent.name != CHECKPOINTS:
        return None
    files = RunFolder(path.parent if final else path.parent.parent)
    if not files.has_config:
        return None
    config = files.config(allow_targets)
    if not all(isinstance(config.get(group), DictConfig) for group in ("model", "selector")):
        return None  # somebody else's
    return AdapterRun(files, config, final)


def base_of(adapters: list[Adapter], given: str | None) -> tuple[str, str | None]:
    """Name and revision of the base model: `given`, or what the first adapter names.

    UserError where none is named, or its name is a quantised copy's.
    """
    name, revision = (given, None) if given else adapters[0].base
    if not name:
        raise UserError(f"{adapters[0].path}/adapter_config.json names no base model; set model_name_or_path")
    if QUANTISED.search(name) and not Path(name).is_dir():
        raise UserError(quantised_line(name, QUANTISED.sub("", name)))
    return str(name), revision


def refuse_quantised(name: str, folder: str | Path) -> None:
    """UserError where the model in `folder` holds quantised weights, with the name of what it was made of."""
    if "quantization_config" not in read_json(Path(folder) / "config.json"):
        return
    unquantised = _named_base(Path(folder) / "README.md")
    if unquantised is None and QUANTISED.search(name):
        unquantised = QUANTISED.sub("", name)
    raise UserError(quantised_line(name, unquantised))


def quantised_line(name: str, unquantised: str | None) -> str:
    fix = f"model_name_or_path={unquantised}" if unquantised else "model_name_or_path=NAME of the unquantised model"
    return f"the base model {name} is quantised, and a merge would round its weights once more; use {fix}"


def _named_base(card: Path) -> str | None:
    """The `base_model` of a model card's front matter."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        told = (yaml.safe_load(found.group(1)) or {}).get("base_model") if found else None
    except (yaml.YAMLError, AttributeError):
        return None  # a card is prose: one that can't be read names nothing
    return str(told[0] if isinstance(told, list) and told else told) if told else None
