"""A warning, once its first batches are computed, that the scoring of a round will take hours."""

import logging
import time

from near.common.cost import HOUR, duration
from near.common.processes import is_main, world_size

log = logging.getLogger(__name__)

SURE = 10.0  # seconds of batches from which the time is estimated, or a whole chunk
SHORTLIST = 1000  # rows of the shortlist that is suggested


class Forecast:
    """Estimates the seconds of scoring from its first batches, and warns if they are more than an hour.

    Args:
        name: of the results.
        shortlisted: whether the rows are those of a shortlist already.
    """

    def __init__(self, name: str, shortlisted: bool):
        self.name, self.shortlisted = name, shortlisted
        self.done = False
        self._rows = self._tokens = 0
        self._started = time.perf_counter()

    def restart(self) -> None:
        """Forget the batches so far, which measured how large batches should be."""
        self._rows = self._tokens = 0
        self._started = time.perf_counter()

    def add(self, rows: int, tokens: int) -> bool:
        """Count a batch of so many rows and tokens; returns whether there are enough."""
        self._rows, self._tokens = self._rows + rows, self._tokens + tokens
        return not self.done and time.perf_counter() - self._started >= SURE

    def decide(self, each: float, left: int) -> None:
        """Warn if the rest takes more than an hour.

        Args:
            each: tokens of a row, on average.
            left: rows that are not computed yet, those of the batches so far included.
        """
        if not self._tokens:
            return
        self.done = True
        row = (time.perf_counter() - self._started) / self._tokens * each / world_size()
        if left * row <= HOUR or not is_main():
            return
        cheaper = "a smaller shortlist or data.cutoff_len takes less"
        if not self.shortlisted and left > SHORTLIST:
            cheaper = (
                f"a shortlist takes less: selector.shortlist={{selector: near, size: {SHORTLIST}}} (with "
                f"similarity=gradients similarity.shortlist) about {duration(SHORTLIST * row)}"
            )
        log.warning(
            f"the {self.name} of {left} rows will take about {duration(left * row)} in this round, by the first "
            f"{self._rows}; {cheaper}; dry_run=true estimates the whole run"
        )
