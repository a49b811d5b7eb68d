"""A tracker in a process of its own that serves all workers."""
