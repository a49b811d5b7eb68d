"""CoTracker 2 and 3 as a tracker: settings, loading, the model with remembered features.

The package ``cotracker`` and its weights are installed by the user; see docs/guides/cotracker.md.
"""

from builder.trackers.kinds.cotracker.tracker import CoTracker, CoTrackerConfig

__all__ = ["CoTracker", "CoTrackerConfig"]
