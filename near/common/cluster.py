"""A Ray cluster: connecting to it and running functions there; a UserError keeps its type."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator

from near.common.errors import UserError
from near.common.extras import install
from near.common.processes import python_path
from near.common.progress import Progress


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start a local one that ends with the block."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"launcher=ray: Ray is not installed; {install('ray')}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        environment = {"env_vars": {"PYTHONPATH": python_path()}}
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def cluster_cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def on_cluster(count: int, work: Callable[[int], int], progress: Progress) -> None:
    """Call `work(0)` to `work(count - 1)`, each in a task with one CPU. Ray restarts a task whose process dies.

    Args:
        count: number of tasks.
        work: returns how much it did.
        progress: called with each return value.
    """
    import ray

    task = ray.remote(num_cpus=1)(_call)
    shared = ray.put(work)
    waiting = [task.remote(shared, number) for number in range(count)]
    while waiting:
        done, waiting = ray.wait(waiting)
        with unwrapped_errors():
            progress(ray.get(done[0]))


def _call(work: Callable[[int], int], number: int) -> int:
    return work(number)


@contextlib.contextmanager
def unwrapped_errors() -> Iterator[None]:
    """Raise the UserError that a Ray error wraps."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        cause = error
        while cause is not None and not isinstance(cause, UserError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise UserError(str(cause)) from error if cause is not None else error
