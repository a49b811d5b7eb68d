"""What reading whole videos costs by codec, and what of damaged ones is refused.

Imported by ``bench_sources.py``.  All videos are made here.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.core.errors import SourceError
from builder.inputs.video import VideoStream

CUTS, DAMAGED = 20, 20
TIMED = ("H.264", "H.265", "VP9", "AV1", "MPEG-4", "MPEG-2", "Motion JPEG", "FFV1")
# codec -> encoder, pixel format, options, and the containers it is tried in
CODECS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "H.264": ("libx264", "yuv420p", {}, "mp4 mkv avi ts flv"),
    "H.264, fragmented": ("libx264", "yuv420p", {}, "frag.mp4"),
    "H.265": ("libx265", "yuv420p", {"x265-params": "log-level=none"}, "mp4 mkv ts"),
    "VP8": ("libvpx", "yuv420p", {"b": "1M", "cpu-used": "5"}, "webm"),
    "VP9": ("libvpx-vp9", "yuv420p", {"b": "1M", "cpu-used": "8"}, "webm mp4"),
    "AV1": ("libsvtav1", "yuv420p", {"preset": "12"}, "mp4 webm"),
    "MPEG-4": ("mpeg4", "yuv420p", {"q": "4", "bf": "2"}, "avi mp4"),
    "MPEG-2": ("mpeg2video", "yuv420p", {"q": "4", "bf": "2"}, "mpg ts"),
    "WMV 2": ("wmv2", "yuv420p", {"q": "4"}, "wmv"),
    "Motion JPEG": ("mjpeg", "yuvj420p", {"q": "4"}, "avi mkv"),
    "ProRes": ("prores_ks", "yuv422p10le", {}, "mov"),
    "FFV1": ("ffv1", "yuv420p", {"level": "3", "slicecrc": "1"}, "mkv avi"),
    "FFV1 without checksums": ("ffv1", "yuv420p", {"level": "3", "slicecrc": "0"}, "mkv"),
    "HuffYUV": ("huffyuv", "yuv422p", {}, "avi"),
    "GIF": ("gif", "rgb8", {}, "gif"),
    "APNG": ("apng", "rgb24", {}, "apng"),
}


def write(path: Path, codec: str, frames: int, shape: tuple[int, int]) -> Path:
    """Write a coarse pattern that moves, with noise, as one video."""
    encoder, pixels, options, _ = CODECS[codec]
    rng = np.random.default_rng(0)
    height, width = shape
    scene = rng.integers(0, 255, (height // 8 + 1, width // 8 + frames, 3), np.uint8)
    scene = scene.repeat(8, 0).repeat(8, 1)
    fragments = {"movflags": "frag_keyframe+empty_moov"} if ".frag." in path.name else {}
    with av.open(str(path), "w", container_options=fragments) as container:
        stream: Any = container.add_stream(encoder, rate=25, options={"g": "15", **options})
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        for index in range(frames):
            image = scene[:height, 2 * index : 2 * index + width]
            image = image // 2 + rng.integers(0, 16, image.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels, interpolation=0x40002)))
        container.mux(stream.encode())
    if hasattr(os, "sched_setscheduler"):  # SVT-AV1 gives a process of root's real-time priority
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def decode_plainly(path: Path) -> int:
    """Decode a video with PyAV alone, on one thread."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def read_whole(path: Path) -> int:
    """Decode a video as a source does, with all checks."""
    return sum(1 for _ in VideoStream(path))


def outcomes(folder: Path, shape: tuple[int, int] = (96, 160)) -> Iterator[list[Any]]:
    """Cut and damage small videos; yields a row for each codec and container.

    Rows: codec and container; of ``CUTS`` cut files those refused and those accepted with fewer
    frames; of ``DAMAGED`` each, zeros for the tail, zeros for 512 bytes and single changed bytes,
    those refused; of accepted ones those with other pixels; of four good variants those refused.
    """
    for codec, (_, _, _, containers) in CODECS.items():
        for suffix in containers.split():
            path = write(folder / f"whole.{suffix}", codec, 30, shape)
            yield [f"{codec}, {suffix.removeprefix('frag.')}", *_outcome(path)]


def _outcome(path: Path) -> list[Any]:
    data, truth = path.read_bytes(), _sums(path)
    assert truth is not None, f"{path} is refused"
    rng, size = np.random.default_rng(1), len(data)
    places = rng.integers(size // 5, size - 512, DAMAGED).tolist()
    kinds = {
        # Nobody can tell a transport stream that ends between two of its packets of 188 bytes.
        "cut": [data[: int(size * (k + 0.5) / CUTS) // 188 * 188 + 61] for k in range(CUTS)],
        "tail": [data[:at] + bytes(size - at) for at in places],
        "sector": [data[:at] + bytes(512) + data[at + 512 :] for at in places],
        "byte": [data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :] for at in places],
    }
    changed = path.with_name(f"changed{''.join(path.suffixes)}")
    row: list[Any] = []
    other = short = 0
    for kind, variants in kinds.items():
        refused = 0
        for variant in variants:
            changed.write_bytes(variant)
            sums = _sums(changed)
            refused += sums is None
            short += sums is not None and len(sums) < len(truth)
            other += sums is not None and len(sums) == len(truth) and sums != truth
        row.append(f"{refused} / {len(variants)}")
        if kind in ("cut", "tail"):
            row.append(short)
            short = 0
    false = 0
    for tail in (b"", b"\n", b"TAG" + bytes(125), b"written by a tool\n"):
        changed.write_bytes(data + tail)
        false += _sums(changed) != truth
    return [*row, short, other, f"{false} / 4"]


def _sums(path: Path) -> list[int] | None:
    """Return a checksum of every frame; None when the video is refused."""
    try:
        return [
            zlib.crc32(frame.image.to_ndarray(format="rgb24").tobytes())
            for frame in VideoStream(path)
        ]
    except SourceError:
        return None
