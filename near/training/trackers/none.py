"""No tracker: the run writes its own files only."""

from near.training.trackers.base import Tracker


class NoTracker(Tracker):
    """Takes every metric and keeps none."""
