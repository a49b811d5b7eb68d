"""Numbers in sentences, and sentences that several verbs say."""

import difflib
import re
from collections.abc import Mapping

ASSUMED = (
    "nobody knows the size of the source (migrate --assume-img-shape): img_shape stands in its "
    "place, and what is decoded is no source pixel"
)


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


def no_episodes(folder: object) -> str:
    """Say that a dataset is empty, and where the reason stands."""
    return f"{folder} has no episodes: letterset status {folder} shows what was built, what failed"


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


def way_up(orientation: str, why: str | None) -> str:
    """Say how pictures are turned upright, and what that was taken from."""
    if orientation != "none":
        return f"turned by {orientation}{f': {why}' if why else ''}"
    return f"as stored ({why or 'no file says which way is up'})"


def failed(path: str, reason: str, stage: str = "") -> str:
    """Write the line that lists a failure; ``path`` stands in it once."""
    return f"FAILED {path}{f' ({stage})' if stage else ''}: {without_path(reason, path)}"


def noted(notes: Mapping[str, int], most: int = 20) -> list[str]:
    """Write a line for each note and how many episodes have it; the most frequent come first."""
    ordered = sorted(notes, key=lambda note: -notes[note])
    lines = [f"note: {note} ({count(notes[note], 'episode')})" for note in ordered[:most]]
    left = len(ordered) - most
    return [*lines, *([f"note: {left} more, each in the episode's metadata"] if left > 0 else [])]


def left_out(endings: Mapping[str, int]) -> str | None:
    """Say how many files of which endings were not read; None when there are none."""
    if not endings:
        return None
    some = sorted(endings.items(), key=lambda each: (-each[1], each[0]))
    shown = ", ".join(f"{number} {ending}" for ending, number in some[:8])
    more = f" and {len(some) - 8} more endings" if len(some) > 8 else ""
    files = count(sum(endings.values()), "file")
    return f"left out: {files} of other endings ({shown}{more}); convert those that should be read"


def without_path(reason: str, path: str) -> str:
    """Take the path off a reason that begins with it, in whatever folder it is."""
    begins = re.match(rf"([^:]|:(?! ))*?(?<![^/]){re.escape(path)}(: |, (?=view ))", reason)
    return reason[begins.end() :] if begins else reason


def near(word: str, known: list[str]) -> str:
    """Suggest the nearest known word, as the tail of a sentence; empty when none is near."""
    found = nearest(word, known)
    return f" (did you mean {found!r}?)" if found else ""


def nearest(word: str, known: list[str]) -> str | None:
    """Return the known word that is nearest; None when none is near."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return matches[0] if matches else None
