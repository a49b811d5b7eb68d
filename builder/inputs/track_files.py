"""Files of tracks that others made: npz, HDF5 of the older route, pickles of TAP-Vid."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from builder.core.errors import SourceError
from builder.core.own_files import METADATA, OWN_EPISODE, is_own
from builder.core.paths import printable_path
from builder.inputs.hdf5 import open_hdf5
from builder.inputs.listing import PICKLE_SUFFIXES, regular_file
from builder.inputs.numpy_files import array_names, open_archive, read_member
from builder.inputs.pickled import load_tapvid_videos
from schemas.config import Limits
from schemas.legacy import tracked_shape

LIMITS = Limits()


class StoredTracks(NamedTuple):
    """What a file holds, in its own coordinates.

    ``tracks`` (T, N, 2) of a whole episode or (S, horizon, N, 2) of windows; ``vis`` of the same
    shape but for the last axis, larger is more visible, or None; ``size`` (H, W) of the frames
    that were tracked, where the file says so; ``conf`` as ``vis``, where it was asked for.
    """

    tracks: np.ndarray
    vis: np.ndarray | None
    size: tuple[int, int] | None = None
    conf: np.ndarray | None = None


class Names(NamedTuple):
    """Arrays in a file (for a pickle, ``tracks`` is the name of its entry); None: not read."""

    tracks: str
    vis: str | None
    conf: str | None = None


def read_tracks(path: Path, names: Names) -> StoredTracks:
    """Read one view's tracks.  Raises SourceError naming the file and what is wrong with it."""
    size = regular_file(path)
    if size > LIMITS.max_array_bytes:
        raise SourceError.at(path, f"{size} bytes exceed the limit of {LIMITS.max_array_bytes}")
    suffix = path.suffix.lower()
    read = _npz if suffix == ".npz" else _pickle if suffix in PICKLE_SUFFIXES else _hdf5
    found = read(path, names)
    tracks = found.tracks
    if tracks.dtype.kind not in "fiu" or tracks.ndim not in (3, 4) or tracks.shape[-1] != 2:
        raise SourceError.at(
            path,
            "tracks must be numbers, (T, N, 2) for a whole episode or (S, horizon, N, 2) for "
            f"windows, got {tracks.dtype} {tracks.shape}",
        )
    if 0 in tracks.shape:
        raise SourceError.at(path, f"the tracks are empty: {tracks.shape}")
    for name, array in (("visibility", found.vis), ("confidence", found.conf)):
        if array is not None and (
            array.shape != tracks.shape[:-1] or array.dtype.kind not in "bfiu"
        ):
            raise SourceError.at(
                path,
                f"{name} must be numbers {tracks.shape[:-1]}, as the tracks are {tracks.shape}, "
                f"got {array.dtype} {array.shape}",
            )
    return found


def _npz(path: Path, names: Names) -> StoredTracks:
    try:
        with open_archive(path) as archive:
            there = array_names(archive)
            for name in filter(None, names):
                if name not in there:
                    raise SourceError.at(
                        path,
                        f"there is no array {name!r}; it has {there}: set tracker.tracks, "
                        'tracker.visibility ("" when there is none) and tracker.confidence',
                    )
            limit = LIMITS.max_array_bytes
            vis, conf = (
                None if name is None else read_member(archive, name, limit) for name in names[1:]
            )
            return StoredTracks(read_member(archive, names.tracks, limit), vis, conf=conf)
    except ValueError as error:
        raise SourceError.at(path, f"it is not a whole npz archive ({error})") from None


def _hdf5(path: Path, names: Names) -> StoredTracks:
    with open_hdf5(path, LIMITS) as file:
        if is_own(file.attr("", METADATA)):
            raise SourceError.at(path, f"its tracks are on a canvas already: it is {OWN_EPISODE}")
        group = names.tracks.rpartition("/")[0]
        sides = {name: file.attr(group, name) for name in ("height", "width")}
        try:
            size = tracked_shape(
                {name: side for name, side in sides.items() if side is not None},
                f"{printable_path(path)}: {group}",
            )
        except ValueError as error:
            raise SourceError(str(error)) from None
        vis, conf = (None if name is None else file.array(name) for name in names[1:])
        return StoredTracks(file.array(names.tracks), vis, size, conf)


def _pickle(path: Path, names: Names) -> StoredTracks:
    videos, name = _loaded(path, path.stat().st_mtime_ns), names.tracks
    if name not in videos:
        raise SourceError.at(path, f"there is no video {name!r}; it has {sorted(videos)[:10]}")
    try:
        points = np.asarray(videos[name]["points"])
        hidden = None if names.vis is None else np.asarray(videos[name][names.vis], bool)
        conf = None if names.conf is None else np.asarray(videos[name][names.conf]).T
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SourceError.at(path, f"{name}: expected points and occluded ({error})") from None
    if points.ndim != 3:
        raise SourceError.at(path, f"{name}: points must be (N, T, 2), got {points.shape}")
    return StoredTracks(points.swapaxes(0, 1), None if hidden is None else ~hidden.T, conf=conf)


@lru_cache(maxsize=1)
def _loaded(path: Path, _: int) -> dict[str, Any]:
    """Keep the last pickle: it holds many videos."""
    return load_tapvid_videos(path, LIMITS)
