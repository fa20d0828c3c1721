"""hydra/launcher=ray: every job is a task of a Ray cluster; its machines share this file system."""

from hydra_plugins.near_launchers.base import Outcome, ProcessLauncher, SweepJob, died, ended
from near.common.errors import UserError, one_line


class RayLauncher(ProcessLauncher):
    """Jobs on the cluster in RAY_ADDRESS, or on a local one.

    Args:
        num_gpus: GPUs of a job; None: one if the cluster has GPUs, otherwise none.
        num_cpus: CPUs of a job.
        max_retries: how often a job is started again from its newest checkpoint after a lost process or machine.
    """

    def __init__(self, num_gpus: float | None = None, num_cpus: int = 1, max_retries: int = 1):
        self.num_gpus, self.num_cpus, self.max_retries = num_gpus, num_cpus, max_retries

    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        from near.common.cluster import cluster

        with cluster():
            import ray

            gpus = self.num_gpus if self.num_gpus is not None else min(1, ray.cluster_resources().get("GPU", 0))
            self._check(ray.cluster_resources(), gpus)
            # a new process for each job, so that its memory is freed, also on a GPU
            task = ray.remote(num_gpus=gpus, num_cpus=self.num_cpus, max_retries=self.max_retries, max_calls=1)(_call)
            waiting = {task.remote(job): i for i, job in enumerate(jobs)}
            outcomes: list[Outcome] = [{} for _ in jobs]
            while waiting:
                (done,), _ = ray.wait(list(waiting))
                i = waiting.pop(done)
                outcomes[i] = ended(jobs[i], _outcome(jobs[i], done))
            return outcomes

    def _check(self, resources: dict[str, float], gpus: float) -> None:
        for name, required in (("GPU", gpus), ("CPU", self.num_cpus)):
            if required > (available := resources.get(name, 0)):
                option = f"hydra.launcher.num_{name.lower()}s"
                raise UserError(f"{option}={required:g}: the cluster has {available:g}, and a job would wait for ever")


def _call(job: SweepJob) -> Outcome:
    return job()


def _outcome(job: SweepJob, done) -> Outcome:
    import ray

    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        return died(job, one_line(error)[:200])
