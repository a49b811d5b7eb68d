"""Choosing a few of many, evenly: what samples, probes and previews look at."""

from __future__ import annotations


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` different indices, evenly over ``range(length)``."""
    count = min(length, count)
    return [(2 * k + 1) * length // (2 * count) for k in range(count)]
