"""Choosing a few of many, evenly: what samples, probes and previews look at."""

from collections.abc import Mapping
from typing import Any


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` different indices, evenly over ``range(length)``."""
    count = min(length, count)
    return [(2 * k + 1) * length // (2 * count) for k in range(count)]


def stratified(shapes: Mapping[str, Any], count: int) -> list[str]:
    """Choose up to ``count`` keys so that as many different values as possible are there.

    Values take turns, the most frequent first; keys of one value are spread evenly.
    """
    groups: dict[Any, list[str]] = {}
    for key, shape in shapes.items():
        groups.setdefault(shape, []).append(key)
    ordered = sorted(groups.values(), key=len, reverse=True)
    quotas = [0] * len(ordered)
    for _ in range(min(count, len(shapes))):
        open_groups = (k for k, keys in enumerate(ordered) if quotas[k] < len(keys))
        quotas[min(open_groups, key=lambda k: quotas[k])] += 1
    return [
        keys[k]
        for keys, quota in zip(ordered, quotas, strict=True)
        for k in spread(len(keys), quota)
    ]
