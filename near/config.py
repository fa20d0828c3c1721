"""A composed configuration, checked before anything heavy is imported; all its faults in one error."""

import hashlib
import re
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from near.errors import UserError, did_you_mean
from near.signature import keywords

CONF = Path(__file__).resolve().parent.parent / "conf"
HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
SECRET = re.compile(r"(token|api_?key|secret|password)$", re.IGNORECASE)
# key: (type, least value). Where a key may be null, null passes.
NUMBERS: dict[str, tuple[type, float]] = {
    "max_K": (int, 1),
    "seed": (int, 0),
    "index.block_rows": (int, 1),
    "embedder.batch_size": (int, 1),
    "embedder.max_length": (int, 1),
    "embedder.dim": (int, 1),
    "data.cutoff_len": (int, 2),
    "data.num_proc": (int, 1),
    "data.candidates.limit": (int, 1),
    "data.queries.limit": (int, 1),
    "data.eval.limit": (int, 1),
    "trainer.warmup_step": (int, 0),
    "trainer.update_step": (int, 1),
    "trainer.update_times": (int, 0),
    "trainer.cycles": (int, 1),
    "finetuning.r": (int, 1),
    "evaluation.batch_size": (int, 1),
    "evaluation.max_new_tokens": (int, 1),
    "export_size": (float, 1e-5),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "data.on_error": ("raise", "skip"),
    "data.candidates.format": ("auto", "alpaca", "messages", "sharegpt", "prompt_completion"),
    "data.queries.format": ("auto", "alpaca", "messages", "sharegpt", "prompt_completion"),
    "data.eval.format": ("auto", "alpaca", "messages", "sharegpt", "prompt_completion"),
    "embedder.embed": ("prompt", "answer", "both"),
    "model.dtype": ("auto", "float32", "bfloat16", "float16"),
    "export_dtype": ("float32", "bfloat16", "float16"),
    "export_device": ("cpu", "auto"),
}
# What the schedule decides is not the user's to set beside it.
SCHEDULED = {
    "max_steps": "trainer.warmup_step, trainer.update_step and trainer.update_times",
    "num_train_epochs": "trainer.update_times (or trainer.cycles)",
    "output_dir": "output_dir",
    "seed": "seed",
    "data_seed": "seed",
    "report_to": "tracker",
    "resume_from_checkpoint": "resume",
    "train_sampling_strategy": "selector",
    "remove_unused_columns": "data.*.columns",
}
NOT_CONFIGURATION = ("output_dir", "cache_dir", "sweep_name", "overwrite", "resume", "tracker", "experiment", "sweeps")


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("near.first", _first, replace=True)
    OmegaConf.register_new_resolver("near.job", job_name, replace=True)


def _first(*values: object) -> object:
    return next((v for v in values if v not in (None, "")), None)


def job_name(overrides: str) -> str:
    """A sweep job's folder: its overrides, without what a path or a Hydra override can't hold."""
    name = re.sub(r"[^\w.+-]+", "-", str(overrides)).strip("-") or "default"
    if len(name) <= 100:
        return name
    return f"{name[:80]}-{hashlib.sha256(str(overrides).encode()).hexdigest()[:12]}"


def check(cfg: DictConfig) -> None:
    """Raise one UserError that lists every fault found in `cfg`; imports nothing heavy."""
    faults = [f"{key} is missing: set {key}=..." for key in sorted(OmegaConf.missing_keys(cfg))]
    faults += _target_faults(cfg, "")
    faults += _number_faults(cfg) + _choice_faults(cfg) + _schedule_faults(cfg)
    if faults:
        raise UserError("; ".join(faults))


