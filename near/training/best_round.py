"""The best round: the validation loss at the end of every round decides which weights are kept, and when training ends.

All decisions are functions of the losses measured so far, {step: loss}, which checkpoints have. The weights of the best
round so far are in best.safetensors beside the checkpoints; each checkpoint links to those that were the best then. A
training that diverges fails all the same: a run that was cut short is not compared with whole ones.
"""

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.trainer_utils import SaveStrategy

from near.common.errors import UserError, one_line
from near.common.files import aside, link
from near.common.records import ValidationRecord
from near.common.text import plural
from near.models.weights import trained

log = logging.getLogger(__name__)

BEST = "best.safetensors"
LARGE = 10**8  # bytes of weights whose copies are logged
Losses = Mapping[int, float | None]  # by optimizer steps before: nats a token; None or NaN counts as worse than any


def best_step(losses: Losses) -> int | None:
    """The step with the lowest loss, the first of equal ones; None if no loss is finite. The untrained model (step 0)
    is no candidate.

    >>> best_step({0: 1.0, 4: 3.0, 10: 2.0, 16: 2.0})
    10
    """
    known = [(loss, step) for step, loss in losses.items() if step and loss is not None and math.isfinite(loss)]
    return min(known)[1] if known else None


def without_better(losses: Losses) -> int:
    """How many rounds have ended since the best one.

    >>> without_better({0: 1.0, 4: 3.0, 10: 2.0, 16: 2.0, 22: 2.5})
    2
    """
    best = best_step(losses) or 0
    return sum(step > best for step in losses)


