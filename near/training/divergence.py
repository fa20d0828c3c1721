"""Ends a training whose loss or gradient norm is not a finite number for several optimizer steps in a row."""

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
    """Of every optimizer step whether its numbers were finite. `most`: so many bad steps in a row end the training.

    A single one is legal: it is logged and counted (`count`). All processes see the same, so that they stop together.
    """

    def __init__(self, most: int):
        self.most, self.streak, self.count, self.step = most, 0, 0, 0
        self._bad: torch.Tensor | None = None

    def add(self, loss: torch.Tensor) -> None:
        """The loss of one batch of the running step."""
        bad = (~torch.isfinite(loss.detach())).any().long()
        self._bad = bad if self._bad is None else self._bad + bad

    def ended(self, step: int, norm: torch.Tensor | float | None, accelerator) -> bool:
        """Take note that optimizer step `step`, from 1, has ended; whether the training has diverged.

        `norm`: of the gradient; None where it is not known. Under float16 the loss scaler probes for gradients that are
        not finite, and leaves those steps out: there only the loss counts.
        """
        if step == self.step:  # the Trainer asks again as an epoch ends
            return False
        loss = torch.zeros((), dtype=torch.long) if self._bad is None else self._bad
        self.step, self._bad = step, None
        if accelerator.num_processes > 1:
            loss = accelerator.reduce(loss.to(accelerator.device), "sum")
        what = "loss" if int(loss) else None
        if what is None and norm is not None and accelerator.scaler is None and not math.isfinite(float(norm)):
            what = "gradient norm"
        self.streak = self.streak + 1 if what else 0
        if what:
            self.count += 1
            if accelerator.is_main_process:
                log.warning(f"step {step}: the {what} is not a finite number ({self.streak} of {self.most} in a row)")
        return self.streak >= self.most


def diverged(watch: Watch, output_dir: Path, total: int, write: bool) -> UserError:
    """The error of a training that ends for it; `write`: whether this process leaves word of it in `output_dir`."""
    whole = (p for p in RunFolder(output_dir).checkpoints() if (p / "trainer_state.json").is_file())
    newest = next(whole, None)
    kept = f"kept: {newest}" if newest else "no checkpoint was written before"
    line = (
        f"the training diverged: loss or gradient norm was not finite for {watch.streak} steps, up to step "
        f"{watch.step} of {total}; {kept}; {FIX}"
    )
    if write:
        write_json(output_dir / FAILED, {"error": line, "step": watch.step})
    return UserError(line)


def warn_of(output_dir: Path, resumed: bool) -> None:
    """Say that an earlier attempt in `output_dir` diverged, and take its note away."""
    path = output_dir / FAILED
    if path.is_file() and resumed:
        step = read_json(path).get("step")
        log.warning(f"the run before diverged at step {step}; with the same settings it will again: {FIX}")
    remove(output_dir, FAILED)
