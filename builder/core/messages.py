"""Numbers in sentences, and sentences that several verbs say."""

import difflib

from pydantic import ValidationError


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
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def points(grid: tuple[int, int], region: str) -> str:
    """Say where query points are: a grid of (rows, columns) over a region, or just stored ones."""
    rows, columns = grid
    if region == "stored":
        return f"{rows * columns} as stored"
    return f"{rows} x {columns} over the {region}"


def pictures(img_shape: tuple[int, int], geometry: object) -> str:
    """Say what a build does to frames; ``geometry`` is the config's, default a letterbox."""
    shape = f"{img_shape[0]} x {img_shape[1]}"
    if geometry == "resize_shorter":
        return f"resized by its shorter side, for training at {shape}"
    return f"letterboxed to {shape}"


def failed(path: str, reason: str, stage: str = "") -> str:
    """Write the line that lists a failure; ``path`` stands in it once."""
    return f"FAILED {path}{f' ({stage})' if stage else ''}: {without_path(reason, path)}"


def without_path(reason: str, path: str) -> str:
    """Take the path off a reason that begins with it, in whatever folder it is."""
    before, found, rest = reason.partition(f"{path}: ")
    begins = not before or (before.endswith("/") and ": " not in before)
    return rest if found and begins else reason


def explain(error: ValidationError, prefix: str = "", known: list[str] | None = None) -> str:
    """Put a validation error into sentences: where, what was got, what was expected."""
    lines = []
    for item in error.errors(include_url=False):
        parts = [str(part) for part in (prefix, *item["loc"]) if part != ""]
        where = ".".join(part for part in parts if "[" not in part)  # a type tried in a union
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            lines.append(f"{where}: unknown key{near(key, known or [])}")
        elif item["type"] == "missing":
            lines.append(f"{where}: this must be given")
        else:
            # A tuple is a list to those who write YAML or JSON.
            message = item["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
            lines.append(f"{where}: {message[0].lower()}{message[1:]}, got {item['input']!r:.200}")
    return "; ".join(lines)


def near(word: str, known: list[str]) -> str:
    """Suggest the nearest known word, as the tail of a sentence; empty when none is near."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