def _target_faults(node: DictConfig | ListConfig, path: str) -> list[str]:
    """Keys of every `_target_` node that its class does not take (`+selector.foo=1` composes happily)."""
    faults = []
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        child = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig) and not child._is_none() and not child._is_missing():
            faults += _target_faults(child, f"{path}.{key}" if path else str(key))
    if isinstance(node, DictConfig) and "_target_" in node:
        try:
            taken = keywords(node._target_)
        except UserError as error:
            return [*faults, f"{path}: {error}"]
        if taken is not None:
            for key in node:
                if key not in taken and key not in HYDRA_KEYS:
                    cls = node._target_.rpartition(".")[2]
                    faults.append(f"{path}.{key} is not an option of {cls}{did_you_mean(str(key), taken)}")
    return faults


def _number_faults(cfg: DictConfig) -> list[str]:
    faults = []
    for key, (kind, least) in NUMBERS.items():
        value = select(cfg, key)
        if value is None:
            continue
        numeric = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        if not numeric:
            faults.append(f"{key}={value} is not a {'whole ' if kind is int else ''}number")
        elif value < least:
            faults.append(f"{key}={value} is too small; use {key}>={least}")
    return faults


def _choice_faults(cfg: DictConfig) -> list[str]:
    return [
        f"{key}={value} is not one of {', '.join(choices)}"
        for key, choices in CHOICES.items()
        if (value := select(cfg, key)) is not None and value not in choices
    ]


def _schedule_faults(cfg: DictConfig) -> list[str]:
    args = select(cfg, "trainer.args")
    if args is None or select(cfg, "trainer.update_step") is None:
        return []
    faults = [f"trainer.args.{k} is set by the schedule; use {v}" for k, v in SCHEDULED.items() if k in args]
    for key in ("eval_strategy", "save_strategy", "logging_strategy"):
        if str(args.get(key, "")).endswith("epoch"):
            faults.append(f"trainer.args.{key}=epoch counts slices of rounds, not passes; use steps")
    if args.get("dataloader_persistent_workers"):
        faults.append("trainer.args.dataloader_persistent_workers=true keeps stale rows; leave it false")
    if cfg.trainer.warmup_step == 0 and cfg.trainer.update_times == 0:
        faults.append("trainer.warmup_step=0 with trainer.update_times=0 trains no step; raise one of them")
    return faults


def select(cfg: DictConfig, key: str) -> object:
    """The value at a dotted key, None where it or a parent is absent, null or missing."""
    return OmegaConf.select(cfg, key, default=None, throw_on_missing=False)


def flat_keys(cfg: DictConfig) -> list[str]:
    """Every dotted key of `cfg`, without resolving anything."""

    def walk(node: dict, path: str) -> list[str]:
        keys = []
        for key, value in node.items():
            keys.append(full := f"{path}.{key}" if path else str(key))
            if isinstance(value, dict):
                keys += walk(value, full)
        return keys

    return walk(OmegaConf.to_container(cfg, resolve=False), "")


def public(cfg: DictConfig) -> dict:
    """`cfg` resolved to plain values, fit for a file or a tracker: what comes from the environment stays a reference
    (`${oc.env:HF_TOKEN}`), what is named like a secret is starred out."""

    def walk(node: DictConfig | ListConfig) -> dict | list:
        keys = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
        pairs = []
        for key in keys:
            raw = node._get_node(key)
            if isinstance(raw, DictConfig | ListConfig) and not raw._is_none() and not raw._is_interpolation():
                value = walk(raw)
            elif raw._is_interpolation() and "oc.env" in str(raw._value()) and SECRET.search(str(raw._value())[:-1]):
                value = str(raw._value())
            else:
                value = node[key]
                value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
                if isinstance(value, str) and SECRET.search(str(key)):
                    value = "***"
            pairs.append((str(key), value))
        return dict(pairs) if isinstance(node, DictConfig) else [v for _, v in pairs]

    return walk(cfg)


def identity(cfg: DictConfig) -> dict:
    """What of `cfg` decides a run's outcome: all but where it writes and who watches."""
    return {k: v for k, v in public(cfg).items() if k not in NOT_CONFIGURATION}
