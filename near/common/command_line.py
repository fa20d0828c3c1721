"""How this process was started: its script, and what was typed in front of its options."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """script: select, train, merge, eval or report; None where near is used from Python. start: such as
    ("python", "train.py") or ("near", "train")."""

    script: str | None
    start: tuple[str, ...]


_current: Command | None = None


def set_command(command: Command) -> None:
    """Say how this process was started. A job of a sweep that runs in another process says it there again."""
    global _current
    _current = command


def current() -> Command:
    """How this process was started."""
    return _current or Command(None, ("python", sys.argv[0]))
