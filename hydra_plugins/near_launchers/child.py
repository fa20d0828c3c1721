"""A process of the joblib launcher: it reads one job after another from standard input and writes each outcome as one
line of JSON. Modules that one job imported are there for the next."""

import contextlib
import json
import os
import pickle
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydra_plugins.near_launchers.base import SweepJob


def _end_with_launcher(working: threading.Event) -> None:
    """End a working process when the launcher ends, also if that is killed: standard input then closes."""
    closed = select.poll()
    closed.register(0, 0)
    closed.poll()
    working.wait()  # an idle process ends by itself
    os.kill(os.getpid(), signal.SIGTERM)


def _jobs() -> Iterator["SweepJob"]:
    """Jobs from the launcher, through a pipe that only it has, until it closes that."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):  # Ctrl-C reaches an idle process, too
        while True:
            yield pickle.load(sys.stdin.buffer)


def main() -> None:
    working = threading.Event()
    threading.Thread(target=_end_with_launcher, args=[working], daemon=True).start()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as outcomes:
        os.dup2(2, 1)  # what a library prints between two jobs is no outcome
        for job in _jobs():
            working.set()
            outcome = json.dumps(job())
            working.clear()
            outcomes.write(outcome + "\n")
            outcomes.flush()
            del job  # with its configuration, while the process waits


if __name__ == "__main__":
    main()
