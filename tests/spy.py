"""Classes from outside the package, named by `_target_`: a trainer that records which rows each process trained on,
and selectors that record their calls."""

import hashlib
import json
import os
import time
from pathlib import Path

from transformers import TrainerCallback

from near.common.errors import UserError
from near.common.processes import is_main
from near.selection.round import Round, Subset
from near.selection.selectors.near import Near
from near.training.trainer import DynamicSelectTrainer


class SpyTrainer(DynamicSelectTrainer):
    def __init__(
        self,
        *,
        args,
        warmup_step: int,
        update_step: int,
        update_times: int,
        cycles: int = 1,
        group_by_length: bool = False,
        model=None,
        job=None,
    ):
        steps = {"warmup_step": warmup_step, "update_step": update_step, "update_times": update_times}
        super().__init__(args=args, model=model, job=job, cycles=cycles, group_by_length=group_by_length, **steps)
        table, collate = self.train_dataset, self.data_collator
        rows = {tuple(table[i]["input_ids"]): i for i in range(len(table))}
        job.output_dir.mkdir(parents=True, exist_ok=True)
        path = job.output_dir / f"trained-{self.args.process_index}.jsonl"

        def watching(batch):
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps([rows[tuple(r["input_ids"])] for r in batch]) + "\n")
            return collate(batch)

        self.data_collator = watching
        if self.args.dataloader_num_workers:  # workers have their own collators
            self.data_collator = collate
        self.add_callback(After(job.output_dir / f"after-{self.args.process_index}.jsonl"))


class After(TrainerCallback):
    """Records a digest of the trained weights after every step."""

    def __init__(self, path: Path):
        self.path = path

    def on_step_end(self, args, state, control, model=None, **kwargs):
        note(self.path, {"step": state.global_step, "weights": weights(model)})


class Sees(Near):
    """NEAR that records the step and a digest of the weights in its round."""

    def __init__(
        self, subset_size=None, policy: str = "repeat", temperature: float = 0.05, mix: float = 0.0, budgets=None
    ):
        super().__init__(subset_size, policy, temperature, mix, budgets)

    def select(self, round: Round) -> Subset:
        path = Path(os.environ["NEAR_TEST_SEEN"], f"seen-{os.environ.get('RANK', 0)}.jsonl")
        note(path, {"step": round.step, "weights": weights(round.model)})
        return super().select(round)


def weights(model) -> str:
    """A digest of all trained weights."""
    digest = hashlib.sha256()
    for weight in model.parameters():
        if weight.requires_grad:
            digest.update(weight.detach().numpy().tobytes())
    return digest.hexdigest()


def note(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


class Wrapped(SpyTrainer):
    """Records the classes that DeepSpeed wraps around the model."""

    def begin_epoch(self, step: int) -> None:
        super().begin_epoch(step)
        engine = self.model_wrapped
        record = {"wrapped": type(engine).__name__, "stage": engine.zero_optimization_stage()}
        record["elements"] = sum(p.numel() for p in self.model.parameters())  # ZeRO-3 leaves empty ones between steps
        record["optimizer"] = type(engine.optimizer).__name__
        path = self.job.output_dir / f"wrapped-{self.args.process_index}.json"
        path.write_text(json.dumps(record), encoding="utf-8")


class FailsOnRank1(Near):
    """A selector that fails in one of two processes."""

    def __init__(
        self, subset_size=None, policy: str = "repeat", temperature: float = 0.05, mix: float = 0.0, budgets=None
    ):
        super().__init__(subset_size, policy, temperature, mix, budgets)

    def select(self, round: Round) -> Subset:
        if not is_main():
            raise UserError("selector.policy=repeat is refused by rank 1 alone")
        return super().select(round)


class SlowNear(Near):
    """NEAR that is slow and records the index of every round."""

    def __init__(
        self, subset_size=None, policy: str = "repeat", temperature: float = 0.05, mix: float = 0.0, budgets=None
    ):
        super().__init__(subset_size, policy, temperature, mix, budgets)

    def select(self, round: Round) -> Subset:
        if is_main():
            with open(os.environ["NEAR_TEST_SELECTIONS"], "a", encoding="utf-8") as file:
                file.write(f"{round.index}\n")
        time.sleep(0.1)
        return super().select(round)
