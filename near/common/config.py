"""A composed configuration: resolvers, look-ups, its public form, and a run's identity."""

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from near.common import secrets
from near.common.errors import UserError
from near.common.files import read_yaml
from near.common.moved import class_names

PACKAGE = Path(__file__).resolve().parents[1]  # near/

# In a wheel the configurations lie in the package; in the repository, installed with -e or not, beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

ESCAPABLE = re.compile(r"(\\*)\$\{")  # text that OmegaConf would read as a reference


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("near.first", _first, replace=True)
    OmegaConf.register_new_resolver("near.job", folder_name, replace=True)
    OmegaConf.register_new_resolver("near.joined", _joined, replace=True)
    OmegaConf.register_new_resolver("near.agent", _agent_dir, replace=True)
    OmegaConf.register_new_resolver("near.refused", _refused, replace=True)
    OmegaConf.register_new_resolver("oc.env", secrets.environment, replace=True)


def refusal(value: str, line: str) -> str:
    """A reference that replaces `value`; reading it raises UserError with `line`."""
    return f"${{near.refused:'{value.encode().hex()}','{line.encode().hex()}'}}"


def is_refused(raw: object) -> bool:
    """Whether `raw` is a reference that `refusal` made."""
    return isinstance(raw, str) and raw.startswith("${near.refused:")


def raw_nodes(node: DictConfig | ListConfig) -> list[tuple[Any, Node]]:
    """Keys (or indices) and nodes of a mapping or list, references unresolved. Looking up each costs far more."""
    content = node._content
    if isinstance(content, dict | list):
        return list(content.items() if isinstance(content, dict) else enumerate(content))
    return []  # null, missing or a reference


def _refused(value: str, line: str) -> None:
    raise UserError(bytes.fromhex(line).decode())


def raw_words(words: Iterable[str]) -> list[str]:
    """Overrides as typed. (OmegaConf resolves references when a ListConfig is iterated.)"""
    if isinstance(words, ListConfig):
        return [str(word) for word in OmegaConf.to_container(words, resolve=False)]
    return [str(word) for word in words]


def _first(*values: object) -> object:
    return next((v for v in values if v not in (None, "")), None)


def _joined(values: Sequence | str | None) -> str:
    """The elements of a list with + between them, as part of a name."""
    if values is not None and not isinstance(values, Sequence | ListConfig):
        return str(values)  # the check of types says what it must be
    return values if isinstance(values, str) else "+".join(map(str, values or ()))


def job_name(overrides: str) -> str:
    """A folder name for a sweep job: its overrides, without characters that paths or Hydra overrides can't have."""
    name = re.sub(r"[^\w.+-]+", "-", str(overrides)).strip("-") or "default"
    if len(name) <= 100 and name in (str(overrides), "default"):
        return name  # a changed name gets a digest, since other overrides may map to the same name
    return f"{name[:80]}-{hashlib.sha256(str(overrides).encode()).hexdigest()[:12]}"


def folder_name(overrides: Sequence[str], left_out: Sequence[str] = (), folder: str = "") -> str:
    """A sweep job's folder below `folder`: its overrides in order without the keys `left_out`, the seed last.

    If a folder of the same job exists under a name of an earlier version, that name.

    >>> folder_name(["seed=0", "data=files", "selector=near"], ["data"])
    'selector-near_seed-0'
    """
    words = [word for word in raw_words(overrides) if key_of(word) not in left_out]
    words.sort(key=lambda word: key_of(word) == "seed")
    name = job_name("_".join(word.replace("=", "-") for word in words))
    if not folder or Path(folder, name).exists():
        return name
    return _earlier_names(folder).get(_decisive(raw_words(overrides)), name)


