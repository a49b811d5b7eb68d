"""Numbers in sentences."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Write how many there are of a thing, such as ``1 episode`` or ``2 episodes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Write a number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} PB"
