"""Tracks that exist already, read from files."""

from builder.trackers.kinds.precomputed.tracker import Precomputed

__all__ = ["Precomputed"]