def key_of(word: str) -> str:
    """The key of an override."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


NOT_IN_NAMES = (
    *("output_dir", "cache_dir", "sweep_name", "overwrite", "resume", "sweeps", "tracker"),
    *("allow_targets", "stop_at"),
)


def _decisive(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word for word in words if key_of(word) not in NOT_IN_NAMES)


@functools.cache
def _earlier_names(folder: str) -> dict[frozenset[str], str]:
    """Overrides (as Hydra saved them) to names of the job folders in `folder`, when this process first read them."""
    folders = {}
    for path in sorted(Path(folder).glob("*/.hydra/overrides.yaml")):
        with contextlib.suppress(OSError, UserError):
            words = read_yaml(path)
            folders[_decisive(map(str, words if isinstance(words, list) else []))] = path.parent.parent.name
    return folders


def swept_keys(overrides: Sequence[str], sweeper: dict) -> list[str]:
    """The keys with several values in a sweep. `overrides`: as typed; `sweeper`: its options in the configuration."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items() if value is not None]
    parsed = OverridesParser.create().parse_overrides([*words, *raw_words(overrides)])
    swept = {o.key_or_group: o.is_sweep_override() for o in parsed}
    return [key for key, several in swept.items() if several] + list(sweeper.get("search_space") or {})


def agent_sweep() -> str | None:
    """The id of the W&B sweep whose agent started this process."""
    return os.environ.get("WANDB_SWEEP_ID") or None


def agent_parameters() -> dict:
    """The parameters from the W&B agent that started this process, by key; {} outside a W&B sweep."""
    path = Path(os.environ.get("WANDB_SWEEP_PARAM_PATH") or "")
    if agent_sweep() is None or not path.is_file():
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _agent_dir(overrides: Sequence[str]) -> str:
    """The folder of a W&B agent's job, the same for every agent of the sweep; "" without an agent."""
    if agent_sweep() is None:
        return ""
    folder, words = f"runs/wandb/{agent_sweep()}", sorted(raw_words(overrides))
    keys, swept = {key_of(word) for word in words}, set(agent_parameters())
    if keys & swept:
        return f"{folder}/{folder_name(overrides, [*NOT_IN_NAMES, *(keys - swept)], folder)}"
    words = [word.replace("=", "-") for word in words if key_of(word) not in NOT_IN_NAMES]
    return f"{folder}/{job_name('_'.join(words))}"


def choices_with(group: str, option: str, other_than: str | None = None) -> list[str]:
    """The choices of a group that have `option`: `trainer`, `warmup_step` -> dynamic_mix, dynamic_select, ...

    Args:
        other_than: leave out choices of this class.
    """
    choices = []
    for path in sorted((CONF / group).glob("*.yaml")):
        node = OmegaConf.load(path)
        bases = [str(base).partition("@")[0] for base in node.get("defaults") or [] if isinstance(base, str)]
        parts = [
            node,
            node.get(group),
            *(OmegaConf.load(p) for b in bases if (p := CONF / group / f"{b}.yaml").is_file()),
        ]
        targets = {part.get("_target_") for part in parts if isinstance(part, DictConfig)}
        if other_than not in targets - {None} and any(isinstance(p, DictConfig) and option in p for p in parts):
            choices.append(path.stem)
    return choices


def select(cfg: DictConfig, key: str) -> Any:
    """The value at a dotted key; None if it or a parent is absent, null or missing."""
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


def public(cfg: DictConfig, decisive: bool = False) -> dict:
    """`cfg` resolved to plain values that may be written to files and trackers.

    Values that are read from the environment, directly or not, stay references (`${oc.env:HF_TOKEN}`). `decisive`: with
    a digest of the value after the reference, unless it is a secret.
    """

    def plain(node: DictConfig | ListConfig, key: str | int, raw: Any) -> object:
        if is_refused(raw):
            return bytes.fromhex(raw.split("'")[1]).decode()
        with secrets.watched() as names:
            try:
                value = node[key]
                value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            except OmegaConfBaseException:
                if not names:
                    raise
                value = None  # the variable is not set
        if names:
            secret = any(secrets.is_secret(name) for name in (str(key), *names))
            return secrets.reference(raw, value) if decisive and not secret else raw
        return ESCAPABLE.sub(r"\1\1\\${", value) if isinstance(value, str) else value

    def walk(node: DictConfig | ListConfig) -> dict | list:
        pairs = []
        for key in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
            raw = node._get_node(key)
            nested = isinstance(raw, DictConfig | ListConfig) and not raw._is_none() and not raw._is_interpolation()
            pairs.append((str(key), walk(raw) if nested else plain(node, key, raw._value())))
        return dict(pairs) if isinstance(node, DictConfig) else [v for _, v in pairs]

    return walk(cfg)


