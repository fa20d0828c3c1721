"""Jobs of one sweep with the same warm-up train it once: the first saves a checkpoint at its end, the others go on
from there. The result of each job is bit for bit that of a job alone."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from near.common.errors import UserError, one_line
from near.common.files import folder_aside, link
from near.common.locks import Lock, acquire, free, lock_file
from near.common.run_folder import JOBS, WARM_UPS
from near.training.rounds.state import STATE, read_checkpoint, write_parts, write_state

log = logging.getLogger(__name__)


def shares_warm_up(cfg: DictConfig) -> bool:
    """Whether a job's warm-up is worth a checkpoint: one of an adapter is small, one of all weights may be 100 GB."""
    return "_target_" in cfg.finetuning and bool(cfg.trainer.get("warmup_step")) and bool(cfg.trainer.update_times)


class SharedWarmUp:
    """The warm-up of a sweep's job: taken over from another job's checkpoint, or trained for the jobs that follow.

    While one job trains it, the others wait. If that job fails, the next one trains it.

    Args:
        output_dir: of the job.
        key: by `warm_up_key` of near/training/twins.py.
    """

    def __init__(self, output_dir: Path, cache_dir: str, key: str):
        self.folder = output_dir.parent / JOBS / WARM_UPS / key
        self._lock_file = lock_file(cache_dir, f"warm-up-{key}")
        self._lock: Lock | None = None

    def adopt(self, checkpoints: Path, metadata: dict, state: dict[str, np.ndarray]) -> Path | None:
        """Make the checkpoint of another job's warm-up one of this job. Large files are linked.

        Args:
            checkpoints: the folder of this job's checkpoints.
            metadata, state: replace those of the other job: this one's identity, and arrays of its selector by name.

        Returns:
            the checkpoint; None: there is none, so this job trains the warm-up and calls `save` or `close` after it.
        """
        self._lock = acquire(self._lock_file)
        for folder in self.folder.glob("checkpoint-*"):
            try:
                arrays, before = read_checkpoint(folder)
                arrays = {name: array for name, array in arrays.items() if not name.startswith("selector_")}
                with folder_aside(checkpoints / folder.name) as new:
                    shutil.copytree(folder, new, copy_function=link, dirs_exist_ok=True)
                    write_state(new / STATE, arrays | state, before | metadata)
                    write_parts(new)
            except (UserError, OSError) as error:
                log.warning(f"{one_line(error)}; the warm-up is trained again")
                continue
            self.close()
            log.info("another job of this sweep trained the same warm-up: it is not trained again")
            return checkpoints / folder.name
        return None

    def save(self, write: Callable[[Path], None]) -> None:
        """Save the checkpoint at the warm-up's end. `write` gets the folder to write it to.

        If that fails, for example on a full disk, it is logged, and training goes on.
        """
        if self._lock is None:
            return
        try:
            with folder_aside(self.folder, replace=True) as new:
                write(new)
        except (UserError, OSError) as error:
            log.warning(f"the warm-up is not shared with other jobs: {one_line(error)}")
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether this job trains the warm-up and has not saved it yet."""
        return self._lock is not None

    def close(self) -> None:
        """Let other jobs train the warm-up, if this one has not saved it."""
        if self._lock is not None:
            free(self._lock, remove=self._lock_file)
            self._lock = None
