"""Whether training can go on from model.adapter: checked from its files, before a model is loaded."""

import logging
import re
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

from near.common.config import select
from near.common.errors import UserError, as_user_error, reading
from near.common.files import read_json
from near.common.run_folder import START, RunFolder
from near.common.text import plural
from near.models.loading import base_folder
from near.models.start import CONFIG, WEIGHTS, mode_of, origin_of, run_of, start_folder

log = logging.getLogger(__name__)

# Options of peft's LoraConfig that decide what the weights of an adapter mean, beside its target modules.
SAME = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "bias")
SAME += ("lora_bias", "layer_replication", "trainable_token_indices", "fan_in_fan_out")
# Values of init_lora_weights that change the base's weights, by the start of their names.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
LAST = re.compile(r"[/:]")  # before the last part of a model's name
PREFIX = "base_model.model."  # of the names in an adapter's file


def check_start(cfg: DictConfig, cache_dir: str, output_dir: Path | None = None, whole: bool = True) -> None:
    """Check model.adapter against the base model, and (model.adapter_mode=continue) against `finetuning`.

    Args:
        cfg: the configuration of train.py or select.py.
        cache_dir: where built-in assets are cached.
        output_dir: of the run.
        whole: also what needs the base model's files, which are downloaded.

    Raises:
        UserError: training can't go on from it.
    """
    folder = start_folder(cfg.model)
    if folder is None:
        return
    name, mode, config = cfg.model.adapter, mode_of(cfg.model), read_json(folder / CONFIG)
    option = f"model.adapter={name}"
    merged = f"python merge.py adapter_name_or_path={name} export_dir=OUT, then model.name_or_path=OUT"
    inside = output_dir is not None and folder.resolve().is_relative_to(output_dir.resolve())
    if inside and folder.resolve() != (output_dir / START).resolve():
        raise UserError(f"{option} lies in output_dir, and training would replace it; use another output_dir")
    origin = origin_of(folder)
    if origin is not None and origin.stacked:
        raise UserError(
            f"{option} was trained on top of {origin.adapter}, and training goes on from one adapter; merge both "
            f"first: {merged}"
        )
    initial = str(config.get("init_lora_weights", ""))
    if initial.startswith(CHANGES_BASE):
        raise UserError(
            f"{option} was saved with init_lora_weights={initial}: it belongs to a base whose weights that changed; "
            "convert it to a LoRA adapter of the unchanged base (PEFT: path_initial_model_for_weight_conversion)"
        )
    if mode == "stack":
        if cfg.model.get("quantization") is not None:
            raise UserError(
                "model.adapter_mode=stack would merge into quantised weights and round them again; merge into whole "
                f"weights first, which are then quantised: {merged}"
            )
        _check_reference(cfg, merged)
    elif "finetuning" in cfg and "_target_" not in cfg.finetuning:
        raise UserError(
            "finetuning=full has no adapter to train further; model.adapter_mode=stack merges it and trains all weights"
        )
    if whole:
        _check_base(cfg, cache_dir, folder, config)
    if mode == "continue" and "finetuning" in cfg:
        _check_same(cfg, cache_dir, folder, config, whole)


def _check_reference(cfg: DictConfig, merged: str) -> None:
    mixer = cfg.get("mixer")
    if "_target_" not in cfg.get("finetuning", {"_target_": ""}) and mixer and mixer.get("reference", "") is None:
        raise UserError(
            "mixer.reference=null is the model before training, and with model.adapter_mode=stack and finetuning=full "
            f"no file has its weights; merge first: {merged}"
        )


def _check_base(cfg: DictConfig, cache_dir: str, folder: Path, config: dict) -> None:
    """UserError if the adapter names another base model; where it names a folder of another machine, the last part of
    the names is compared. That its weights fit is checked when it is loaded."""
    model, run = cfg.model, run_of(folder)
    named = [(config.get("base_model_name_or_path"), config.get("revision"))]
    if run is not None and RunFolder(run).has_config:
        trained = RunFolder(run).config(cfg.get("allow_targets"))
        named.insert(0, (select(trained, "model.name_or_path"), select(trained, "model.revision")))
        before, now = ((select(c, "model.quantization") is not None) for c in (trained, cfg))
        if before != now:
            kinds = {True: "quantised", False: "not quantised"}
            log.warning(f"the base of model.adapter={model.adapter} was {kinds[before]}, and is {kinds[now]} now")
    named = [(str(name), revision) for name, revision in named if name]
    if not named:
        log.info(f"model.adapter={model.adapter} names no base model: its weights decide whether it fits")
        return
    local = Path(base_folder(model, cache_dir)).resolve()
    for name, revision in named:
        same = name == model.name_or_path or Path(name).expanduser().resolve() == local
        same = same or LAST.split(name)[-1].lower() == LAST.split(model.name_or_path)[-1].lower()
        if same and revision in (None, model.revision, "main"):
            return
        if same and model.revision is None:
            raise UserError(
                f"model.adapter={model.adapter} was trained on revision {revision} of {name}; set "
                f"model.revision={revision}"
            )
    name = named[0][0]
    raise UserError(
        f"model.adapter={model.adapter} was trained on {name}, not on model.name_or_path={model.name_or_path}; set "
        f"model.name_or_path={name}, or correct base_model_name_or_path in {folder / CONFIG} if both are the same model"
    )


