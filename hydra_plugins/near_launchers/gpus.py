"""The GPUs (one per job) and cores of this machine, shared by jobs that run at the same time."""

import contextlib
import os
import queue
from collections.abc import Iterator

from hydra_plugins.near_launchers.base import SweepJob


class Gpus:
    """The GPUs that this process sees, lent to one job each."""

    def __init__(self, n_jobs: int | None):
        """n_jobs: parallel jobs; None: one for each GPU, or two without GPUs."""
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = [str(i) for i in range(torch.cuda.device_count())]
        names = visible.split(",")[: len(seen)] if visible else seen
        self.at_once = min(n_jobs or len(names) or 2, len(names) or n_jobs or 2)
        self._free: queue.Queue[str | None] = queue.Queue()
        for i in range(self.at_once):
            self._free.put(names[i] if names else None)

    @contextlib.contextmanager
    def lent_to(self, job: SweepJob) -> Iterator[None]:
        """Wait for a free slot, and for its GPU if the machine has GPUs."""
        name = self._free.get()
        if name is not None:
            job.environment["CUDA_VISIBLE_DEVICES"] = name
        try:
            yield
        finally:
            self._free.put(name)

    def cores_for_each(self) -> str:
        """OMP_NUM_THREADS of a job: the value in the environment, otherwise an equal share of the cores."""
        return os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // self.at_once))
