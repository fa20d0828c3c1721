"""The GPUs (one per job) and cores of this machine, shared by jobs that run at the same time."""

import contextlib
import logging
import os
import queue
from collections.abc import Iterator

from hydra_plugins.near_launchers.base import SweepJob
from near.common.text import plural
from near.common.threads import THREADS, cores, threads_set

log = logging.getLogger("near")


class Gpus:
    """Slots for jobs, each with one of the GPUs that this process sees."""

    def __init__(self, n_jobs: int | None, jobs: int | None = None, processes: int = 1):
        """n_jobs: parallel jobs; None: one for each GPU, or two without GPUs. jobs: in all. processes: of each job."""
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = [str(i) for i in range(torch.cuda.device_count())]
        self._names = visible.split(",")[: len(seen)] if visible else seen
        self.at_once = min(n for n in (n_jobs or len(self._names) or 2, len(self._names), jobs) if n)
        self._processes = processes
        self._free: queue.Queue[int] = queue.Queue()
        for slot in range(self.at_once):
            self._free.put(slot)

    @contextlib.contextmanager
    def lent_to(self, job: SweepJob) -> Iterator[int]:
        """Wait for a free slot, and for its GPU if the machine has GPUs; yields the slot's number."""
        slot = self._free.get()
        if self._names:
            job.environment["CUDA_VISIBLE_DEVICES"] = self._names[slot]
        try:
            yield slot
        finally:
            self._free.put(slot)

    def threads(self) -> dict[str, str]:
        """Environment variables with the number of threads of a job's process: OMP_NUM_THREADS if it is set, otherwise
        an equal share of the cores. They are inherited by the processes that a job starts."""
        available = cores()
        number = threads_set() or max(1, available // (self.at_once * self._processes))
        source = "OMP_NUM_THREADS" if threads_set() else f"of {plural(available, 'core')}"
        log.info(f"{plural(self.at_once, 'job')} at once, each process with {plural(number, 'thread')} ({source})")
        unset = [name for name in THREADS if not os.environ.get(name) or name == THREADS[0] and not threads_set()]
        return dict.fromkeys(unset, str(number))
