"""A model's trainable weights: their digest, and restoring them after temporary changes."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def trained(model) -> dict[str, torch.nn.Parameter]:
    """Parameters that require a gradient, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def weights_digest(model) -> str:
    """32 hex digits of SHA-256 over names and bits of trainable weights, and over adapters' scalings."""
    scales = {
        f"{name} scaling {adapter}": torch.tensor(float(value))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)
        for adapter, value in module.scaling.items()
    }
    return tensors_digest({**trained(model), **scales})


def tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    """32 hex digits of SHA-256 over names, dtypes, shapes and bits."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()[:32]


@contextlib.contextmanager
def weights_restored(model) -> Iterator[None]:
    """Restore the trainable weights when the block ends."""
    before = {name: weight.detach().clone() for name, weight in trained(model).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in trained(model).items():
                weight.copy_(before[name])