class BestRound:
    """Measures, keeps and restores the best round of a trainer with rounds.

    Args:
        trainer: a DynamicSelectTrainer; its `record` and `measured` have the losses.
        folder: of the run's checkpoints.
        keep, patience: its options.
    """

    def __init__(self, trainer: Any, folder: Path, keep: str, patience: int | None):
        self.trainer, self.folder, self.keep, self.patience = trainer, folder, keep == "best", patience

    @property
    def losses(self) -> dict[int, float | None]:
        """Validation losses so far, by the optimizer steps before them."""
        losses = {line.step: line.validation_loss for line in self.trainer.record.rounds}
        losses |= {int(step): one.get("validation_loss") for step, one in self.trainer.measured.items()}
        return dict(sorted(losses.items()))

    @property
    def _weights(self) -> dict[str, torch.nn.Parameter]:
        return trained(self.trainer.accelerator.unwrap_model(self.trainer.model))

    def end_round(self, step: int) -> None:
        """Keep the weights if the round that ends at `step` is the best, and end training by `patience`. Called before
        the checkpoint of the step, which so has the outcome."""
        trainer = self.trainer
        if self.keep and best_step(self.losses) == step and trainer.args.should_save:
            tensors = {name: weight.detach().cpu().contiguous() for name, weight in self._weights.items()}
            with aside(self.folder / BEST) as temporary:
                save_file(tensors, temporary, {"step": str(step)})
        if step < trainer.schedule.total and self._out_of_patience:
            trainer.control.should_training_stop = True
            trainer.control.should_save = trainer.args.save_strategy != SaveStrategy.NO  # as at the schedule's end

    @property
    def _out_of_patience(self) -> bool:
        return self.patience is not None and without_better(self.losses) >= self.patience

    def add_to(self, checkpoint: Path) -> None:
        """Link to the best weights so far in a checkpoint."""
        self._link(self.folder, checkpoint)

    def _link(self, source: Path, target: Path) -> None:
        """Make the best weights in folder `source` those in `target`, if there are any."""
        if self.keep and self.trainer.args.should_save and (source / BEST).is_file():
            with aside(target / BEST) as temporary:
                link(source / BEST, temporary)

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint that the trainer has restored."""
        self._link(checkpoint, self.folder)
        if self._out_of_patience:
            self.trainer.args.max_steps = max(self.losses)  # so that no step follows

    def restore_weights(self) -> None:
        """Give the trained model the weights of the best round, on all processes.

        Raises:
            UserError: they are missing, damaged or of another step.
        """
        trainer, step = self.trainer, best_step(self.losses)
        if not self.keep or step in (None, trainer.state.global_step):
            return
        path, weights = self.folder / BEST, self._weights
        if trainer.args.should_save:
            try:
                with safe_open(path, framework="pt") as file, torch.no_grad():
                    if (saved := (file.metadata() or {}).get("step")) != str(step):
                        raise ValueError(f"its weights are of step {saved}")
                    for name, weight in weights.items():
                        weight.copy_(file.get_tensor(name))
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise UserError(
                    f"{path}: the weights of the best round, of step {step}, can't be read ({one_line(error)}); train "
                    "again with overwrite=true"
                ) from error
        if trainer.accelerator.num_processes > 1:
            for weight in weights.values():
                torch.distributed.broadcast(weight.data, 0)

    def check_room(self) -> None:
        """Check the disk for copies of the trainable weights: the best, one that is being written, and those that
        checkpoints may link to. Raises UserError."""
        args = self.trainer.args
        if not self.keep or not args.should_save:
            return
        rounds = len(self.trainer.schedule.rounds())
        checkpoints = 0 if args.save_strategy == SaveStrategy.NO else min(args.save_total_limit or rounds, rounds)
        size = sum(weight.numel() * weight.element_size() for weight in self._weights.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        needed, free = (checkpoints + 2) * size, shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"trainer.keep=best may need {needed / 1e9:.1f} GB ({checkpoints + 2} copies of {size / 1e9:.1f} GB of "
                f"weights), but {free / 1e9:.1f} GB are free in {self.folder}; free some, set another output_dir, or "
                "trainer.args.save_total_limit=1"
            )
        if size >= LARGE:
            log.info(
                f"trainer.keep=best: the best round's weights take {size / 1e9:.1f} GB on disk, with those that "
                f"checkpoints link to up to {needed / 1e9:.1f} GB"
            )

    def record(self) -> ValidationRecord:
        """What was decided, once training has ended."""
        trainer, losses = self.trainer, self.losses
        steps, total = trainer.state.global_step, trainer.schedule.total
        kept, saved = best_step(losses) if self.keep else None, {}
        kept = steps if kept is None else kept
        if steps < total:
            tokens = sum(line.tokens or 0 for line in trainer.record.rounds)
            saved = {"saved_steps": total - steps, "saved_tokens": round(tokens * (total - steps) / steps)}
            saved["saved_seconds"] = round(trainer.spent * (total - steps) / steps, 1)
        return ValidationRecord(
            rows=trainer.job.validation.eligible().tolist(),
            losses=[[step, loss] for step, loss in losses.items()],
            kept_round=trainer.schedule.at(kept - 1).index,
            kept_step=kept,
            steps=total,
            **saved,
        )


def kept_line(record: ValidationRecord, keep: str) -> str:
    """What was kept and what was saved, for the log."""
    count, losses = len(record.rows), dict(record.losses)
    kept, last = record.kept_step, max(losses)
    which = "best" if keep == "best" else "last"
    parts = [f"kept the {which} round, {record.kept_round} (step {kept} of {record.steps})"]
    if losses.get(kept) is not None:
        parts[0] += f": validation loss {losses[kept]:.4f} on {plural(count, 'row')}, which are not reported"
    if kept != last and losses[last] is not None:
        parts.append(f"at the end, step {last}, it was {losses[last]:.4f}")
    if keep != "best" and (best := best_step(losses)) not in (None, kept):
        parts.append(f"the lowest was {losses[best]:.4f} at step {best}; trainer.keep=best would keep that")
    if losses.get(0) is not None and losses.get(kept) is not None and losses[kept] > losses[0]:
        parts.append(f"the untrained model's is lower, {losses[0]:.4f}")
    if record.saved_steps:
        tokens = f", {record.saved_tokens:,} tokens" if record.saved_tokens else ""
        parts.append(
            f"trainer.patience ended training at step {last} and saved {plural(record.saved_steps, 'step')}{tokens}, "
            f"about {record.saved_seconds:.0f} s (tokens and seconds estimated from the steps before)"
        )
    return "; ".join(parts)
