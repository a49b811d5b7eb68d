"""Tracks in files of others: npz, HDF5 and TAP-Vid pickles, read as data and whole."""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from builder.core.errors import SourceError
from builder.core.paths import printable_path
from builder.inputs.hdf5 import open_hdf5
from builder.inputs.listing import HDF5_SUFFIXES, PICKLE_SUFFIXES, regular_file
from builder.inputs.pickled import load_tapvid_videos
from schemas.config import Limits
from schemas.legacy import tracked_shape

LIMITS = Limits()
_NPZ_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


class StoredTracks(NamedTuple):
    """What a file holds, in its own coordinates.

    ``tracks`` (T, N, 2) of a whole episode or (S, horizon, N, 2) of windows; ``vis`` of the same
    shape but for the last axis, larger is more visible, or None; ``size`` (H, W) of the frames
    that were tracked, where the file says so.
    """

    tracks: np.ndarray
    vis: np.ndarray | None
    size: tuple[int, int] | None = None


class Names(NamedTuple):
    """Arrays in a file (for a pickle, ``tracks`` is the name of its entry); no vis: None."""

    tracks: str
    vis: str | None


DEFAULT_NAMES = {
    ".npz": Names("tracks", "visibility"),
    **dict.fromkeys(HDF5_SUFFIXES, Names("root/{view}/tracks", "root/{view}/vis")),
    **dict.fromkeys(PICKLE_SUFFIXES, Names("{name}", "occluded")),
}


def read_tracks(path: Path, names: Names) -> StoredTracks:
    """Read one view's tracks.  Raises SourceError naming the file and what is wrong with it."""
    size = regular_file(path)
    if size > LIMITS.max_array_bytes:
        raise _error(path, f"{size} bytes exceed the limit of {LIMITS.max_array_bytes}")
    suffix = path.suffix.lower()
    read = _npz if suffix == ".npz" else _pickle if suffix in PICKLE_SUFFIXES else _hdf5
    found = read(path, names)
    tracks, vis, _ = found
    if tracks.dtype.kind not in "fiu" or tracks.ndim not in (3, 4) or tracks.shape[-1] != 2:
        raise _error(
            path,
            "tracks must be numbers, (T, N, 2) for a whole episode or (S, horizon, N, 2) for "
            f"windows, got {tracks.dtype} {tracks.shape}",
        )
    if 0 in tracks.shape:
        raise _error(path, f"the tracks are empty: {tracks.shape}")
    if vis is not None and (vis.shape != tracks.shape[:-1] or vis.dtype.kind not in "bfiu"):
        raise _error(
            path,
            f"visibility must be numbers {tracks.shape[:-1]}, as the tracks are {tracks.shape}, "
            f"got {vis.dtype} {vis.shape}",
        )
    return found


def _npz(path: Path, names: Names) -> StoredTracks:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile) or file.zip is None:
                raise _error(path, "it is not an npz archive")
            for name in filter(None, names):
                if name not in file.files:
                    raise _error(
                        path,
                        f"there is no array {name!r}; it has {file.files}: set tracker.tracks "
                        'and tracker.visibility ("" when there is none)',
                    )
                declared = file.zip.getinfo(f"{name}.npy").file_size
                if declared > LIMITS.max_array_bytes:
                    raise _error(path, f"{name}: {declared} bytes exceed the limit")
            vis = None if names.vis is None else file[names.vis]
            return StoredTracks(file[names.tracks], vis)
    except _NPZ_DAMAGE as error:
        raise _error(path, f"it is not a whole npz archive ({error})") from None


def _hdf5(path: Path, names: Names) -> StoredTracks:
    with open_hdf5(path, LIMITS) as file:
        group = names.tracks.rpartition("/")[0]
        sides = {name: file.attr(group, name) for name in ("height", "width")}
        try:
            size = tracked_shape(
                {name: side for name, side in sides.items() if side is not None},
                f"{printable_path(path)}: {group}",
            )
        except ValueError as error:
            raise SourceError(str(error)) from None
        vis = None if names.vis is None else file.array(names.vis)
        return StoredTracks(file.array(names.tracks), vis, size)


def _pickle(path: Path, names: Names) -> StoredTracks:
    videos = _loaded(path, path.stat().st_mtime_ns)
    if names.tracks not in videos:
        raise _error(path, f"there is no video {names.tracks!r}; it has {sorted(videos)[:10]}")
    try:
        sample = videos[names.tracks]
        points = np.asarray(sample["points"])
        hidden = None if names.vis is None else np.asarray(sample[names.vis], bool)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _error(path, f"{names.tracks}: expected points and occluded ({error})") from None
    if points.ndim != 3:
        raise _error(path, f"{names.tracks}: points must be (N, T, 2), got {points.shape}")
    return StoredTracks(points.swapaxes(0, 1), None if hidden is None else ~hidden.T)


@lru_cache(maxsize=1)
def _loaded(path: Path, _: int) -> dict[str, Any]:
    """Keep the last pickle: it holds many videos."""
    return load_tapvid_videos(path, LIMITS)


def _error(path: Path, message: str) -> SourceError:
    return SourceError(f"{printable_path(path)}: {message}")
