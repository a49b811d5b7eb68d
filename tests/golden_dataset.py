"""The recipe of ``golden/v1/dataset``: a whole dataset of format version 1, kept for ever.

It is never rewritten: every later letterset must read and validate it.  For another format
version, make another folder: ``python tests/golden_dataset.py tests/golden/v2/dataset``.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from builder.cli import main as letterset

SIZES = {"wide.mp4": (64, 128), "nested/tall.mp4": (96, 48)}


def write_clip(path: Path, shape: tuple[int, int], length: int = 7) -> None:
    """Write a texture that drifts by one pixel per frame."""
    rng = np.random.default_rng(shape)
    height, width = shape
    texture = rng.integers(0, 256, (height // 8, (width + length) // 8 + 1, 3), np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(length):
            image = np.ascontiguousarray(texture[:height, t : t + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def main(out: Path) -> None:
    """Build the dataset into ``out``, which must not exist."""
    if out.exists():
        raise SystemExit(f"{out} exists; golden files are never rewritten")
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        for name, shape in SIZES.items():
            write_clip(videos / name, shape)
        argv = ["build", "--source", str(videos), "--out", str(out), "--img-shape", "24", "40"]
        code = letterset([*argv, "queries.grid=[2,3]", "tracker.horizon=4", "--quiet"])
    if code != 0:
        raise SystemExit(code)
    shutil.rmtree(out / "runs")  # who built it, where and how fast: no part of the format
    for lock in out.glob("index/*.lock"):
        lock.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
