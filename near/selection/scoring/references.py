"""Other weights for the model that is trained, for a while."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from near.common.errors import UserError
from near.common.run_folder import ADAPTER, MODEL
from near.selection.scoring.checkpoints import Checkpoint


@contextlib.contextmanager
def reference(model, folder: str | None, base_folder: str) -> Iterator[None]:
    """Give `model` the weights of a reference; its current ones are restored afterwards.

    Args:
        model: the model that is trained.
        folder: a run, adapter, model or checkpoint of the same kind of fine-tuning; None: the model before training.
        base_folder: the files of the base model, for folder=None if all weights are trained.

    Raises:
        UserError: the weights don't fit the model.
    """
    if folder is not None:
        with Checkpoint(weights_in(Path(folder)), 0, 1.0, "mixer.reference").in_place(model):
            yield
    elif hasattr(model, "peft_config"):
        with model.disable_adapter():
            yield
    else:
        with Checkpoint(Path(base_folder), 0, 1.0, "mixer.reference=null").in_place(model):
            yield


def weights_in(folder: Path) -> Path:
    """The folder with the weights of `folder`: itself, or its adapter or model."""
    for path in (folder, folder / ADAPTER, folder / MODEL):
        if path.is_dir() and any(path.glob("*model*.safetensors")):
            return path
    raise UserError(f"mixer.reference={folder} has no adapter and no model; give a run's folder or a checkpoint")
