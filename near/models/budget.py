"""Budgets of tokens for a model on its device."""

import time
from pathlib import Path
from typing import Literal

import torch

from near.common.budget import Budget
from near.common.files import cache_folder, digest
from near.common.timing import Clock, ProcessClock


class TorchClock:
    """Measures work on an accelerator: `Clock` of near/common/timing.py. Its memory is what torch allocates."""

    def __init__(self, device: torch.device):
        self._device = device

    def start(self) -> None:
        torch.accelerator.synchronize(self._device)
        torch.accelerator.reset_peak_memory_stats(self._device)
        self._started = time.perf_counter()

    def stop(self) -> tuple[float, int]:
        torch.accelerator.synchronize(self._device)
        return time.perf_counter() - self._started, torch.accelerator.max_memory_allocated(self._device)


def clock_of(device: torch.device) -> Clock:
    """What measures work on `device`."""
    return ProcessClock() if device.type == "cpu" or not _has_figures(device) else TorchClock(device)


class TorchMeter:
    """Measures batches on an accelerator, by torch's figures of its memory."""

    def __init__(self, device: torch.device):
        self._device, self.device = device, device_name(device)

    def start(self) -> None:
        torch.accelerator.synchronize(self._device)
        torch.accelerator.reset_peak_memory_stats(self._device)
        self._before = torch.accelerator.memory_allocated(self._device)
        self._free = free_memory(self._device)
        self._started = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        torch.accelerator.synchronize(self._device)
        seconds = time.perf_counter() - self._started
        used = torch.accelerator.max_memory_allocated(self._device) - self._before
        return seconds, used / max(self._free, 1)


def free_memory(device: torch.device) -> int:
    """Bytes that this process could allocate, those that torch has cached included."""
    cached = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    return torch.accelerator.get_memory_info(device)[0] + cached


def device_name(device: torch.device) -> str:
    module = getattr(torch, device.type, None)
    name = getattr(module, "get_device_name", None)
    return name(device) if callable(name) else device.type


def budget_for(
    model: torch.nn.Module,
    option: Literal["auto"] | int,
    default: int,
    name: str,
    work: str,
    cache_dir: str,
    fix: str,
    alone: bool = True,
) -> Budget:
    """The budget of a model on the device of its weights.

    Args:
        option, default, name, fix: see Budget.
        work: what is computed; budgets are cached by it, the model's class and size, the type and the device.
        cache_dir: the cache.
        alone: no other process has to form the same batches.
    """
    weight = next(model.parameters(), torch.empty(0))
    meter, device = None, weight.device
    if alone and option == "auto" and device.type != "cpu" and _has_figures(device):
        meter = TorchMeter(device)
    return Budget(
        option,
        default,
        name,
        meter,
        _path(model, weight, work, cache_dir, meter),
        fix,
        torch.accelerator.empty_cache if device.type != "cpu" else lambda: None,
        shrinks=alone,
    )


def _path(model, weight: torch.Tensor, work: str, cache_dir: str, meter: TorchMeter | None) -> Path | None:
    if meter is None:
        return None
    size = sum(parameter.numel() for parameter in model.parameters())
    modules = [type(module).__name__ for module in model.modules()]
    return cache_folder(cache_dir, "budgets", f"{digest([work, modules, size, str(weight.dtype), meter.device])}.json")


def _has_figures(device: torch.device) -> bool:
    try:
        return free_memory(device) > 0
    except (RuntimeError, ValueError, AttributeError):  # as on MPS
        return False
