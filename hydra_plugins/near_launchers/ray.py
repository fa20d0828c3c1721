"""hydra/launcher=ray: every job a task of a Ray cluster whose machines share this file system."""

from hydra_plugins.near_launchers.base import Outcome, ProcessLauncher, SweepJob, died, ended
from near.common.errors import UserError, one_line


class RayLauncher(ProcessLauncher):
    """Jobs on the cluster that RAY_ADDRESS names, or on one of this machine.

    num_gpus, num_cpus: of a job; None: one GPU where the cluster has some. max_retries: how often a job whose process
    or machine was lost is started again, from its newest checkpoint.
    """

    def __init__(self, num_gpus: float | None = None, num_cpus: int = 1, max_retries: int = 1):
        self.num_gpus, self.num_cpus, self.max_retries = num_gpus, num_cpus, max_retries

    def run(self, jobs: list[SweepJob]) -> list[Outcome]:
        from near.common.cluster import cluster

        with cluster():
            import ray

            gpus = self.num_gpus if self.num_gpus is not None else min(1, ray.cluster_resources().get("GPU", 0))
            self._look(ray.cluster_resources(), gpus)
            # a process for each job alone: what one leaves behind, memory on a GPU too, is gone with it
            task = ray.remote(num_gpus=gpus, num_cpus=self.num_cpus, max_retries=self.max_retries, max_calls=1)(_call)
            waiting = {task.remote(job): place for place, job in enumerate(jobs)}
            outcomes: list[Outcome] = [{} for _ in jobs]
            while waiting:
                (done,), _ = ray.wait(list(waiting))
                place = waiting.pop(done)
                outcomes[place] = ended(jobs[place], _outcome(jobs[place], done))
            return outcomes

    def _look(self, resources: dict[str, float], gpus: float) -> None:
        for name, asked in (("GPU", gpus), ("CPU", self.num_cpus)):
            if asked > (there := resources.get(name, 0)):
                option = f"hydra.launcher.num_{name.lower()}s"
                raise UserError(f"{option}={asked:g}: the cluster has {there:g}, and a job would wait for ever")


def _call(job: SweepJob) -> Outcome:
    return job()


def _outcome(job: SweepJob, done) -> Outcome:
    import ray

    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        return died(job, one_line(error)[:200])
