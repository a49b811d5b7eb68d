"""CoTracker 2 and 3 as a tracker: settings, loading, and the model on features computed once.

The package ``cotracker`` and its weights are installed by the user; see docs/guides/cotracker.md.
"""

from builder.trackers.kinds.cotracker.tracker import CoTracker, CoTrackerConfig

__all__ = ["CoTracker", "CoTrackerConfig"]
