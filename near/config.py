"""A composed configuration: resolvers, look-ups, what is written of it and what decides a run's outcome."""

import hashlib
import os
import re
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

CONF = Path(__file__).resolve().parent.parent / "conf"
SECRET_VARIABLE = re.compile(r"oc\.env:\s*\w*(TOKEN|KEY|SECRET|PASS|CREDENTIAL)", re.IGNORECASE)


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("near.first", _first, replace=True)
    OmegaConf.register_new_resolver("near.job", job_name, replace=True)
    OmegaConf.register_new_resolver("near.agent", _agent_dir, replace=True)


def _first(*values: object) -> object:
    return next((v for v in values if v not in (None, "")), None)


def job_name(overrides: str) -> str:
    """A sweep job's folder: its overrides, without what a path or a Hydra override can't hold."""
    name = re.sub(r"[^\w.+-]+", "-", str(overrides)).strip("-") or "default"
    if len(name) <= 100 and name in (str(overrides), "default"):
        return name  # otherwise another job's overrides may have come out the same
    return f"{name[:80]}-{hashlib.sha256(str(overrides).encode()).hexdigest()[:12]}"


def agent_sweep() -> str | None:
    """The id of the W&B sweep whose agent started this process."""
    return os.environ.get("WANDB_SWEEP_ID") or None


def _agent_dir(overrides: str) -> str:
    """The folder of a W&B agent's job, which every agent of the sweep finds again; empty where there is no agent."""
    return "" if agent_sweep() is None else f"runs/wandb/{agent_sweep()}/{job_name(overrides)}"


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
    """`cfg` resolved to plain values, fit for a file or a tracker. What refers to a secret of the environment stays a
    reference (`${oc.env:HF_TOKEN}`)."""

    def walk(node: DictConfig | ListConfig) -> dict | list:
        pairs = []
        for key in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
            raw = node._get_node(key)
            if isinstance(raw, DictConfig | ListConfig) and not raw._is_none() and not raw._is_interpolation():
                value = walk(raw)
            elif SECRET_VARIABLE.search(str(raw._value())):
                value = str(raw._value())
            else:
                value = node[key]
                value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            pairs.append((str(key), value))
        return dict(pairs) if isinstance(node, DictConfig) else [v for _, v in pairs]

    return walk(cfg)


NOT_OUTCOME = ("output_dir", "cache_dir", "sweep_name", "overwrite", "resume", "tracker", "experiment", "sweeps")
NOT_OUTCOME_BELOW = {
    "data": ("num_proc", "refresh"),
    "embedder": ("device", "batch_size", "batch_tokens", "chunk", "launcher", "workers"),
    "embedder.server": ("url", "api_key_env", "concurrency", "retries", "timeout"),
    "evaluation.graders.judge.server": ("url", "api_key_env", "concurrency", "retries", "timeout"),
    "evaluation.graders.pass_at_1": ("workers",),
    "evaluation.lm_eval": ("batch_size",),
    "evaluation": ("engine",),
    "selector.judge.server": ("url", "api_key_env", "concurrency", "retries", "timeout"),
    "index": ("block_rows", "device", "shard_rows", "launcher", "workers"),
}


def identity(cfg: DictConfig) -> dict:
    """What of `cfg` decides a run's outcome: all but where it writes, who watches and how fast it is."""
    kept = {k: v for k, v in public(cfg).items() if k not in NOT_OUTCOME}
    for path, keys in NOT_OUTCOME_BELOW.items():
        *parents, group = path.split(".")
        node = kept
        for parent in parents:
            node = node.get(parent) or {}
        if isinstance(node.get(group), dict):
            node[group] = {k: v for k, v in node[group].items() if k not in keys}
    return kept


def differences(old: object, new: object, path: str = "") -> list[str]:
    """`a.b was 1, now 2` for every leaf in which two nested values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [d for n in names for d in differences(old.get(n), new.get(n), f"{path}.{n}" if path else n)]
    return [] if old == new else [f"{path} was {old}, now {new}"]
