"""Ends training when loss or gradient norm is not finite for several optimizer steps in a row."""

import logging
import math
from pathlib import Path

import torch

from near.common.errors import UserError
from near.common.files import read_json, write_json
from near.common.outputs import remove
from near.common.run_folder import FAILED, RunFolder

log = logging.getLogger(__name__)

FIX = "lower trainer.args.learning_rate, or set trainer.args.max_grad_norm=1.0, and run again with overwrite=true"


class Watch:
    """Counts the optimizer steps whose loss or gradient norm is not finite.

    A single bad step is legal: it is logged and counted (`count`). All processes see the same loss, so that they stop
    together.

    Args:
        limit: so many bad steps in a row (`streak`) end the training.
    """

    def __init__(self, limit: int):
        self.limit, self.streak, self.count, self.step = limit, 0, 0, 0
        self._bad: torch.Tensor | None = None

    def add(self, loss: torch.Tensor) -> None:
        """Add the loss of one batch of the current step."""
        bad = (~torch.isfinite(loss.detach())).any().long()
        self._bad = bad if self._bad is None else self._bad + bad

    def ended(self, step: int, norm: torch.Tensor | float | None, accelerator) -> bool:
        """Close an optimizer step.

        Args:
            step: from 1.
            norm: of the gradient; None if unknown. Under float16 only the loss counts, because the loss scaler provokes
                gradients that are not finite and skips those steps.

        Returns:
            whether the training has diverged.
        """
        if step == self.step:  # the Trainer calls again at the end of an epoch
            return False
        loss = torch.zeros((), dtype=torch.long) if self._bad is None else self._bad
        self.step, self._bad = step, None
        if accelerator.num_processes > 1:
            loss = accelerator.reduce(loss.to(accelerator.device), "sum")
        bad = "loss" if int(loss) else None
        if bad is None and norm is not None and accelerator.scaler is None and not math.isfinite(float(norm)):
            bad = "gradient norm"
        self.streak = self.streak + 1 if bad else 0
        if bad:
            self.count += 1
            if accelerator.is_main_process:
                log.warning(f"step {step}: the {bad} is not a finite number ({self.streak} of {self.limit} in a row)")
        return self.streak >= self.limit


def diverged(watch: Watch, output_dir: Path, total: int, write: bool) -> UserError:
    """The error that ends a diverged training.

    Args:
        total: the steps of the schedule.
        write: write failed.json in `output_dir` (one process does).
    """
    complete = (p for p in RunFolder(output_dir).checkpoints() if (p / "trainer_state.json").is_file())
    newest = next(complete, None)
    last = f"the last checkpoint is {newest}" if newest else "no checkpoint was written before"
    line = (
        f"the training diverged: loss or gradient norm was not finite for {watch.streak} steps, up to step "
        f"{watch.step} of {total}; {last}; {FIX}"
    )
    if write:
        write_json(output_dir / FAILED, {"error": line, "step": watch.step})
    return UserError(line)


def warn_of(output_dir: Path, resumed: bool) -> None:
    """Log that an earlier attempt in `output_dir` diverged, and remove its failed.json."""
    path = output_dir / FAILED
    if path.is_file() and resumed:
        step = read_json(path).get("step")
        log.warning(f"the run diverged before at step {step}, and will again with the same settings: {FIX}")
    remove(output_dir, FAILED)
