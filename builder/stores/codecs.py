"""How arrays are packed: JPEG frames and fixed-point tracks, and what reads them back."""

from collections.abc import Callable
from typing import Any

import numpy as np

from builder.core.errors import DatasetError, StoreError
from builder.core.registry import import_extra
from schemas.dataset import ArrayMeta

# Fixed point: 1/64 px steps from -192 px reach just below 832 px, exact in float32.
U16_SCALE = 1.0 / 64.0
U16_OFFSET = -192.0
_U16_MAX = 65535
U16_ATTRS = {"scale": U16_SCALE, "offset": U16_OFFSET}

STORED_DTYPES = {"u16": "<u2", "jpeg": "|u1"}
"""Of the codecs that store another dtype than the array's own."""


def stored_dtype(array: ArrayMeta) -> np.dtype:
    """Return the dtype of an array's bytes in the file."""
    return np.dtype(STORED_DTYPES.get(array.codec, array.dtype)).newbyteorder("<")


def encode_u16(points: np.ndarray, what: str) -> np.ndarray:
    """Pack coordinates in pixels (any shape) as uint16 fixed point; error at most 1/128 px.

    Raises StoreError naming ``what`` for NaN and for values outside the range.
    """
    steps = np.rint((points.astype(np.float64) - U16_OFFSET) / U16_SCALE)
    if steps.size and not (steps.min() >= 0 and steps.max() <= _U16_MAX):
        low, high = U16_OFFSET, U16_OFFSET + _U16_MAX * U16_SCALE
        raise StoreError(
            f"{what}: codec u16 holds {low:g} to {high:g} px, got {points.min():g} to "
            f"{points.max():g}; store them with store.tracks.dtype=f32"
        )
    return steps.astype("<u2")


def decode_u16(stored: np.ndarray) -> np.ndarray:
    """Unpack fixed point to pixels, float32; exact."""
    points = np.asarray(stored).astype(np.float32)
    points *= np.float32(U16_SCALE)
    points += np.float32(U16_OFFSET)
    return points


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Compress one frame (H, W, 3) uint8 RGB, ``quality`` 1 to 100.  Raises StoreError."""
    cv2 = import_extra("cv2")
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", frame[..., ::-1], settings)
    if not done:
        raise StoreError(f"a frame of shape {frame.shape} cannot be stored as JPEG")
    return data.tobytes()


def decode_jpeg(data: np.ndarray, shape: tuple[int, int], what: str) -> np.ndarray:
    """Decompress one frame to (H, W, 3) uint8 RGB.

    Raises DatasetError naming ``what`` when it is no JPEG or not of ``shape`` (H, W).
    """
    cv2 = import_extra("cv2")
    frame = cv2.imdecode(np.asarray(data), cv2.IMREAD_COLOR) if len(data) else None
    if frame is None or frame.shape[:2] != shape:
        got = "what is no JPEG" if frame is None else f"one of {frame.shape[:2]}"
        raise DatasetError(f"{what} is damaged: expected a JPEG of {shape}, got {got}")
    return np.ascontiguousarray(frame[..., ::-1])


class FixedPoint:
    """An array (...,) of fixed-point numbers that reads as float32 pixels.

    ``stored`` is the packed uint16 array, for readers that unpack in their own pass.
    """

    dtype = np.dtype("float32")

    def __init__(self, stored: np.ndarray) -> None:
        self.stored = stored
        self.shape, self.ndim = stored.shape, stored.ndim

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, key: Any) -> Any:
        return decode_u16(self.stored[key])[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return _as_array(decode_u16(self.stored), dtype, copy)


class Rows:
    """An array of which one row at a time can be had: ``row(i)`` for i >= 0.

    Reading a slice costs one call per row.  ``packed`` tells of a row which array, and which key
    of it, it is unpacked from.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str,
        row: Callable[[int], np.ndarray],
        packed: Callable[[int], tuple[Any, Any]] | None = None,
    ) -> None:
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)
        self._row, self.packed = row, packed

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        if not keys or keys[0] is Ellipsis or keys[0] is None:
            return self[:][key]
        first, *rest = keys
        indices = np.arange(len(self))[first]
        if indices.ndim == 0:
            return self._row(int(indices))[tuple(rest)]
        rows = np.empty((indices.size, *self.shape[1:]), self.dtype)
        for at, index in enumerate(indices.ravel()):
            rows[at] = self._row(int(index))
        rows = rows.reshape(*indices.shape, *self.shape[1:])
        return rows[(slice(None),) * indices.ndim + tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return _as_array(self[:], dtype, copy)


def _as_array(values: np.ndarray, dtype: Any, copy: bool | None) -> np.ndarray:
    if copy is False:
        raise ValueError("this array is unpacked when read; it cannot be had without a copy")
    return values if dtype is None else values.astype(dtype, copy=False)
