"""What an earlier run left in an output folder: a result, checkpoints to resume from, or files to remove."""

import logging
from pathlib import Path

import yaml
from omegaconf import DictConfig

from near.common.config import differences, public
from near.common.errors import UserError
from near.common.files import aside, folder_aside, link, write_json
from near.common.moved import class_names
from near.common.outputs import REMOVED, remove
from near.common.records import RunIdentity
from near.common.run_folder import CONFIG, START, RunFolder
from near.common.sweep import in_sweep
from near.evaluation.eval import summary
from near.models.start import FILES, RECORD, adapter_digest, mode_of, start_folder
from near.training.rounds.state import read_checkpoint

log = logging.getLogger(__name__)


def finished(output_dir: Path, identity: RunIdentity, overwrite: bool) -> bool:
    """Whether the same run has finished in `output_dir`. Raises UserError if another run has."""
    files = RunFolder(output_dir)
    if overwrite or not files.is_evaluated or not files.is_trained:
        return False
    differing = differences(class_names(files.training.identity.to_json()), identity.to_json())
    if differing:
        raise _another(output_dir, differing, "overwrite=true or ")
    metrics = files.metrics
    if metrics.target_loss is None:  # it diverged
        return False
    log.info(f"{output_dir} is done already: {summary(metrics)}")
    return True


def refuse_another(output_dir: Path, identity: RunIdentity) -> None:
    """UserError if a run of other options has finished in `output_dir`."""
    files = RunFolder(output_dir)
    if files.is_evaluated and files.is_trained:
        config = class_names(files.training.identity.to_json())["config"]
        if differing := differences(config, identity.to_json()["config"]):
            raise _another(output_dir, differing)


def _another(output_dir: Path, differing: list[str], fix: str = "") -> UserError:
    place = "another sweep_name" if in_sweep() else "another output_dir"
    return UserError(f"{output_dir} holds a finished run with another configuration ({differing[0]}); set {fix}{place}")


def newest_checkpoint(cfg: DictConfig, output_dir: Path) -> Path | None:
    """The checkpoint to resume from: that of `resume`, or for `auto` the newest complete one of `output_dir`."""
    if cfg.resume not in (None, "auto"):
        if not (Path(cfg.resume) / "trainer_state.json").is_file():
            raise UserError(
                f"resume={cfg.resume} is not a complete checkpoint (no trainer_state.json); try resume=auto"
            )
        return Path(cfg.resume)
    if cfg.resume is None or cfg.overwrite:
        return None
    for folder in RunFolder(output_dir).checkpoints():
        try:
            read_checkpoint(folder)
        except UserError as error:
            log.info(f"skipped a checkpoint: {error}")
            continue
        log.info(f"resuming from {folder}")
        return folder
    return None


def clear(output_dir: Path) -> None:
    """Remove the files of an earlier run from its output folder."""
    remove(output_dir, *REMOVED)


def keep_start(model: DictConfig, output_dir: Path) -> None:
    """Keep the files of model.adapter, linked or copied, in start/ of the run; without an adapter remove what an
    earlier run left there. `model`: the configuration's."""
    folder, target = start_folder(model), output_dir / START
    if folder is not None and folder.resolve() == target.resolve():
        return
    remove(output_dir, START)
    if folder is None:
        return
    record = {"adapter": str(folder.resolve()), "mode": mode_of(model), "digest": adapter_digest(folder)}
    with folder_aside(target, replace=True) as new:
        for name in FILES:
            link(folder / name, new / name)
        write_json(new / RECORD, record)


def write_config(cfg: DictConfig, output_dir: Path, write: bool) -> None:
    """Write config.yaml, if `write` (one process does)."""
    if write:
        with aside(output_dir / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(public(cfg), sort_keys=False, allow_unicode=True), encoding="utf-8")
