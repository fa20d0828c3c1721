"""Which devices of torch an exact search uses; each one is tried first."""

import functools
import logging
import os

import numpy as np
import torch

from near.common.errors import UserError, one_line
from near.searching.indexes.device import search_on
from near.searching.indexes.topk import rows_of
from near.searching.vectors import ArrayVectors

log = logging.getLogger(__name__)


@functools.cache
def devices_of(option: str | tuple[str, ...]) -> tuple[str, ...]:
    """The torch devices that `index.device` names; () where it is auto and torch has no accelerator that works.

    `cuda` (or another type) stands for all devices of that type, under torchrun for the rank's.

    Raises:
        UserError: there is no such device, or it can't search.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if option in ("auto", "gpu"):  # gpu: an earlier name
        if accelerator is None and option == "auto":
            return ()
        names = (accelerator.type if accelerator else "cuda",)
    else:
        names = (option,) if isinstance(option, str) else option
    try:
        devices = [device for name in names for device in _devices(name)]
        for device in devices:
            _try(device)
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        reason = f"torch can't search on it ({one_line(error)[:160]})"
        if option == "auto":
            log.warning(f"searching on the CPU, not on {names[0]}: {reason}")
            return ()
        shown = option if isinstance(option, str) else f"[{','.join(option)}]"
        raise UserError(f"index.device={shown}: {reason}; set index.device=cpu") from error
    return tuple(devices)


def _devices(name: str) -> list[str]:
    device = torch.device(name)
    if device.index is not None or device.type in ("cpu", "mps"):
        return [name]
    count = getattr(torch, device.type).device_count()
    if "LOCAL_RANK" in os.environ and count:
        return [f"{name}:{int(os.environ['LOCAL_RANK']) % count}"]
    return [f"{name}:{i}" for i in range(count)] or [f"{name}:0"]


def _try(device: str) -> None:
    """RuntimeError unless a small search on the device finds the right rows: with ties, and with scores that differ in
    their last bits alone."""
    pool = (1 + np.arange(8192.0) * 7919 % 4099 * 2.0**-22).astype(np.float32).reshape(-1, 1)
    keys, _ = search_on((device,), np.ones((2, 1), dtype=np.float32), ArrayVectors(pool), 40, 0, len(pool), 3000)
    if not (rows_of(keys) == np.argsort(-pool[:, 0], kind="stable")[:40]).all():
        raise RuntimeError("a trial search found wrong rows")
