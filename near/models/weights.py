"""The weights of a model that are trained: what identifies them, and others put in their place for a while."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def trained(model) -> dict[str, torch.nn.Parameter]:
    """Parameters that want a gradient, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def weights_digest(model) -> str:
    """32 hex digits over the names and bits of the weights that are trained, and over what adapters are scaled by."""
    scales = {
        f"{name} scaling {adapter}": torch.tensor(float(value))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)
        for adapter, value in module.scaling.items()
    }
    return tensors_digest({**trained(model), **scales})


def tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    """32 hex digits over names, types, shapes and bits."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return state.hexdigest()[:32]


@contextlib.contextmanager
def weights_restored(model) -> Iterator[None]:
    """Whatever is done to the trained weights meanwhile, they are the same afterwards."""
    before = {name: weight.detach().clone() for name, weight in trained(model).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in trained(model).items():
                weight.copy_(before[name])
