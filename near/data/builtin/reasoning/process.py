"""The process that makes and scores reasoning-gym's rows (worker.py)."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Literal

from near.common.errors import one_line

WORKER = Path(__file__).with_name("worker.py")


class Died(Exception):
    """The process ended before it had answered; the message is its last line."""


class LimitedProcess:
    """One process, within a `with` block; its rows are the same every time."""

    def __init__(self, work: Literal["rows", "scores"]):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), work],  # -P: this folder is not searched for modules
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            encoding="utf-8",
        )

    def __enter__(self) -> "LimitedProcess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ask(self, job: dict) -> list[dict]:
        """The results of one job. Raises Died."""
        results: list[dict] = []
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        for line in self.process.stdout:
            if line == "\n":
                return results
            results.append(json.loads(line))
        raise self._died()

    def _died(self) -> Died:
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return Died(one_line(lines[-1] if lines else f"exit status {self.process.returncode}"))
