"""Whose run a job is: its id at a tracker, kept in the job's folder so that a resumed job goes on in it; its sweep."""

import uuid
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from near.common.config import agent_sweep, identity, public
from near.common.files import digest, read_json, write_json
from near.common.outputs import claim
from near.common.sweep import in_sweep

FILE = "tracker.json"  # by tracker: id, and what configuration it is of


def kept_id(cfg: DictConfig, output_dir: Path, tracker: str) -> str | None:
    """The id of the run that the job in `output_dir` began; None where it is another job's, or to begin anew."""
    if cfg.overwrite or cfg.resume is None or not (output_dir / FILE).is_file():
        return None
    told = read_json(output_dir / FILE).get(tracker)
    return told["id"] if told is not None and told["of"] == _of(cfg) else None


def keep_id(cfg: DictConfig, output_dir: Path, tracker: str, run_id: str) -> None:
    claim(output_dir, "train")
    path = output_dir / FILE
    write_json(path, {**(read_json(path) if path.is_file() else {}), tracker: {"id": run_id, "of": _of(cfg)}})


def new_id() -> str:
    """12 hex digits."""
    return uuid.uuid4().hex[:12]


def _of(cfg: DictConfig) -> str:
    """What a checkpoint must share with its run, too."""
    return digest({k: v for k, v in identity(cfg).items() if k != "evaluation"})


def sweep_of(cfg: DictConfig, output_dir: Path) -> tuple[str | None, list[str]]:
    """The group of a job, and its tags: the sweep's name; under a W&B agent also that sweep's id."""
    if (sweep := agent_sweep()) is not None:
        name = f"{cfg.sweep_name}-{sweep}" if cfg.sweep_name != "multirun" else sweep
        return name, [tag[:64] for tag in dict.fromkeys((cfg.sweep_name, sweep)) if tag != "multirun"]
    if not in_sweep():
        return None, []
    name = cfg.sweep_name if cfg.sweep_name != "multirun" else output_dir.parent.name
    return name, [name[:64]]


def described(cfg: DictConfig) -> dict:
    """The full resolved configuration, and under `choices` which choice of every group it is made of."""
    choices = HydraConfig.get().runtime.choices
    return {**public(cfg), "choices": {k: str(v) for k, v in choices.items() if "hydra" not in k and v is not None}}


def flat(told: dict, path: str = "") -> dict[str, object]:
    """Nested settings by their dotted keys."""
    pairs: dict[str, object] = {}
    for key, value in told.items():
        name = f"{path}.{key}" if path else str(key)
        pairs |= flat(value, name) if isinstance(value, dict) and value else {name: value}
    return pairs
