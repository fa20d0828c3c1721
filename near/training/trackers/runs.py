"""The id of a job's run at a tracker, saved in the job's folder so that a resumed job continues it; and its sweep."""

import uuid
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from near.common.config import agent_sweep, identity, public
from near.common.files import digest, read_json, write_json
from near.common.outputs import claim
from near.common.sweep import in_sweep

FILE = "tracker.json"  # for each tracker the run's id, and a digest of its configuration


def existing_id(cfg: DictConfig, output_dir: Path, tracker: str) -> str | None:
    """The id of the run that the job in `output_dir` started; None for another configuration, or to start anew."""
    if cfg.overwrite or cfg.resume is None or not (output_dir / FILE).is_file():
        return None
    saved = read_json(output_dir / FILE).get(tracker)
    return saved["id"] if saved is not None and saved["of"] == _digest(cfg) else None


def save_id(cfg: DictConfig, output_dir: Path, tracker: str, run_id: str) -> None:
    claim(output_dir, "train")
    path = output_dir / FILE
    write_json(path, {**(read_json(path) if path.is_file() else {}), tracker: {"id": run_id, "of": _digest(cfg)}})


def new_id() -> str:
    """12 hex digits."""
    return uuid.uuid4().hex[:12]


def _digest(cfg: DictConfig) -> str:
    """Of what a checkpoint must share with its run."""
    return digest({k: v for k, v in identity(cfg).items() if k != "evaluation"})


def sweep_of(cfg: DictConfig, output_dir: Path) -> tuple[str | None, list[str]]:
    """The group of a job and its tags: the sweep's name, and under a W&B agent the sweep's id."""
    if (sweep := agent_sweep()) is not None:
        name = f"{cfg.sweep_name}-{sweep}" if cfg.sweep_name != "multirun" else sweep
        return name, [tag[:64] for tag in dict.fromkeys((cfg.sweep_name, sweep)) if tag != "multirun"]
    if not in_sweep():
        return None, []
    name = cfg.sweep_name if cfg.sweep_name != "multirun" else output_dir.parent.name
    return name, [name[:64]]


def described(cfg: DictConfig) -> dict:
    """The resolved configuration, and under `choices` the choice of every group."""
    choices = HydraConfig.get().runtime.choices
    return {**public(cfg), "choices": {k: str(v) for k, v in choices.items() if "hydra" not in k and v is not None}}


def flat(settings: dict, path: str = "") -> dict[str, object]:
    """Nested settings by their dotted keys."""
    pairs: dict[str, object] = {}
    for key, value in settings.items():
        name = f"{path}.{key}" if path else str(key)
        pairs |= flat(value, name) if isinstance(value, dict) and value else {name: value}
    return pairs
