"""The arrays of older files, read lazily: tracks and ATM's video, in pixels of ``img_shape``."""

import math
from typing import Any

import numpy as np

from builder.core.errors import DatasetError


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
        *lead, last = full_key(key, len(self.shape))
        points = np.asarray(self.stored[tuple(lead)])
        self.check_finite(points)
        return np.asarray(self._map(points)[..., last])

    @property
    def only_scaled(self) -> bool:
        """Tell whether what is stored becomes pixels by a float32 multiplication alone."""
        return bool(self.dtype == np.float32) and not any(self.offset_xy)

    def check_finite(self, numbers: np.ndarray, name: str = "tracks") -> None:
        """Raise DatasetError, naming the file, for NaN and infinity in what was read of it."""
        if not np.isfinite(numbers).all():
            become = "a corner of the picture" if name == "tracks" else "hidden points"
            raise DatasetError(
                f"{self._where}: {name} hold NaN or infinity; AMPLIFY would turn them into "
                f"{become}. Track this file again, or leave it out"
            )

    def _map(self, points: np.ndarray) -> np.ndarray:
        if points.size == 0 or (self.scale_xy == (1.0, 1.0) and not any(self.offset_xy)):
            return points
        # Many points in one row: numpy is slow along an axis of two.
        count = math.prod(points.shape[-2:]) // 2
        rows = points.reshape(-1, 2 * count)
        if any(self.offset_xy):
            rows = rows + np.tile(np.array(self.offset_xy, points.dtype), count)
        return (rows * np.tile(np.array(self.scale_xy, points.dtype), count)).reshape(points.shape)


class LegacyVideo:
    """An ATM file's video, read lazily as (T, H, W, 3) uint8, stretched to ``img_shape``."""

    def __init__(self, stored: Any, img_shape: tuple[int, int]) -> None:
        self.stored, self.dtype = stored, stored.dtype
        self.shape = (stored.shape[1], *img_shape, 3)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = full_key(key, 4)
        frames = np.moveaxis(np.asarray(self.stored[0, first]), -3, -1)
        height, width = self.shape[1:3]
        if frames.shape[-3:-1] != (height, width):
            import cv2  # only older data of another size need it

            flat = frames.reshape(-1, *frames.shape[-3:])
            small = [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in flat]
            frames = np.asarray(small, np.uint8).reshape(*frames.shape[:-3], height, width, 3)
        lead = () if frames.ndim == 3 else (slice(None),)
        return frames[(*lead, *rest)]


def full_key(key: Any, axes: int) -> list[Any]:
    """Expand an index to one entry per axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    rest = parts[at + 1 :]
    return [*parts[:at], *[slice(None)] * (axes - at - len(rest)), *rest]
