"""Access to older HDF5 files, which are data: nothing in them leads anywhere else.

Links are not followed; virtual, external and object arrays are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from builder.errors import DatasetError
from schemas.affine import as_float_points

MAX_CHUNK_BYTES = 1 << 28
"""A single chunk is inflated as a whole; no track file needs larger ones."""


def open_file(path: Path) -> h5py.File:
    """Open a file for reading; raises DatasetError naming it."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path}: not a readable HDF5 file: {error}") from None


def child(group: h5py.Group, name: str, where: str) -> Any:
    """Return a member of a group, never following a soft or external link.

    Raises DatasetError for a link and for anything missing.
    """
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        what = "is missing" if link is None else "is a link; links are not followed"
        raise DatasetError(f"{where}: {group.name.rstrip('/')}/{name} {what}")
    return group[name]


def checked_array(dataset: Any, where: str, kinds: str = "biuf") -> h5py.Dataset:
    """Return an HDF5 dataset whose bytes lie in its own file and are plain numbers."""
    if not isinstance(dataset, h5py.Dataset):
        raise DatasetError(f"{where}: expected an array, got a group")
    if dataset.is_virtual or dataset.external:
        raise DatasetError(f"{where}: the array's bytes lie in another file; that is refused")
    if dataset.dtype.kind not in kinds or dataset.dtype.hasobject:
        raise DatasetError(f"{where}: expected plain numbers, got dtype {dataset.dtype}")
    if dataset.chunks and np.prod(dataset.chunks) * dataset.dtype.itemsize > MAX_CHUNK_BYTES:
        raise DatasetError(
            f"{where}: chunks {dataset.chunks} are larger than {MAX_CHUNK_BYTES} bytes; rewrite "
            f"the file with smaller ones, for example with h5repack"
        )
    return dataset


def read(dataset: h5py.Dataset, key: Any, where: str) -> np.ndarray:
    """Read part of an array; raises DatasetError when its bytes are damaged."""
    try:
        return np.asarray(dataset[key])
    except OSError as error:
        raise DatasetError(f"{where}: cannot read {dataset.name}: {error}") from None


class LegacyTracks:
    """Stored tracks, read lazily: (S, horizon, N, 2) (x, y) pixels of img_shape.

    ``scale_xy`` and ``offset_xy`` say how: ``(stored + offset) * scale``, in the stored dtype.
    """

    def __init__(
        self,
        stored: Any,
        scale_xy: tuple[float, float],
        offset_xy: tuple[float, float],
        where: str,
    ) -> None:
        self.stored, self.scale_xy, self.offset_xy = stored, scale_xy, offset_xy
        self.shape, self.dtype, self._where = stored.shape, stored.dtype, where

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        *lead, last = _full_key(key, len(self.shape))
        points = np.asarray(self.stored[tuple(lead)])
        if not np.isfinite(points).all():
            raise DatasetError(
                f"{self._where}: tracks hold NaN or infinity; AMPLIFY would turn them into a "
                f"corner of the picture. Track this file again, or leave it out"
            )
        return np.asarray(self._map(points)[..., last])

    def _map(self, points: np.ndarray) -> np.ndarray:
        out = as_float_points(points)
        for axis in (0, 1):
            if self.offset_xy[axis]:
                out[..., axis] += self.offset_xy[axis]
            out[..., axis] *= self.scale_xy[axis]
        return out


class LegacyVideo:
    """An ATM file's video, read lazily as (T, H, W, 3) uint8, stretched to ``img_shape``."""

    def __init__(self, stored: Any, img_shape: tuple[int, int]) -> None:
        self.stored, self.dtype = stored, stored.dtype
        self.shape = (stored.shape[1], *img_shape, 3)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = _full_key(key, 4)
        frames = np.moveaxis(np.asarray(self.stored[0, first]), -3, -1)
        height, width = self.shape[1:3]
        if frames.shape[-3:-1] != (height, width):
            import cv2  # only older data of another size need it

            flat = frames.reshape(-1, *frames.shape[-3:])
            small = [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in flat]
            frames = np.asarray(small, np.uint8).reshape(*frames.shape[:-3], height, width, 3)
        lead = () if frames.ndim == 3 else (slice(None),)
        return frames[(*lead, *rest)]


def _full_key(key: Any, axes: int) -> list[Any]:
    """Expand an index to one entry per axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    rest = parts[at + 1 :]
    return [*parts[:at], *[slice(None)] * (axes - at - len(rest)), *rest]
