"""How many tokens a batch may have: a number, or, on an accelerator, the largest that pays and fits.

A calibration measures the first batches of the real work, so that none of it is lost. The budget changes how fast rows
are computed, and their results by rounding alone; it is no part of a key.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np

from near.common.batches import batch_end, longest_first
from near.common.errors import UserError
from near.common.files import note_use, read_json, write_json

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST = 4096  # tokens of the first batches that are measured
TRIALS = 3  # batches measured for each budget, of which the fastest counts
GAIN = 1.1  # doubling the budget must raise the tokens per second by this factor
MOST_ROWS = 1 << 20
SHARE = 0.7  # of the free memory, which a doubled budget must not pass


class Meter(Protocol):
    """Measures one batch on a device."""

    device: str  # its name, for people

    def start(self) -> None: ...

    def stop(self) -> tuple[float, float]:
        """Seconds since `start`, and the peak of memory used since then as a share of what was free."""
        ...


class Budget:
    """The tokens of a batch, padding included.

    Args:
        option: the configured value.
        default: what auto means without a meter.
        name: the option's, for messages.
        meter: measures batches for auto; None: auto is `default`, as on a CPU.
        path: the file in which a calibrated budget is cached.
        fix: what to do about a row that is too large for the memory.
        release: frees memory that is cached and not used, after an out-of-memory error.
        shrinks: halve the budget if the memory is too small. False where several processes have to form equal batches.
    """

    def __init__(
        self,
        option: Literal["auto"] | int,
        default: int,
        name: str,
        meter: Meter | None = None,
        path: Path | None = None,
        fix: str = "use shorter rows",
        release: Callable[[], object] = lambda: None,
        shrinks: bool = True,
    ):
        self.option, self.name, self.fix, self.release, self.shrinks = option, name, fix, release, shrinks
        self.meter = meter if option == "auto" else None
        self.path = path if self.meter else None
        self.tokens, self.calibrating = (default if option == "auto" else option), False
        if self.meter is not None:
            cached = _cached(self.path)
            self.tokens, self.calibrating = cached or FIRST, cached is None
            if cached:
                note_use(self.path)  # its last use, for pruning
                _log_cached(f"{name}=auto: {cached} tokens a batch, as measured before on {self.meter.device}")
        self._best, self._rates, self._peak = 0.0, [], 0.0

    def rows(self, limit: int) -> int:
        """The maximum of rows in a batch: `limit`, except that measured budgets are limited by tokens alone."""
        return limit if self.meter is None else MOST_ROWS

    def run(
        self, lengths: list[int] | np.ndarray, work: Callable[[np.ndarray], T], size: int, alike: float = 0.0
    ) -> Iterator[tuple[np.ndarray, T]]:
        """Work through rows batch by batch, longest rows first.

        After an out-of-memory error the budget is halved, and the same rows are tried again.

        Args:
            lengths: tokens of each row, (n,).
            work: computes a batch of rows, from their positions.
            size, alike: see `batches`.

        Yields:
            Positions of a batch's rows, int64; what `work` returned.

        Raises:
            UserError: a single row does not fit into memory.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        order = longest_first(lengths)
        descending, start = lengths[order], 0
        if self.meter is not None:  # measured without padding, so that it is part of the measurement
            alike = 0.0
        while start < len(order):
            part = order[start : batch_end(descending, start, size, self.tokens, alike)]
            result, fits = self._tried(work, part, lengths[part])
            if not fits:
                self.release()
                self._shrink(len(part), int(descending[start]))
                continue
            yield part, result
            start += len(part)

    def _tried(self, work: Callable[[np.ndarray], T], part: np.ndarray, lengths: np.ndarray) -> tuple[T | None, bool]:
        """What `work` returns, and whether it fits. (Here an error's traceback, which keeps tensors, ends.)"""
        measured = self.calibrating and len(part) * lengths[0] > self.tokens // 2
        try:
            if not measured:
                return work(part), True
            self.meter.start()
            result = work(part)
            seconds, peak = self.meter.stop()
        except (RuntimeError, MemoryError) as error:
            if not (self.shrinks and is_out_of_memory(error)):
                raise
            return None, False
        self._note(lengths.sum() / max(seconds, 1e-9), peak)
        return result, True

    def _note(self, rate: float, peak: float) -> None:
        """Note a measured batch: its tokens per second, without padding, and its peak of memory."""
        self._rates.append(float(rate))
        self._peak = max(self._peak, peak)
        if len(self._rates) < TRIALS:
            return
        rate, self._rates = max(self._rates), []
        if rate < GAIN * self._best:
            self._settle(self.tokens // 2, f"{self._best:,.0f} tokens/s, and {rate:,.0f} with twice as many")
        elif 2 * self._peak > SHARE:
            self._settle(self.tokens, f"{rate:,.0f} tokens/s, {self._peak:.0%} of the free memory")
        else:
            self._best, self.tokens = rate, 2 * self.tokens

    def _settle(self, tokens: int, reason: str) -> None:
        self.tokens, self.calibrating = tokens, False
        log.info(f"{self.name}=auto: {tokens} tokens a batch on {self.meter.device} ({reason})")
        self._write()

    def _shrink(self, rows: int, longest: int) -> None:
        """Halve the budget after a batch of so many rows, of which the longest has `longest` tokens."""
        if rows == 1:
            raise UserError(f"{self.name}: a single row of {longest} tokens does not fit into memory; {self.fix}")
        self.tokens, self.calibrating = max(1, min(self.tokens, rows * longest) // 2), False
        log.info(f"{self.name}: {rows} rows of {longest} tokens do not fit into memory: {self.tokens} tokens a batch")
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        with contextlib.suppress(OSError, UserError):  # a full disk or a read-only cache: the next run measures again
            write_json(self.path, {"batch_tokens": self.tokens, "option": self.name, "device": self.meter.device})


@functools.cache
def _log_cached(line: str) -> None:
    """Log a line once."""
    log.info(line)


def _cached(path: Path | None) -> int | None:
    """The budget in the file; None if there is none, or a damaged one."""
    with contextlib.suppress(OSError, UserError):
        tokens = read_json(path).get("batch_tokens") if path else None
        return tokens if type(tokens) is int and tokens > 0 else None
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or an accelerator's driver, found too little memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
