"""`stop_at`: training stops at a step, with the target's losses there; the same run can go on from its checkpoint."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer_utils import SaveStrategy

from near.common.errors import UserError
from near.common.files import read_json, write_jsonl
from near.common.run_folder import RunFolder

Losses = tuple[np.ndarray, np.ndarray, np.ndarray]  # of near/evaluation/measure.py, row_losses


class Stop:
    """A step at which training stops.

    The losses are written before the step's checkpoint, so that a run that has the checkpoint has them.

    Args:
        step: optimizer steps that are trained.
        folder: of the run.
        losses: by the trainer, those of the target's rows; None if another process measures them.
    """

    def __init__(self, step: int, folder: Path, losses: Callable[[Any], Losses | None]):
        self.step, self.files, self._losses, self.reached = step, RunFolder(folder), losses, False

    @property
    def loss(self) -> float:
        """The target loss at the step; NaN if it was not measured here."""
        rows = self.files.stopped(self.step)
        return sum(r["loss"] * r["tokens"] for r in rows) / sum(r["tokens"] for r in rows) if rows else math.nan

    def measure(self, trainer: Any) -> None:
        """Write the losses; called after the step."""
        self.reached, losses = True, self._losses(trainer)
        if losses is None or not trainer.args.should_save:
            return
        path = self.files.stopped_file(self.step)
        path.parent.mkdir(exist_ok=True)
        write_jsonl(
            path,
            (
                {"row": int(row), "loss": float(total / max(count, 1)), "tokens": int(count)}
                for row, total, count in zip(*losses, strict=True)
            ),
        )

    def check(self, args: Any, resume: Path | None) -> None:
        """Whether training can stop there and go on: UserError if it can't, or if it went on already without stopping.

        Args:
            args: TrainingArguments.
            resume: the checkpoint that training goes on from.
        """
        if args.save_strategy == SaveStrategy.NO or args.save_only_model:
            option = "save_strategy=no" if args.save_strategy == SaveStrategy.NO else "save_only_model=true"
            raise UserError(f"trainer.args.{option} leaves nothing to go on from after stop_at={self.step}; leave one")
        at = 0 if resume is None else read_json(resume / "trainer_state.json")["global_step"]
        self.reached = at >= self.step and self.files.stopped_file(self.step).is_file()
        if at >= self.step and not self.reached:
            raise UserError(
                f"stop_at={self.step} is behind the checkpoint of step {at} in {self.files.path}; use a later step, "
                "leave stop_at out, or set overwrite=true"
            )
