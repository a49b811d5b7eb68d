"""Which of several equal processes this one is, so that they can share devices evenly."""

import os

SLOT = "LETTERSET_WORKER_SLOT"


def worker_slot() -> int:
    """Return this worker's number among those that run at a time, from 0; 0 in a main process.

    A worker that replaces another takes over its slot.
    """
    return int(os.environ.get(SLOT, "0"))
