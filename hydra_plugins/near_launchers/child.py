"""The process of one job of the joblib launcher: it reads the job from standard input and writes the outcome as one
line of JSON."""

import json
import os
import pickle
import signal
import sys
import threading


def _end_with_parent() -> None:
    """End this process when the launcher ends, also if that is killed: standard input then closes."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    job = pickle.load(sys.stdin.buffer)  # from the launcher that started this process, through a pipe that only it has
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outcome = json.dumps(job())
    sys.stdout.write(outcome + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
