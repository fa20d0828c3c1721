"""Another state of the model that is trained, in its place for a while."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from near.common.errors import UserError
from near.common.run_folder import ADAPTER, MODEL
from near.selection.scoring.checkpoints import Checkpoint


@contextlib.contextmanager
def reference(model, folder: str | None, base_folder: str) -> Iterator[None]:
    """`model` with the weights of `folder` (a run, adapter, model or checkpoint of the same kind of fine-tuning) in
    place of its own, which come back afterwards; None: as it was before training, with the files of `base_folder`
    where its own weights are trained. UserError where they don't fit."""
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
    """The folder with weights at or in `folder`."""
    for place in (folder, folder / ADAPTER, folder / MODEL):
        if place.is_dir() and any(place.glob("*model*.safetensors")):
            return place
    raise UserError(f"mixer.reference={folder} holds no adapter and no model; give a run's folder or a checkpoint")
