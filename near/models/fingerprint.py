"""Identity of a base model, for cache keys."""

from omegaconf import DictConfig, OmegaConf

from near.common.files import folder_digest
from near.models.hub import resolve_dtype
from near.models.start import mode_of, start_digest


def of_model(model: DictConfig, folder: str) -> dict:
    """All that determines the weights and tokens that training starts from: the options of `model`, with the digest of
    `folder` for its name, and that of model.adapter's files for theirs."""
    decided = {"name_or_path": folder_digest(folder), "revision": None, "dtype": resolve_dtype(model.dtype)}
    options = OmegaConf.to_container(model, resolve=True) | decided
    adapter = {"adapter": start_digest(model), "adapter_mode": mode_of(model)}
    options = {name: value for name, value in options.items() if name not in adapter}
    return options if adapter["adapter"] is None else options | adapter
