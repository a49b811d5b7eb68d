"""Numbers in sentences."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Write how many there are of a thing, such as ``1 episode`` or ``2 episodes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Write a number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} PB"


def duration(seconds: float) -> str:
    """Write a duration with its two largest units."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
