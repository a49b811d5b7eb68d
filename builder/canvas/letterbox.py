"""Pixels: the only place that resizes or pads them.

A picture is resized to the integer ``content_shape`` of its ``Letterbox`` and pasted at its
integer pad, so pixels and coordinates agree to a few thousandths of a pixel.
"""

from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from schemas.geometry import AxisAffine, Geometry, Orientation, oriented_shape

# Area averaging with chroma at full resolution: the most faithful pair (58 dB and more against
# a float reference) and among the fastest; without the second, colours shift and smear.
# Accurate rounding costs nothing and keeps frames that need no scaling away from a shortcut of
# swscale that leaves the last columns unwritten.  Planes come out about twice as fast as packed
# RGB, with the same numbers.
# SWS_AREA | SWS_FULL_CHR_H_INT | SWS_ACCURATE_RND; older PyAV takes them but has no names for all.
_SWSCALE = 0x20 | 0x2000 | 0x40000
# Limited range, 16 to 235, to full range.
_EXPANDED = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
_DTYPES = ("uint8", "uint16", "float32", "float64")


class Letterboxer:
    """Letterboxes the frames of one stream; reuses one scaler, so make one per stream.

    ``box`` describes upright frames; frames come as stored and are turned by ``orientation``.
    A ``Stretch`` fills the canvas, as the older route does.
    """

    def __init__(self, box: Geometry, orientation: Orientation = "none", fill: int = 0) -> None:
        self.box, self.orientation, self.fill = box, orientation, fill
        # Turning is its own inverse as far as shapes go.
        self._coded_shape = oriented_shape(orientation, box.source_shape)
        self._coded_content = oriented_shape(orientation, box.content_shape)
        self._reformatter = VideoReformatter()

    def content(self, image: Any) -> np.ndarray:
        """Return the upright picture without bars: (h, w, 3) uint8 RGB of ``content_shape``.

        ``image`` is an ``av.VideoFrame``, or an array (H, W, 3) uint8 RGB, of the stored
        shape.  Raises ValueError for another shape.
        """
        if isinstance(image, av.VideoFrame):
            _check_shape((image.height, image.width), self._coded_shape)
            small = self._scale(image)
        else:
            _check_shape(image.shape[:2], self._coded_shape)
            small = _resize(image, self._coded_content)
        return np.ascontiguousarray(orient_frame(small, self.orientation))

    def paste(self, content: np.ndarray, out: np.ndarray) -> None:
        """Write content (h, w, 3) and its bars into the canvas ``out`` (H, W, 3)."""
        left, top, right, bottom = self.box.content_box
        out[:top] = out[bottom:] = self.fill
        out[top:bottom, :left] = out[top:bottom, right:] = self.fill
        out[top:bottom, left:right] = content

    def canvas(self, image: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Letterbox a frame as ``content`` takes it; returns the canvas (H, W, 3) uint8.

        It is written into ``out`` where that is given, else into a new array.
        """
        if out is None:
            out = np.empty((*self.box.img_shape, 3), np.uint8)
        self.paste(self.content(image), out)
        return out

    def _scale(self, frame: av.VideoFrame) -> np.ndarray:
        height, width = self._coded_content
        if frame.interlaced_frame:
            frame = _unflagged(frame)
        scaled = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="gbrp",
            interpolation=_SWSCALE,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        green, blue, red = (_rows(plane)[:height, :width] for plane in scaled.planes)
        image = cv2.merge((red, green, blue))
        # The scaler takes all gray for full range.
        if frame.color_range == ColorRange.MPEG and frame.format.name in ("gray", "ya8"):
            return cv2.LUT(image, _EXPANDED)
        return image


def _rows(plane: Any) -> np.ndarray:
    """View a plane of a frame as uint8 (rows, bytes per row), padding included."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


def _unflagged(frame: av.VideoFrame) -> av.VideoFrame:
    """Copy a frame without its interlaced flag, for which each field is scaled for itself.

    That would comb the result; averaging over both fields blends them.
    """
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    for source, target in zip(frame.planes, copy.planes, strict=True):
        if not source.line_size:  # a palette
            memoryview(target)[:] = memoryview(source)
            continue
        used = min(source.line_size, target.line_size)
        _rows(target)[: source.height, :used] = _rows(source)[: source.height, :used]
    return copy


def letterbox_frame(frame: np.ndarray, box: Geometry, fill: float = 0) -> np.ndarray:
    """Letterbox an upright frame (H, W, C) of ``box.source_shape``.

    Returns (img_H, img_W, C) of the same dtype; uint8, uint16, float32 and float64 are
    supported, with any number of channels.  Shrinking averages areas, growing interpolates
    linearly, per axis.  Raises ValueError for a wrong shape, TypeError for other dtypes.
    """
    _check_frame(frame, box.source_shape)
    out = np.full((*box.img_shape, frame.shape[2]), fill, frame.dtype)
    left, top, right, bottom = box.content_box
    out[top:bottom, left:right] = _resize(frame, box.content_shape)
    return out


def unletterbox_frame(img: np.ndarray, box: Geometry) -> np.ndarray:
    """Cut the bars off a canvas (img_H, img_W, C) and resize to ``box.source_shape``.

    The inverse of :func:`letterbox_frame` as far as places go; lost detail stays lost.
    """
    _check_frame(img, box.img_shape)
    left, top, right, bottom = box.content_box
    return _resize(img[top:bottom, left:right], box.source_shape)


def letterbox_labels(labels: np.ndarray, box: Geometry, fill: float = 0) -> np.ndarray:
    """Letterbox labels or depth (H, W) or (H, W, C) of ``box.source_shape``, of any dtype.

    Returns (img_H, img_W[, C]).  Every pixel is the one of the source that lies under its
    centre, so no value is made up.  Raises ValueError for a wrong shape.
    """
    _check_shape(labels.shape[:2], box.source_shape)
    out = np.full((*box.img_shape, *labels.shape[2:]), fill, labels.dtype)
    left, top, right, bottom = box.content_box
    rows, columns = (
        (2 * np.arange(to) + 1) * size // (2 * to)
        for size, to in zip(box.source_shape, box.content_shape, strict=True)
    )
    out[top:bottom, left:right] = labels[rows[:, None], columns]
    return out


def orient_frame(frame: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Turn an array (H, W, ...) upright; a view, agreeing with ``AxisAffine.orient``."""
    turn = AxisAffine.orient(orientation, frame.shape[:2])
    if turn.transpose:
        frame = frame.swapaxes(0, 1)
    flip_x, flip_y = (slice(None, None, -1 if scale < 0 else 1) for scale in turn.scale_xy)
    return frame[flip_y, flip_x]


def _resize(frame: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) to ``shape`` (h, w), shrinking axes before growing the others."""
    if frame.dtype != np.uint8 or frame.shape[2] > 4:
        return _resize_exactly(frame, shape)
    smaller = (min(frame.shape[0], shape[0]), min(frame.shape[1], shape[1]))
    for target, interpolation in ((smaller, cv2.INTER_AREA), (shape, cv2.INTER_LINEAR)):
        if frame.shape[:2] != target:
            # Always dsize: factors would sample with the nominal, not the actual scale.
            resized = cv2.resize(
                np.ascontiguousarray(frame), target[::-1], interpolation=interpolation
            )
            frame = resized.reshape(*target, frame.shape[2])
    return frame


def _resize_exactly(frame: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize in float64: OpenCV's float32 weights change constants, and it wants C <= 4."""
    out = frame.astype(np.float64)
    for axis in sorted((0, 1), key=lambda axis: shape[axis] / frame.shape[axis]):
        if frame.shape[axis] != shape[axis]:
            indices, weights = _taps(frame.shape[axis], shape[axis])
            column = (-1,) + (1,) * (2 - axis)
            out = sum(
                out.take(index, axis) * weight.reshape(column)
                for index, weight in zip(indices, weights, strict=True)
            )
    if frame.dtype.kind == "u":
        # Both kernels average, so only rounding is left to do.
        np.rint(out, out)
    return out.astype(frame.dtype)


def _taps(size: int, to: int) -> tuple[np.ndarray, np.ndarray]:
    """Which inputs (taps, to) make up each output of an axis, and their weights (taps, to)."""
    if to < size:
        edges = np.arange(to + 1) * (size / to)
        first = np.floor(edges[:-1])
        cells = first + np.arange(np.ceil(size / to) + 1)[:, None]
        weights = np.minimum(edges[1:], cells + 1) - np.maximum(edges[:-1], cells)
    else:
        centres = np.clip((np.arange(to) + 0.5) * (size / to) - 0.5, 0, size - 1)
        first = np.floor(centres)
        cells = first + np.arange(2)[:, None]
        weights = 1 - np.abs(centres - cells)
    weights = np.clip(weights, 0, None)
    # A cell without weight is replaced by one that counts: 0 * NaN would be NaN.
    cells = np.where(weights > 0, cells, first).astype(np.intp)
    return np.minimum(cells, size - 1), weights / weights.sum(0)


def _check_frame(frame: np.ndarray, shape: tuple[int, int]) -> None:
    if frame.dtype.name not in _DTYPES:
        raise TypeError(f"frames must be one of {', '.join(_DTYPES)}, got {frame.dtype}")
    if frame.ndim != 3:
        raise ValueError(f"a frame must have the axes (H, W, C), got shape {frame.shape}")
    _check_shape(frame.shape[:2], shape)


def _check_shape(got: tuple[int, int], expected: tuple[int, int]) -> None:
    if tuple(got) != tuple(expected):
        raise ValueError(f"expected a frame of (H, W) = {tuple(expected)}, got {tuple(got)}")
