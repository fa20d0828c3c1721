"""hydra/launcher=submitit_local and submitit_slurm: jobs through submitit, on this machine or on a Slurm cluster."""

import contextlib
import importlib.util
import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hydra_plugins.near_launchers.base import Outcome, ProcessLauncher, SweepJob, died, ended
from hydra_plugins.near_launchers.gpus import Gpus
from near.common.errors import UserError, one_line
from near.common.extras import install
from near.common.processes import python_path


class SubmititJob:
    """A job that Slurm may stop and start again; it resumes from its newest checkpoint."""

    def __init__(self, job: SweepJob):
        self.job = job

    def __call__(self) -> Outcome:
        import submitit

        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:  # one process for each GPU of the job, as with torchrun
            submitit.helpers.TorchDistributedEnvironment().export(overwrite=True)
            if environment.global_rank:
                self.job.printed += f".{environment.global_rank}"
        return self.job()

    def checkpoint(self) -> object:
        """What submitit runs next after a time limit or a preemption."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class LocalLauncher(ProcessLauncher):
    """Jobs on this machine, as Slurm would run them.

    Args:
        folder: for submitit's files.
        n_jobs: parallel jobs; None: one for each GPU, or two without GPUs.
        timeout_min: minutes that a job may take.
        tasks_per_node: processes of a job.
    """

    def __init__(self, folder: str, n_jobs: int | None = None, timeout_min: int = 1440, tasks_per_node: int = 1):
        self.folder, self.n_jobs = folder, n_jobs
        self.parameters = {"timeout_min": timeout_min, "tasks_per_node": tasks_per_node}

    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        _installed()
        from submitit import LocalExecutor

        gpus = Gpus(self.n_jobs, len(jobs), self.parameters["tasks_per_node"])
        executor = LocalExecutor(self.folder)
        executor.update_parameters(**self.parameters)

        def call(job: SweepJob) -> Outcome:
            with gpus.lent_to(job):
                return _outcome(job, executor.submit(SubmititJob(job)))

        with _environment(PYTHONPATH=python_path(), **gpus.threads()):
            with ThreadPoolExecutor(gpus.at_once) as pool:
                return list(pool.map(call, jobs))


class SlurmLauncher(ProcessLauncher):
    """Jobs as one array of a Slurm cluster that shares this file system.

    Args:
        max_num_timeout: how often a job that ran out of time is started again.
        parameters: passed to submitit: timeout_min, gpus_per_node, tasks_per_node, cpus_per_task, mem_gb, nodes, name,
            and options of sbatch with the prefix `slurm_` (slurm_partition, slurm_array_parallelism, ...).
    """

    def __init__(self, folder: str, max_num_timeout: int = 3, **parameters: object):
        self.folder, self.max_num_timeout = folder, max_num_timeout
        self.parameters = {k: v for k, v in parameters.items() if v is not None}

    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        _installed()
        from omegaconf import OmegaConf
        from submitit import AutoExecutor

        parameters = {k: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for k, v in self.parameters.items()}
        setup = [f"export PYTHONPATH={shlex.quote(python_path())}"]
        if cpus := parameters.get("cpus_per_task"):  # also on a cluster that does not bind a job to its CPUs
            setup += [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}}"]
            setup += ["export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-$OMP_NUM_THREADS}"]
        setup += parameters.pop("slurm_setup", [])
        try:
            executor = AutoExecutor(self.folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout)
            executor.update_parameters(slurm_setup=setup, **parameters)
        except (RuntimeError, NameError, AssertionError, TypeError) as error:
            raise UserError(f"hydra/launcher=submitit_slurm: {one_line(error)}") from error
        submitted = executor.map_array(lambda job: job(), [SubmititJob(job) for job in jobs])
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(_outcome, jobs, submitted))


def _installed() -> None:
    if importlib.util.find_spec("submitit") is None:
        raise UserError(f"submitit is not installed; {install('sweeps')}")


def _outcome(job: SweepJob, submitted) -> Outcome:
    """Wait for a job of submitit."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        outcome = submitted.results()[0]
    except (UncompletedJobError, FailedJobError):
        outcome = died(job, f"submitit's notes: {Path(submitted.paths.stderr)}")
    return ended(job, outcome)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
