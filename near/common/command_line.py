"""How this process was started: its script, and the command before its options."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command without its options."""

    script: str | None  # select, train, merge, eval or report; None if near is used from Python
    start: tuple[str, ...]  # such as ("python", "train.py") or ("near", "train")


_current: Command | None = None


def set_command(command: Command) -> None:
    """Record how this process was started; again in each process that runs a job of a sweep."""
    global _current
    _current = command


def current() -> Command:
    """How this process was started."""
    return _current or Command(None, ("python", sys.argv[0]))
