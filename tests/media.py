"""Synthetic pictures and videos, made with PyAV; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BT709, FULL = 1, 2
# Display matrices (3x3, 16.16 fixed point, last column 2.30) as a phone writes them: they say how
# stored pixels are turned to be seen upright.
_ONE, _W = 1 << 16, 1 << 30
MATRICES = {
    name: (a * _ONE, b * _ONE, 0, c * _ONE, d * _ONE, 0, 0, 0, _W)
    for name, (a, b, c, d) in {
        "hflip": (-1, 0, 0, 1),
        "vflip": (1, 0, 0, -1),
        "rot90": (0, 1, -1, 0),
        "rot180": (-1, 0, 0, -1),
        "rot270": (0, -1, 1, 0),
        "transpose": (0, 1, 1, 0),
        "antitranspose": (0, -1, -1, 0),
    }.items()
}


def blob(shape: tuple[int, int], centre_xy: tuple[float, float], sigma_xy: Any) -> np.ndarray:
    """Draw a white Gaussian blob on black, (H, W, 3) uint8; centre in continuous pixels."""
    sigma_x, sigma_y = np.broadcast_to(sigma_xy, 2)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    falloff = ((x - centre_xy[0]) / sigma_x) ** 2 + ((y - centre_xy[1]) / sigma_y) ** 2
    return np.rint(255 * np.exp(-falloff / 2)).astype(np.uint8)[..., None].repeat(3, 2)


def centroid(image: np.ndarray) -> tuple[float, float]:
    """Return the (x, y) centroid of what is brighter than 24, in continuous pixels."""
    light = np.clip(image.astype(np.float64).mean(-1) - 24, 0, None)
    x, y = (np.arange(side) + 0.5 for side in light.shape[::-1])
    return float((light.sum(0) * x).sum() / light.sum()), float(
        (light.sum(1) * y).sum() / light.sum()
    )


def moving(count: int, shape: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Make coarse coloured noise that moves one pixel to the right per frame."""
    height, width = shape
    cells = (height // 8 + 1, width // 8 + 1, 3)
    noise = np.random.default_rng(seed).integers(0, 255, cells, dtype=np.uint8)
    scene = noise.repeat(8, 0).repeat(8, 1)
    return [np.roll(scene, index, 1)[:height, :width].copy() for index in range(count)]


def as_frame(image: np.ndarray, pix_fmt: str, **colours: int | None) -> av.VideoFrame:
    """Turn an RGB image (H, W, 3) uint8 into a frame of another pixel format.

    Bilinear with accurate rounding: without it, swscale leaves some columns unwritten.
    """
    frame = av.VideoFrame.from_ndarray(image, "rgb24")
    return frame.reformat(format=pix_fmt, interpolation=0x2 | 0x40000, **colours)


def encode(
    path: Path,
    images: Iterable[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    rate: int = 24,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    b_frames: int | None = None,
    aspect: tuple[int, int] | None = None,
    matrix: tuple[int, ...] | None = None,
    colorspace: int | None = None,
    color_range: int | None = None,
) -> Path:
    """Encode RGB images (H, W, 3) uint8 into a video; the name's suffix chooses the container."""
    stream: Any = None
    with av.open(str(path), "w", container_options=container or {}) as output:
        for image in images:
            if stream is None:
                stream = output.add_stream(codec, rate=rate, options=options or {})
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pix_fmt
                context = stream.codec_context
                if b_frames is not None:
                    context.max_b_frames = b_frames
                if aspect:
                    context.sample_aspect_ratio = Fraction(*aspect)
                if matrix:
                    stream.set_display_matrix(matrix)
                if colorspace:
                    context.colorspace = colorspace
                if color_range:
                    context.color_range = color_range
            frame = as_frame(image, pix_fmt, dst_colorspace=colorspace, dst_color_range=color_range)
            if colorspace:
                frame.colorspace = colorspace
            if color_range:
                frame.color_range = color_range
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def remux(source: Path, target: Path, change: Any) -> Path:
    """Copy packets into another file; ``change(index, packet)`` returns a packet or None."""
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for index, packet in enumerate(given.demux(stream)):
            kept = None if packet.dts is None else change(index, packet)
            if kept is not None:
                kept.stream = copy
                output.mux(kept)
    return target


def cut(source: Path, target: Path, share: float) -> Path:
    """Copy the first part of a file, as a broken download leaves it."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target
