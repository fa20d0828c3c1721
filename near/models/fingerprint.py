"""Identity of a base model, for cache keys."""

from omegaconf import DictConfig, OmegaConf

from near.common.files import folder_digest
from near.models.hub import resolve_dtype


def of_model(model: DictConfig, folder: str) -> dict:
    """All that determines a model's weights and tokens: its options, with the digest of `folder` for its name."""
    decided = {"name_or_path": folder_digest(folder), "revision": None, "dtype": resolve_dtype(model.dtype)}
    return OmegaConf.to_container(model, resolve=True) | decided
