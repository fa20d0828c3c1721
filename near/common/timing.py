"""How long a few rows take, so that the time of many can be estimated."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FIRST = 4  # rows of the first call that is timed
ENOUGH = 4.0  # seconds of a call that is long enough; the calls before it were half as long
MARGIN = 0.15  # a range reaches at least so far to either side: the machine's own variation between two runs


class Clock(Protocol):
    """Measures work on a device."""

    def start(self) -> None: ...

    def stop(self) -> tuple[float, int]:
        """Seconds since `start`, and the peak of memory since then, in bytes."""
        ...


class ProcessClock:
    """Measures work of this process on the CPU. Its memory is the resident set, with all that was loaded before."""

    def start(self) -> None:
        reset_peak()
        self._started = time.perf_counter()

    def stop(self) -> tuple[float, int]:
        return time.perf_counter() - self._started, peak_memory()


def reset_peak() -> None:
    """Begin a new peak of this process's memory, where the system (Linux) has that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """Bytes of this process's resident set at its peak since `reset_peak`; without /proc since it started."""
    try:
        line = re.search(r"^VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        line = None
    if line is not None:
        return int(line[1]) * 1024
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@dataclass(frozen=True)
class Rate:
    """Seconds for a unit of work.

    Attributes:
        each, low, high: seconds, and the range that was measured.
        memory: bytes at the peak.
        rows: of the longest call.
    """

    each: float
    low: float
    high: float
    memory: int
    rows: int

    @classmethod
    def between(cls, each: float, others: list[float], memory: int, rows: int) -> "Rate":
        """`each`, with the range of it and `others`, at least MARGIN wide to either side."""
        low, high = min(each, *others, each * (1 - MARGIN)), max(each, *others, each * (1 + MARGIN))
        return cls(each, low, high, memory, rows)

    def seconds(self, units: float, fixed: float = 0.0) -> dict[str, float]:
        """`seconds`, `low` and `high` of so many units, with `fixed` seconds beside them."""
        return {
            "seconds": fixed + units * self.each,
            "low": fixed + units * self.low,
            "high": fixed + units * self.high,
        }


def measured(work: Callable[[int], float], most: int, clock: Clock) -> Rate:
    """Time calls of growing size, until one takes ENOUGH seconds or has all rows. The last one counts.

    Args:
        work: computes n rows that stand for all of them; returns their units of work, such as tokens.
        most: rows that there are, at least 1.
    """
    rows, rates, memory = min(FIRST, most), [], 0
    work(rows)  # the first call of a model takes longer
    while True:
        clock.start()
        units = work(rows)
        seconds, used = clock.stop()
        rates.append(seconds / max(units, 1e-9))
        memory = max(memory, used)
        if rows >= most or seconds >= ENOUGH:
            return Rate.between(rates[-1], rates[-2:-1], memory, rows)
        rows = min(2 * rows, most)
