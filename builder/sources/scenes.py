"""Where one shot ends and the next begins: found by PySceneDetect, and kept for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from builder.core.paths import user_cache
from builder.core.registry import import_extra
from builder.inputs.foreign import still_reading
from builder.inputs.streams import Frame, origin
from builder.sources.base import Episode
from builder.sources.selection import Scenes
from schemas.base import canonical_json
from schemas.config import SourcePart

_SHORT_SIDE = 96
"""Pixels of the pictures that are compared: more cost more and tell no more of a cut."""

_EVERY = 50  # frames between two signs of life


def search_notice(part: SourcePart) -> str | None:
    """Say that cuts are looked for before anything is built; None where they are not."""
    clip = part.settings.get("clip")
    if not isinstance(clip, dict) or not clip.get("scenes"):
        return None
    folder = _folder()
    kept = f"; what is found is kept in {folder}" if folder else ""
    return f"looking for shot changes first: this takes as long as decoding all frames once{kept}"


def scene_starts(episode: Episode, name: str, how: Scenes) -> np.ndarray:
    """Return the first frame of each shot of a selected episode, (C,) ascending from 0.

    Shots are those of its reference view.  All frames of it are looked at, from the first that is
    selected to the last: between frames further apart more changes without a cut.  What is found
    is kept in the user's cache, under the ``name`` of the episode, the fingerprints of its files
    and the times of these frames.  Raises MissingExtraError, and what decoding raises.
    """
    stream, picks = origin(next(iter(episode.views.values())))
    looked_at = np.arange(picks[0], picks[-1] + 1)
    place = _place(episode, name, stream.times()[looked_at], how)
    starts = None if place is None else _read(place, len(looked_at))
    if starts is None:
        starts = _found(stream.take(looked_at), how)
        if place is not None:
            _keep(place, starts)
    firsts = np.unique(np.searchsorted(picks, picks[0] + starts))
    return firsts[firsts < len(picks)]


def _found(frames: Iterator[Frame], how: Scenes) -> np.ndarray:
    """Look for cuts in frames, each made small; returns the first frame of each shot."""
    detectors = import_extra("scenedetect.detectors")
    timecode = import_extra("scenedetect.common").FrameTimecode
    # Every cut counts: a window that crosses one shows motion that never was.
    options: dict[str, Any] = {"min_scene_len": 1}
    if how.threshold is not None:
        key = "adaptive_threshold" if how.detector == "adaptive" else "threshold"
        options[key] = how.threshold
    kinds = {"adaptive": detectors.AdaptiveDetector, "content": detectors.ContentDetector}
    detector = kinds[how.detector](**options)
    cuts, at = [], timecode(0, 30.0)
    for index, frame in enumerate(frames):
        # The rate is no matter where lengths are counted in frames.
        at = timecode(index, 30.0)
        cuts += detector.process_frame(at, _small_bgr(frame.image))
        if index % _EVERY == 0:
            still_reading()
    cuts += detector.post_process(at)
    return np.array(sorted({0, *(cut.frame_num for cut in cuts)}), np.int64)


def _small_bgr(image: Any) -> np.ndarray:
    """Scale a frame as it comes down to (H, W, 3) uint8 BGR; upright or not is no matter."""
    import cv2

    height, width = (
        image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    )
    scale = min(1.0, _SHORT_SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if isinstance(image, np.ndarray):
        return cv2.cvtColor(
            cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR
        )
    return image.to_ndarray(format="bgr24", width=size[0], height=size[1], interpolation="AREA")


def _folder() -> Path | None:
    """Return the folder of cuts; None for a user without a home."""
    with suppress(RuntimeError):
        return user_cache() / "scenes"
    return None


def _place(episode: Episode, name: str, times: np.ndarray, how: Scenes) -> Path | None:
    """Return where the cuts of an episode are kept; None where that is nowhere.

    Without fingerprints, nothing tells its files from others.
    """
    folder = _folder()
    if folder is None or not episode.files:
        return None
    key = canonical_json(
        {
            "name": name,
            "files": {path: mark.model_dump() for path, mark in episode.files.items()},
            "times": hashlib.sha256(times.tobytes()).hexdigest(),
            "how": [how.detector, how.threshold, _SHORT_SIDE],
            "by": _detector_version(),
        }
    )
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _detector_version() -> str:
    import_extra("scenedetect.detectors")
    for package in ("scenedetect-headless", "scenedetect"):
        with suppress(ModuleNotFoundError):  # PackageNotFoundError is one
            return version(package)
    return "unknown"


def _read(path: Path, length: int) -> np.ndarray | None:
    """Read cuts that were kept; None where there are none that fit."""
    try:
        starts = np.array(json.loads(path.read_bytes()), np.int64)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    fits = starts.ndim == 1 and len(starts) and starts[0] == 0 and starts[-1] < length
    return starts if fits and (np.diff(starts) > 0).all() else None


def _keep(path: Path, starts: np.ndarray) -> None:
    """Write cuts, whole or not at all; a cache that cannot be written costs the time alone."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, staged = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(starts.tolist(), file)
        os.replace(staged, path)
