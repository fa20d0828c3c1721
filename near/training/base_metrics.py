"""The metrics of the model before training in a run of train.py."""

import contextlib

import torch
from omegaconf import DictConfig
from transformers import TrainerCallback

from near.common.records import ModelMetrics
from near.evaluation.base_model import base_metrics, cached_metrics
from near.evaluation.measure import Sets
from near.evaluation.settings import EvalSettings


class BaseMetrics(TrainerCallback):
    """`metrics` and `answers` of the model before training; None if they are unknown."""

    def __init__(self, settings: EvalSettings, model: DictConfig, adapted: bool, sets: Sets):
        """adapted: a new adapter is trained, and the weights that training starts from are not."""
        self.settings, self.model, self.adapted, self.sets = settings, model, adapted, sets
        self.metrics: ModelMetrics | None = None
        self.answers: list[dict] | None = None

    def measure(self, model, together: bool = False) -> None:
        self.metrics, self.answers = base_metrics(self.settings, self.model, self.sets, model, together)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Measure a model that is sharded over all processes, without its adapter."""
        if not self.adapted and state.global_step:  # resumed: these are no longer the base's weights
            if all(cached_metrics(self.settings, self.model, rows) for rows in self.sets.all()):
                self.measure(model, together=True)  # reads the cache
            return
        with torch.random.fork_rng(), model.disable_adapter() if self.adapted else contextlib.nullcontext():
            self.measure(model, together=True)
