"""hydra/launcher=joblib: several jobs at once on this machine, each process with one job after another."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import weakref

from hydra_plugins.near_launchers.base import Outcome, ProcessLauncher, SweepJob, died, ended
from hydra_plugins.near_launchers.gpus import Gpus
from near.common.processes import python_path


class JoblibLauncher(ProcessLauncher):
    """joblib schedules the jobs; each of its threads waits for a process.

    A process takes the next job when one is done, also of a later batch of an optimising sweeper. After a job that
    failed, the next one gets a new process.

    n_jobs: parallel jobs; None: one for each GPU, or two without GPUs.
    reuse: False: every job gets a new process.
    """

    def __init__(self, n_jobs: int | None = None, reuse: bool = True):
        self.n_jobs, self.reuse = n_jobs, reuse
        self._workers: dict[int, Worker] = {}  # by slot

    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        from joblib import Parallel, delayed

        gpus = Gpus(self.n_jobs, len(jobs))
        environment = {**os.environ, "PYTHONPATH": python_path(), **gpus.threads()}

        def call(job: SweepJob) -> Outcome:
            with gpus.lent_to(job) as slot:
                return ended(job, self._call(slot, job, environment | job.environment))

        return Parallel(n_jobs=gpus.at_once, backend="threading")(delayed(call)(job) for job in jobs)

    def _call(self, slot: int, job: SweepJob, environment: dict[str, str]) -> Outcome:
        worker = self._workers.pop(slot, None)
        if worker is not None and not worker.serves(environment):
            worker.close()
            worker = None
        worker = worker or Worker(environment)
        outcome = worker.call(job)
        if self.reuse and "error" not in outcome:
            self._workers[slot] = worker
        else:
            worker.close()
        return outcome


class Worker:
    """An interpreter for one job after another. It ends with this process, because its standard input closes then."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment
        command = [sys.executable, "-m", "hydra_plugins.near_launchers.child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.close = weakref.finalize(self, _close, self._process)

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether it runs, with this environment: the number of threads is read when a process starts."""
        return self._process.poll() is None and self.environment == environment

    def call(self, job: SweepJob) -> Outcome:
        import cloudpickle

        try:
            self._process.stdin.write(cloudpickle.dumps(job))
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return json.loads(line)
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return died(job, how + (", out of memory?" if status == -signal.SIGKILL else ""))


def _close(process: subprocess.Popen) -> None:
    """Let an idle process end."""
    with contextlib.suppress(BrokenPipeError):  # it has ended, and has not read its last job
        process.stdin.close()
    process.stdout.close()
    process.wait()
