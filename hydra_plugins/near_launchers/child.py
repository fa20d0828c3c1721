"""The process of one job that the joblib launcher started: the job comes in by standard input, its outcome goes out as
one line of JSON."""

import json
import os
import pickle
import signal
import sys
import threading


def _end_with_parent() -> None:
    """Standard input closes when the launcher is gone, killed ones included."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    job = pickle.load(sys.stdin.buffer)  # from the launcher that started this process, by a pipe only it holds
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outcome = json.dumps(job())
    sys.stdout.write(outcome + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
