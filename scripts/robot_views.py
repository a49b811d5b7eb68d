"""Rendered scenes (``scripts/robot_scenes.py``) as a camera gives them: with noise, packed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from robot_truth import Truth

from builder.canvas.letterbox import Letterboxer
from builder.trackers.anchored import Anchor, AnchoredSession
from builder.trackers.base import Window
from builder.trackers.kinds.dis import DisTracker
from schemas.affine import AxisAffine
from schemas.geometry import Letterbox

RECORDINGS: dict[str, tuple[float, int | None]] = {
    "noise 0.5": (0.5, None),
    "noise 1.5": (1.5, None),
    "noise 1.5, H.264": (1.5, 23),
}
"""Standard deviation of the noise, in grey levels of the source, and H.264's quality."""

EVERY = 4
"""Frames from one window of the truth to the next."""


@dataclass
class RobotView:
    """One camera of one scene.

    ``noise`` is the standard deviation of the sensor's noise in grey levels of the source; ``crf``
    is H.264's quality, None for lossless.
    """

    folder: Path
    noise: float = 1.5
    crf: int | None = None
    img_shape: tuple[int, int] = (256, 256)
    seed: int = 0

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """What ``truth.npz`` holds; see ``robot_scenes``."""
        return dict(np.load(self.folder / "truth.npz"))

    @cached_property
    def box(self) -> Letterbox:
        """How it is letterboxed."""
        height, width = self.arrays["shape"]
        return Letterbox.fit((int(height), int(width)), self.img_shape)

    @property
    def to_content(self) -> AxisAffine:
        """The map from source pixels to those of the content, which a tracker sees."""
        return ~self.box.content_to_img @ self.box.affine

    @property
    def queries_xy(self) -> np.ndarray:
        """Query points (N, 2) float32, content pixels."""
        return np.asarray(self.to_content(self.arrays["queries_xy"].astype(float)), np.float32)

    @property
    def starts(self) -> list[int]:
        """The first frame of each window that there is a truth of."""
        return [int(start) for start in self.arrays["starts"]]

    @cached_property
    def truth(self) -> Truth:
        """Truth in content pixels."""
        tracks = np.asarray(self.to_content(self.arrays["tracks_xy"].astype(float)), np.float32)
        known, fixed = self.arrays["known"], bool(self.arrays["fixed"])
        return Truth(tracks, self.arrays["visible"], known, fixed, self.box.content_shape)

    def write(self, path: Path) -> None:
        """Write the video with its noise: lossless (FFV1), or H.264 where ``crf`` is given."""
        rng = np.random.default_rng(self.seed)
        with av.open(str(self.folder / "clean.mkv")) as source, av.open(str(path), "w") as out:
            clean: Any = source.streams.video[0]
            codec = "ffv1" if self.crf is None else "libx264"
            options = {} if self.crf is None else {"crf": str(self.crf)}
            stream: Any = out.add_stream(codec, rate=clean.average_rate, options=options)
            stream.width, stream.height = clean.width, clean.height
            stream.pix_fmt = "bgr0" if self.crf is None else "yuv420p"
            for frame in source.decode(clean):
                picture = frame.to_ndarray(format="rgb24")
                noise = rng.standard_normal(picture.shape, dtype=np.float32) * self.noise
                noisy = np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, "rgb24")))
            out.mux(stream.encode(None))

    def quick_frames(self, cache: Path) -> np.ndarray:
        """Return about what a tracker is shown, (T, h, w, 3) uint8, without packing: to train on.

        Noise is added after scaling, as much as would be left of it.
        """
        kept = cache / self.folder.parent.name / f"{self.folder.name}-{self.img_shape[0]}.npy"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            boxer = Letterboxer(self.box)
            with av.open(str(self.folder / "clean.mkv")) as container:
                np.save(kept, np.stack([boxer.content(f) for f in container.decode(video=0)]))
        clean = np.load(kept)
        left = self.noise * min(1.0, float(max(self.box.scale_xy)))
        noise = np.random.default_rng(self.seed).standard_normal(clean.shape, dtype=np.float32)
        return np.clip(np.rint(clean + noise * left), 0, 255).astype(np.uint8)

    def frames(self, cache: Path) -> np.ndarray:
        """Return what a tracker is shown, (T, h, w, 3) uint8; kept in the folder ``cache``."""
        name = f"{self.folder.name}-{self.noise}-{self.crf}-{self.img_shape[0]}-{self.seed}"
        kept = cache / self.folder.parent.name / f"{name}.npy"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            video = kept.with_suffix(".mkv")
            self.write(video)
            boxer = Letterboxer(self.box)
            with av.open(str(video)) as container:
                np.save(kept, np.stack([boxer.content(f) for f in container.decode(video=0)]))
            video.unlink()
        return np.load(kept)


def folders(scenes: Path) -> list[Path]:
    """Return the folders of the cameras of all scenes in a folder."""
    return sorted(path.parent for path in scenes.glob("*/truth.npz"))


def followed(view: RobotView, tracker: DisTracker, cache: Path) -> Iterator[tuple[int, Anchor]]:
    """Track a recording; yield the windows that there is a truth of, and their numbers there."""
    whole: list[Anchor] = []
    frames, starts, horizon = view.frames(cache), view.starts, view.truth.tracks_xy.shape[1]
    session = tracker.open(frames.shape[1:3], view.queries_xy, horizon, EVERY)
    assert isinstance(session, AnchoredSession)
    give = session._whole

    def keep(anchor: Anchor, last: int) -> Window:
        whole.append(anchor)
        return give(anchor, last)

    setattr(session, "_whole", keep)  # noqa: B010 - a method of one session alone
    for frame in frames:
        session.push(frame)
        for anchor in whole:
            if anchor.window.start in starts:
                yield starts.index(anchor.window.start), anchor
        whole.clear()
