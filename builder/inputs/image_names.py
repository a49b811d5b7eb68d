"""Names of images in a folder: which are of one sequence, in which order, and what is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from builder.core.errors import AbsentError, SourceError
from builder.core.messages import count
from builder.inputs.listing import IMAGE_SUFFIXES, names_in, number_pattern
from schemas.config import Limits

_DIGITS = re.compile(r"\d+", re.ASCII)
_WORDS = re.compile(r"[^\W_]+")
# What comes before the last part of one number: of seconds, or of a date with its time.
_PART = re.compile(r"\d\.$|(19|20)\d\d\D?[01]\d\D?[0-3]\d\D{0,3}\d\d\D?\d\d\D?$", re.ASCII)

MissingImages = Literal["error", "repeat", "close"]
MISSING_IMAGES = (
    "when a number in the names of a sequence is not there; repeat: show the image before, close: "
    "take those that are there as they come"
)


def sequences(folder: Path) -> dict[str, list[str]]:
    """Return the images of a folder by sequence, in natural order; "" where there is only one.

    Names that differ in more than a number, such as ``left_0.png`` and ``right_0.png``, are of
    several sequences where these share numbers; each is called by what only its names have.
    Raises AbsentError when there is none, and SourceError where names do not tell whether they are
    of one sequence or several.
    """
    names = names_in(folder, IMAGE_SUFFIXES)
    if not names:
        raise AbsentError.at(folder, "there is no image in it")
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, (before, number, after) in zip(names, _counted(names), strict=True):
        suffix = os.path.splitext(name)[1].lower()
        kind = ".jpg" if suffix == ".jpeg" else suffix
        found.setdefault((before, after, kind), {})[number] = name
    if len(found) == 1:
        return {"": names}
    alike = len({_DIGITS.sub("#", " ".join(key)) for key in found}) == 1
    if not _meet(list(found.values())):
        one = names if alike else _one_sequence(names, list(found.values()))
        if not one:
            raise _several(folder, found, "of one, and their numbers do not tell which")
        return {"": one}
    if alike:
        same = {frozenset(numbers) for numbers in found.values()}
        parts = all(_PART.search(before) for before, _, _ in found)
        if len(same) > 1 or parts:
            return {"": names}  # parts of one number, such as a time
        raise _several(folder, found, "of one that counts with two numbers")
    stems = len({key[:2] for key in found}) == len(found)
    labels = _labels([" ".join(key[:2] if stems else key) for key in found])
    return {label: list(each.values()) for label, each in zip(labels, found.values(), strict=True)}


def _counted(names: list[str]) -> list[tuple[str, str, str]]:
    """Cut names without suffix into what comes before their last number, the number, the rest."""
    pattern, found = number_pattern(names), []
    for name in names:
        stem = os.path.splitext(name)[0]
        spans = [match.span() for match in pattern.finditer(stem)]
        start, end = spans[-1] if spans else (len(stem), len(stem))
        found.append((stem[:start], stem[start:end], stem[end:]))
    return found


def _one_sequence(names: list[str], groups: list[dict[str, str]]) -> list[str] | None:
    """Return names of which no two share a number in their order; None where that is not known.

    One without a number has no place among the others, and groups whose numbers alternate may be
    of two cameras.
    """
    if all("" in each for each in groups) or max(map(len, groups)) == 1:
        return names
    if any("" in each for each in groups):
        return None
    numbers = {name: Decimal(number) for each in groups for number, name in each.items()}
    spans = [sorted(map(Decimal, each)) for each in groups if len(each) > 1]
    spans.sort(key=lambda span: span[0])
    if any(second[0] < first[-1] for first, second in pairwise(spans)):
        return None
    counted = sorted(names, key=numbers.__getitem__)
    steps = {numbers[after] - numbers[before] for before, after in pairwise(counted)}
    return counted if counted == names or len(steps) == 1 else None


def _several(folder: Path, found: Mapping[Any, dict[str, str]], why: str) -> SourceError:
    some = ", ".join(next(iter(each.values())) for each in list(found.values())[:3])
    return SourceError.at(
        folder,
        f"its names may be of {len(found)} sequences ({some}, ...) or {why}; "
        f"put each sequence into a folder of its own (source.folder=view)",
    )


def _labels(texts: list[str]) -> list[str]:
    """Return what words each text has that not all have; "main" where it has none."""
    words = [_WORDS.findall(text) for text in texts]
    shared = set.intersection(*map(set, words))
    labels = ["_".join(word for word in own if word not in shared) or "main" for own in words]
    return labels if len(set(labels)) == len(labels) else texts


def _meet(groups: list[dict[str, str]]) -> bool:
    """Tell whether two groups of images share a number."""
    numbers = [Decimal(number) for each in groups for number in each if number]
    return len(set(numbers)) < len(numbers)


def image_names(
    folder: Path,
    limits: Limits,
    missing: MissingImages = "error",
    first: int | None = None,
    sequence: str | None = None,
) -> tuple[list[str], tuple[str, ...]]:
    """Return the image of each frame, and what is to be noted.

    Where names count, like ``im_0.jpg``, ``im_1.jpg``, a number that is not there is an image
    that is missing: SourceError names it, or with "repeat" the one before stands in its place
    (the next, where there is none before), or with "close" the others close up.  ``first`` is
    the number they begin at, where the layout says so; ``sequence`` is one of several.  Raises
    AbsentError when there is none, SourceError for several where one was expected.
    """
    found = sequences(folder)
    if sequence is None and len(found) > 1:
        raise SourceError.at(
            folder,
            f"it holds {len(found)} sequences of images ({', '.join(found)}), one was expected; "
            f"put each into a folder of its own",
        )
    names = next(iter(found.values())) if sequence is None else found[sequence]
    numbers = _numbers(names)
    if numbers is None:
        return names, ()
    steps = np.diff(numbers)
    if not steps.all():
        twice = names[int(np.argmin(steps)) + 1]
        raise SourceError.at(folder, f"two images have the number of {twice}; remove one of them")
    step = 1 if first is not None else int(steps.min(initial=2**62))
    start = int(numbers[0] if first is None else min(first, numbers[0]))
    total = (int(numbers[-1]) - start) // step + 1
    if total == len(names):
        return names, ()
    said = f"{count(total - len(names), 'image')} missing by the numbers in the names"
    lost = start if start < numbers[0] else int(numbers[np.argmax(steps > step)]) + step
    if missing == "error" or total > limits.max_frames:
        raise SourceError.at(
            folder,
            f"{said}, number {lost} is the first; get them again, or set missing_images: repeat "
            f"shows the one before, close takes those that are there",
        )
    if missing == "close":
        return names, (f"{said}: the others close up",)
    at = np.searchsorted(numbers, start + step * np.arange(total), "right") - 1
    return [names[max(0, index)] for index in at.tolist()], (f"{said}: the one before is shown",)


def _numbers(names: list[str]) -> np.ndarray | None:
    """Return the ascending numbers in the names of a sequence; None where they do not count.

    They count when nothing but one whole number differs, in steps that are multiples of the
    smallest; times, for example, come at odd steps.
    """
    parts = _counted(names)
    # More digits do not fit into 64 bits.
    whole = all(number.removeprefix("-").isdigit() and len(number) < 19 for _, number, _ in parts)
    if not whole or len({(before, after) for before, _, after in parts}) > 1:
        return None
    found = np.array([int(number) for _, number, _ in parts])
    steps = np.diff(found)
    smallest = max(1, steps[steps > 0].min(initial=2**62))
    return None if _PART.search(parts[0][0]) or (steps % smallest).any() else found
