"""What decides a model's weights and tokens."""

from omegaconf import DictConfig, OmegaConf

from near.common.files import folder_digest
from near.models.hub import resolve_dtype


def of_model(model: DictConfig, folder: str) -> dict:
    """What decides a model's weights and tokens: its files in `folder` in place of its name, and every option of it."""
    decided = {"name_or_path": folder_digest(folder), "revision": None, "dtype": resolve_dtype(model.dtype)}
    return OmegaConf.to_container(model, resolve=True) | decided