NOT_OUTCOME = (
    "output_dir",
    "cache_dir",
    "sweep_name",
    "overwrite",
    "resume",
    "stop_at",
    "race",
    "tracker",
    "experiment",
    "sweeps",
    "dry_run",
    "allow_targets",
)
NOT_OUTCOME_BELOW = {
    "data": ("labels", "num_proc", "refresh"),
    "trainer": ("nonfinite_steps", "padding_free"),
    "embedder": ("device", "batch_size", "batch_tokens", "chunk", "launcher", "workers"),
    "embedder.server": ("url", "api_key_env", "concurrency", "retries", "timeout"),
    "evaluation.graders.judge.server": ("url", "api_key_env", "concurrency", "retries", "timeout"),
    "evaluation.graders.pass_at_1": ("workers",),
    "evaluation.lm_eval": ("batch_size",),
    "evaluation": ("batch_tokens", "engine", "unsafe"),
    "scoring": ("batch_tokens",),
    "selector.judge.server": ("url", "api_key_env", "concurrency", "retries", "timeout"),
    "index": ("block_rows", "device", "shard_rows", "launcher", "workers"),
}


LATER = {  # options that came later, with the value that runs before them had
    ("model", "adapter"): None,
    ("model", "adapter_mode"): "continue",
    ("embedder", "adapter"): None,
    ("trainer", "packing"): False,
    ("scoring", "precondition"): None,
    ("scoring", "damping"): 0.1,
    ("selector", "budgets"): None,
    ("trainer", "keep"): "last",
    ("trainer", "patience"): None,
    ("data.eval", "validation"): None,
}


def identity(cfg: DictConfig) -> dict:
    """The part of `cfg` that determines a run's outcome: without output folders, trackers, options of speed, and the
    modules of classes."""
    values = {k: v for k, v in public(cfg, decisive=True).items() if k not in NOT_OUTCOME}
    stages = [f"plan.{name}.by" for name in values.get("plan") or ()]
    within = {
        stage + path.removeprefix("selector"): keys
        for stage in stages
        for path, keys in NOT_OUTCOME_BELOW.items()
        if path.startswith("selector.")
    }
    for path, keys in (NOT_OUTCOME_BELOW | within).items():
        *parents, group = path.split(".")
        node = values
        for parent in parents:
            node = (node.get(parent) if isinstance(node, dict) else None) or {}
        if isinstance(node, dict) and isinstance(node.get(group), dict):
            node[group] = {k: v for k, v in node[group].items() if k not in keys}
    return class_names(as_before(values))


def as_before(values: dict) -> dict:
    """Groups of plain values without the options of LATER that have the value of before, without columns of numbers
    that are not named, and without data.decontaminate where it leaves no row out."""
    for (path, key), before in LATER.items():
        node: Any = values
        for group in path.split("."):
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get(key) == before:
            node.pop(key, None)
    data = values.get("data") or {}
    for columns in (part["columns"] for part in data.values() if isinstance(part, dict) and part.get("columns")):
        for name in ("weight", "score"):
            if columns.get(name) is None:
                columns.pop(name, None)
    if (data.get("decontaminate") or {}).get("action") != "drop":  # the rows are the same
        data.pop("decontaminate", None)
    return values


def differences(old: object, new: object, path: str = "") -> list[str]:
    """`a.b was 1, now 2` for every differing leaf of two nested values."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [d for n in names for d in differences(old.get(n), new.get(n), f"{path}.{n}" if path else n)]
    return [] if old == new else [f"{path} was {old}, now {new}"]
