"""A time limit for work that reports its progress."""

import time


class OutOfTime(Exception):
    """The limit was reached; what was done before counts."""


class TimeLimit:
    """limit: seconds from now on; None: no limit."""

    def __init__(self, limit: float | None):
        self.started = time.monotonic()
        self.limit = float("inf") if limit is None else limit
        self.paused = 0.0  # seconds that do not count

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self.limit + self.paused - self.seconds)

    def pause(self, seconds: float) -> None:
        """Add what does not count, such as loading a model."""
        self.paused += seconds

    def progress(self, done: int) -> None:
        """To be called while work goes on. Raises OutOfTime at the limit."""
        del done
        if not self.left():
            raise OutOfTime
