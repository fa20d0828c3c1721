"""No tracker: the run only writes its files."""

from near.training.trackers.base import Tracker


class NoTracker(Tracker):
    """Ignores all metrics."""
