"""Checkpoints of a training run for gradients: weights, Adam's moments, and the learning rate before each."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from near.common.errors import UserError, one_line
from near.common.files import read_json
from near.common.text import plural
from near.models.start import check_beneath
from near.models.trainer_state import trainer_state
from near.models.weights import trained, weights_restored
from near.selection.scoring.gradients import Moments, moments


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder.

    Attributes:
        folder: adapter or model weights, for `moments` also optimizer.pt.
        step: its optimizer step.
        weight: the mean learning rate since the checkpoint before, as a share of the sum over all (as in LESS).
        option: the option that names it, for error messages.
    """

    folder: Path
    step: int
    weight: float
    option: str = "scoring.checkpoints"

    @classmethod
    def all(cls, folders: list[str]) -> list["Checkpoint"]:
        """The checkpoints of one run, ascending by step; UserError if one is incomplete or logged no learning rate."""
        steps = {}
        for folder in map(Path, folders):
            if not (folder / "trainer_state.json").is_file():
                raise UserError(
                    f"scoring.checkpoints: {folder} is no checkpoint (no trainer_state.json); name checkpoints of a run"
                )
            step = trainer_state(folder)["global_step"]
            if step in steps:
                raise UserError(f"scoring.checkpoints: {steps[step]} and {folder} are both of step {step}; give one")
            steps[step] = folder
        rates, before = [], 0
        for step in sorted(steps):
            history = trainer_state(steps[step])["log_history"]
            logged = [line["learning_rate"] for line in history if "learning_rate" in line and before < line["step"]]
            if not logged or not sum(logged):
                raise UserError(
                    f"scoring.checkpoints: {steps[step]} logged no learning rate after step {before}; train with a "
                    "smaller trainer.args.logging_steps"
                )
            rates.append(sum(logged) / len(logged))
            before = step
        return [cls(steps[s], s, rate / sum(rates)) for s, rate in zip(sorted(steps), rates, strict=True)]

    @contextlib.contextmanager
    def in_place(self, model) -> Iterator[None]:
        """Give the model this checkpoint's weights; its current ones are restored afterwards."""
        with weights_restored(model):
            self._load(model)
            yield

    def _check_adapter(self, model) -> None:
        """UserError if the adapter scales its layers differently: the scale is no weight, so it would not be loaded."""
        saved, current = read_json(self.folder / "adapter_config.json"), model.peft_config["default"].to_dict()
        check_beneath(model.get_base_model(), self.folder)
        for name in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"):
            if saved.get(name) != current.get(name):
                raise self._misfit(f"its {name} is {saved.get(name)}, not {current.get(name)}")

    def _load(self, model) -> None:
        adapter, files = self.folder / "adapter_model.safetensors", sorted(self.folder.glob("model*.safetensors"))
        try:
            if adapter.is_file() and hasattr(model, "peft_config"):
                from peft import set_peft_model_state_dict

                self._check_adapter(model)
                result = set_peft_model_state_dict(model, load_file(adapter))
                missing = [name for name in result.missing_keys if "lora_" in name] + list(result.unexpected_keys)
            else:
                loaded = {name: value for file in files for name, value in load_file(file).items()}
                weights = trained(model)
                missing = sorted(set(weights) - set(loaded))
                with torch.no_grad():
                    for name in set(weights) & set(loaded):
                        weights[name].copy_(loaded[name])
        except (OSError, RuntimeError, SafetensorError, ValueError) as error:
            raise self._misfit(one_line(error)[:120]) from error
        if missing:
            raise self._misfit(f"{plural(len(missing), 'weight differs', 'weights differ')}, first {missing[0]}")

    def moments(self, model) -> dict[str, Moments]:
        """Adam's state of every trained weight, from optimizer.pt."""
        from transformers import Trainer

        path = self.folder / "optimizer.pt"
        if not path.is_file():
            raise self._misfit("it has no optimizer.pt; set scoring.adam=false for plain gradients")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises its own and pickle's kinds
            raise self._misfit(f"its optimizer.pt can't be read: {one_line(error)[:80]}") from error
        decayed = set(Trainer.get_decay_parameter_names(None, model))  # the Trainer's two groups, in this order
        weights, groups = trained(model), saved["param_groups"]
        names = [list(weights)]
        if len(groups) == 2:
            names = [[n for n in weights if n in decayed], [n for n in weights if n not in decayed]]
        states = {}
        for group, group_names in zip(groups, names, strict=False):
            if len(group["params"]) != len(group_names):
                raise self._misfit(
                    f"its optimizer has {len(group['params'])} weights where the model has {len(group_names)}"
                )
            for name, number in zip(group_names, group["params"], strict=True):
                states[name] = moments(saved["state"].get(number, {}), group, name)
        for name, weight in weights.items():
            if states[name].first.numel() != weight.numel():
                raise self._misfit(f"its optimizer has another shape for {name}")
        return {name: states[name].to(weight.device) for name, weight in weights.items()}

    def _misfit(self, reason: str) -> UserError:
        return UserError(f"{self.option}: {self.folder} does not fit the model ({reason})")
