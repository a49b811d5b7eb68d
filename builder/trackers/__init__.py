"""Points followed through windows of frames: what a tracker is, and bases to write one on."""

from builder.trackers.base import BaseSession, Session, Tracker, ViewKey, Window
from builder.trackers.windowed import WindowedTracker

__all__ = ["BaseSession", "Session", "Tracker", "ViewKey", "Window", "WindowedTracker"]
