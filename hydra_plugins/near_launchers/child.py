"""A process of the joblib launcher: it reads one job after another from standard input and writes each outcome as one
line of JSON. Modules that one job imported are there for the next."""

import contextlib
import json
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydra_plugins.near_launchers.base import SweepJob

Jobs = queue.SimpleQueue  # of jobs; then None, or the error that ended the reading


def _read(jobs: Jobs, working: threading.Event) -> None:
    """Read jobs from the launcher, through a pipe that only it has. When it ends, even if killed, the pipe closes:
    a working process ends at once, an idle one after what is left."""
    try:
        while True:
            job = pickle.load(sys.stdin.buffer)
            working.set()
            jobs.put(job)
            del job  # with its configuration, while the process waits
    except EOFError:
        if working.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        jobs.put(None)
    except BaseException as error:
        jobs.put(error)


def _received(jobs: Jobs) -> Iterator["SweepJob"]:
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches an idle process, too
        while (job := jobs.get()) is not None:
            if isinstance(job, BaseException):
                raise job
            yield job
            del job


def main() -> None:
    jobs, working = Jobs(), threading.Event()
    threading.Thread(target=_read, args=[jobs, working], daemon=True).start()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as outcomes:
        os.dup2(2, 1)  # what a library prints between two jobs is no outcome
        for job in _received(jobs):
            outcome = json.dumps(job())
            working.clear()
            outcomes.write(outcome + "\n")
            outcomes.flush()
            del job


if __name__ == "__main__":
    main()
