"""The origin of an export: its adapters, the runs that trained them, and the base model they name."""

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from near.common.errors import UserError
from near.common.files import read_json, refuse_special_in
from near.common.records import EvalMetrics, TrainMetrics
from near.common.run_folder import ADAPTER, RunFolder
from near.models.start import adapter_digest, origin_of, run_of

log = logging.getLogger(__name__)

# endings of the names of quantised models
QUANTISED = re.compile(
    r"(-(unsloth|dynamic))*([-_.](bnb|nf4|fp8|int[48]|[48]-?bits?|w\d+a\d+|awq|gptq|gguf|hqq|eetq|aqlm|quantized))+(-dynamic)?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AdapterRun:
    """The run of train.py that an adapter belongs to; `final`: it is the run's result, not a checkpoint's."""

    files: RunFolder
    config: DictConfig
    final: bool

    @property
    def folder(self) -> Path:
        return self.files.path

    @cached_property
    def trained(self) -> TrainMetrics:
        """train_metrics.json; without values until training ends."""
        return self.files.training

    @cached_property
    def metrics(self) -> EvalMetrics | None:
        """metrics.json; None if other weights than the adapter's were evaluated, or none were."""
        return self.files.metrics if self.final and self.files.is_evaluated else None


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, its adapter_config.json, and the run it belongs to, if any.

    Attributes:
        earlier: the adapters whose further training it is, the first one first.
    """

    path: Path
    config: dict
    run: AdapterRun | None
    earlier: tuple["Adapter", ...] = ()

    @property
    def base(self) -> tuple[str | None, str | None]:
        """Name and revision of the base model. A checkpoint's adapter names a folder of the machine that trained it, so
        for checkpoints the run's configuration is read."""
        if self.run is not None and not self.run.final:
            return self.run.config.model.name_or_path, self.run.config.model.revision
        return self.config.get("base_model_name_or_path"), self.config.get("revision")

    @property
    def quantised(self) -> DictConfig | None:
        """The run's quantisation of the base (finetuning=qlora), or None."""
        return None if self.run is None else OmegaConf.select(self.run.config, "model.quantization")


def adapters_of(names: str | ListConfig, allow_targets: object = None) -> list[Adapter]:
    """The adapters of `adapter_name_or_path`.

    Args:
        names: a folder, several folders separated by commas, or a list.
        allow_targets: classes outside near that a run's configuration may name.

    Returns:
        them in the order in which they are merged. One that was trained on top of another (model.adapter_mode=stack)
        has that one before it, named or not.

    Raises:
        UserError: a folder has no adapter, its run's configuration is damaged, or the adapter beneath one would be
            merged twice.
    """
    if isinstance(names, str):
        paths = [names] if Path(names).is_dir() else [part.strip() for part in names.split(",")]
    else:
        paths = [str(path) for path in names]
    if not all(paths) or not paths:
        raise UserError(f"adapter_name_or_path={names} names no adapter; give a folder, or several as [a,b]")
    adapters: list[Adapter] = []
    for path in map(Path, paths):
        adapter, beneath = _adapter(path.expanduser(), allow_targets), origin_of(path.expanduser())
        if beneath is not None and beneath.stacked:
            merged = [adapter_digest(one.path) for one in adapters]
            if beneath.digest in merged[:-1]:
                raise UserError(
                    f"adapter_name_or_path: {path} was trained on top of {beneath.folder}, which is merged already, "
                    "with another adapter on top; leave one of them out"
                )
            if merged[-1:] != [beneath.digest]:
                log.info(f"{path} was trained on top of {beneath.folder}, which is merged first")
                adapters.append(_adapter(beneath.folder, allow_targets))
        adapters.append(adapter)
    return adapters


def _adapter(path: Path, allow_targets: object) -> Adapter:
    refuse_special_in(path, "adapter_name_or_path")
    file = path / "adapter_config.json"
    if not file.is_file():
        other = "; it is a whole model, which needs no merge" if (path / "config.json").is_file() else ""
        raise UserError(f"adapter_name_or_path={path} has no adapter_config.json{other}; name a run's adapter folder")
    config = read_json(file)
    for key in ("base_model_name_or_path", "revision"):
        if not isinstance(config.get(key), str | None):
            raise UserError(f"{file}: {key}={config[key]!r} is not text; correct the file, and set model_name_or_path")
    before, origin = (), origin_of(path)
    if origin is not None and not origin.stacked:
        start = _adapter(origin.folder, allow_targets)
        before = (*start.earlier, start)
    return Adapter(path, config, _run_of(path, allow_targets), before)


def _run_of(path: Path, allow_targets: object) -> AdapterRun | None:
    run, final = run_of(path), path.resolve().name == ADAPTER
    if run is None or not (files := RunFolder(run)).has_config:
        return None
    config = files.config(allow_targets)
    if not all(isinstance(config.get(group), DictConfig) for group in ("model", "selector")):
        return None  # not a run of near
    return AdapterRun(files, config, final)


def base_of(adapters: list[Adapter], name_or_path: str | None) -> tuple[str, str | None]:
    """Name and revision of the base model: `name_or_path` if it is set, else the first adapter's.

    Raises:
        UserError: no base is named, or the name is that of a quantised model.
    """
    name, revision = (name_or_path, None) if name_or_path else adapters[0].base
    if not name:
        raise UserError(f"{adapters[0].path}/adapter_config.json names no base model; set model_name_or_path")
    if QUANTISED.search(name) and not Path(name).is_dir():
        raise UserError(quantised_line(name, QUANTISED.sub("", name)))
    return str(name), revision


def refuse_quantised(name: str, folder: str | Path) -> None:
    """UserError if the model `name` in `folder` has quantised weights; names the unquantised model where it can."""
    if "quantization_config" not in read_json(Path(folder) / "config.json"):
        return
    unquantised = _named_base(Path(folder) / "README.md")
    if unquantised is None and QUANTISED.search(name):
        unquantised = QUANTISED.sub("", name)
    raise UserError(quantised_line(name, unquantised))


def quantised_line(name: str, unquantised: str | None) -> str:
    """The error message for a quantised base model."""
    fix = f"model_name_or_path={unquantised}" if unquantised else "model_name_or_path=NAME of the unquantised model"
    return f"the base model {name} is quantised, and merging would round its weights again; use {fix}"


def _named_base(card: Path) -> str | None:
    """The `base_model` of a model card's front matter."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        base = (yaml.safe_load(front.group(1)) or {}).get("base_model") if front else None
    except (yaml.YAMLError, AttributeError):
        return None  # people write cards: an unreadable one names no base
    return str(base[0] if isinstance(base, list) and base else base) if base else None