def _check_same(cfg: DictConfig, cache_dir: str, folder: Path, config: dict, whole: bool) -> None:
    """UserError if `finetuning` is not the LoRA of the adapter."""
    option = f"model.adapter={cfg.model.adapter}"
    stack = "model.adapter_mode=stack trains a new adapter on top of it"
    with as_user_error((ValueError, TypeError), "finetuning: peft refuses these values", "change them"):
        ours = instantiate(cfg.finetuning, _convert_="all")
    if config.get("peft_type") != str(getattr(ours.peft_type, "value", ours.peft_type)):
        raise UserError(f"{option} is of type {config.get('peft_type')}, and finetuning trains LoRA; {stack}")
    if str(ours.init_lora_weights).startswith(CHANGES_BASE):
        raise UserError(
            f"finetuning.init_lora_weights={ours.init_lora_weights} is how a new adapter begins, and {option} is "
            f"trained further; leave it out, or: {stack}"
        )
    values = ours.to_dict()
    words = [
        _word(cfg.finetuning, name, config.get(name))
        for name in SAME
        if _plain(config.get(name)) != _plain(values.get(name))
    ]
    if words:
        raise UserError(f"{option} is another LoRA than finetuning describes; type {' '.join(words)}, or: {stack}")
    if not whole:
        return
    theirs, chosen = _adapted(folder), OmegaConf.to_container(cfg.finetuning, resolve=True)
    if theirs == (targeted := _targeted(cfg, cache_dir, chosen)):
        return
    shortest = config.get("target_modules")
    for value in ("all-linear", sorted({name.rpartition(".")[2] for name in theirs})):
        if _targeted(cfg, cache_dir, {"target_modules": value}) == theirs:
            shortest = value
            break
    raise UserError(
        f"{option} adapts other layers than finetuning.target_modules "
        f"({plural(len(theirs ^ targeted), 'layer differs', 'layers differ')}, first {min(theirs ^ targeted)}); type "
        f"{_word(cfg.finetuning, 'target_modules', shortest)}, or: {stack}"
    )


def _plain(value: object) -> object:
    """`value` for comparison: empty ones are alike, and the order of names counts for nothing."""
    if value in (None, False, {}, [], "none"):
        return None
    return sorted(map(str, value)) if isinstance(value, list | set | tuple) else value


def _word(finetuning: DictConfig, name: str, value: object) -> str:
    """The override that sets finetuning.NAME to `value`."""
    value = sorted(value) if isinstance(value, list) else value
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, list | dict) or not text.replace("_", "").replace("-", "").replace(".", "").isalnum():
        text = f"'{text}'" if isinstance(value, str) else text.replace("'", "").replace(" ", "")
        return f'"{"" if name in finetuning else "+"}finetuning.{name}={text}"'
    return f"{'' if name in finetuning else '+'}finetuning.{name}={text}"


def _adapted(folder: Path) -> set[str]:
    """Names of the layers that the adapter's file has LoRA matrices of."""
    with reading(folder / WEIGHTS), safe_open(folder / WEIGHTS, framework="numpy") as file:
        names = list(file.keys())
    marks = (".lora_A", ".lora_embedding_A")
    return {name.removeprefix(PREFIX).partition(mark)[0] for name in names for mark in marks if mark in name}


def _targeted(cfg: DictConfig, cache_dir: str, finetuning: dict) -> set[str]:
    """Names of the layers that a new adapter by `finetuning` would have, found on a model without weights."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, trusted = base_folder(cfg.model, cache_dir), cfg.model.trust_remote_code
    with reading(f"model.name_or_path={cfg.model.name_or_path}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    names = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    chosen = {name: finetuning.get(name) for name in names}
    with as_user_error((ValueError, TypeError), "finetuning: peft refuses these values", "change them"):
        adapted = get_peft_model(model, LoraConfig(r=1, task_type="CAUSAL_LM", init_lora_weights=False, **chosen))
    layers = {name for name, layer in adapted.named_modules() if isinstance(layer, LoraLayer)}
    return {name.removeprefix(PREFIX) for name in layers}
