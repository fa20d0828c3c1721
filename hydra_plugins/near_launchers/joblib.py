"""hydra/launcher=joblib: several jobs at once on this machine, each in a separate process."""

import json
import os
import signal
import subprocess
import sys

from hydra_plugins.near_launchers.base import Outcome, ProcessLauncher, SweepJob, died, ended
from hydra_plugins.near_launchers.gpus import Gpus
from near.common.processes import python_path


class JoblibLauncher(ProcessLauncher):
    """joblib schedules the jobs; each of its threads waits for a process.

    n_jobs: parallel jobs; None: one for each GPU, or two without GPUs.
    """

    def __init__(self, n_jobs: int | None = None):
        self.n_jobs = n_jobs

    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        from joblib import Parallel, delayed

        gpus = Gpus(self.n_jobs)
        environment = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": gpus.cores_for_each()}

        def call(job: SweepJob) -> Outcome:
            with gpus.lent_to(job):
                return ended(job, _in_process(job, environment))

        return Parallel(n_jobs=gpus.at_once, backend="threading")(delayed(call)(job) for job in jobs)


def _in_process(job: SweepJob, environment: dict[str, str]) -> Outcome:
    """Call `job` in a new interpreter, which ends with this process, because its standard input closes then."""
    import cloudpickle

    command = [sys.executable, "-m", "hydra_plugins.near_launchers.child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        try:
            child.stdin.write(cloudpickle.dumps(job))
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        status = child.wait()
    if line:
        return json.loads(line)
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return died(job, how + (", out of memory?" if status == -signal.SIGKILL else ""))
