"""One window of one episode, drawn: what a build would make of it, without building it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from builder.build.episode import Job, open_source, open_tracker, view_key
from builder.canvas.letterbox import Letterboxer
from builder.core.messages import count
from builder.inputs.streams import FrameStream, StreamInfo
from builder.report.draw import draw_geometry, draw_queries, draw_tracks, enlarge, row_colors
from builder.trackers.base import Window
from builder.trackers.motion import MotionMeter
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from schemas.geometry import Geometry, Letterbox, Orientation

Report = Callable[[int, int], None]

MAX_STEPS = 16
MAX_SKIPPED = 48  # frames before the window, which are decoded only
MAX_VIEWS = 3
PICTURE_PX = 512
THUMBNAIL_PX = 238  # two of them and their margins are as wide as a picture

HALF_TURNS: tuple[Orientation, ...] = ("none", "hflip", "vflip", "rot180")
QUARTER_TURNS: tuple[Orientation, ...] = ("rot90", "rot270", "transpose", "antitranspose")


@dataclass(frozen=True)
class Sketch:
    """Pictures (H, W, 3) uint8 RGB of one view and facts about it in words.

    ``grid`` is the window's first canvas with the query points, ``tracks`` its last canvas
    with their tracks, ``candidates`` its first frame in all orientations of its shape.
    """

    path: str
    view: str
    orientation: Orientation
    candidates: dict[Orientation, np.ndarray]
    grid: np.ndarray
    tracks: np.ndarray
    start: int
    steps: int
    facts: dict[str, str]
    notes: tuple[str, ...]


def probe_episode(job: Job, report: Report) -> tuple[tuple[int, int], ...]:
    """Return the upright shape (H, W) of every view, without decoding; for a child process."""
    with open_source(job.config).open(job.ref) as episode:
        return tuple(stream.info.source_shape for stream in episode.views.values())


def sketch_episode(job: Job, report: Report) -> list[Sketch]:
    """Draw one window of an episode's first views; for a child process.  Raises SourceError."""
    with open_source(job.config).open(job.ref) as episode:
        return [
            _sketch(job, name, stream, report)
            for name, stream in islice(episode.views.items(), MAX_VIEWS)
        ]


def _sketch(job: Job, view: str, stream: FrameStream, report: Report) -> Sketch:
    config, info = job.config, stream.info
    box = config.fit(info.source_shape, info.sample_aspect_ratio)
    steps = min(config.tracker.horizon, MAX_STEPS, info.num_frames)
    tracker, start = open_tracker(config), min(info.num_frames // 3, MAX_SKIPPED)
    # What is known of a view beforehand is known of its beginning.
    start = 0 if hasattr(tracker, "for_view") else min(start, info.num_frames - steps)
    once = {"mode": "reinit", "horizon": steps, "start_every": steps}
    part = config.tracker.model_copy(update=once)
    key = view_key(config, job.ref, view)._replace(cut=True)
    tracks = ViewTracker(tracker, box, config.queries, part, steps, key)
    frames = ViewFrames(tracks, info.orientation)
    windows, canvases, candidates = [], [], {}
    for index, frame in enumerate(islice(stream, start + steps)):
        report(index + 1, start + steps)
        if index < start:
            continue
        if index == start:
            candidates = _candidates(frame.image, info)
        canvas = None
        if index in (start, start + steps - 1):
            canvas = np.empty((*box.img_shape, 3), np.uint8)
            canvases.append(canvas)
        windows += tracks.push(frames.tracked(frame.image, canvas))
    window = (windows + tracks.finish() or [tracks.untracked(0)])[0]

    zoom, colors = PICTURE_PX / max(config.img_shape), row_colors(config.queries)
    before, after = (draw_geometry(enlarge(canvases[k], zoom), box, zoom) for k in (0, -1))
    return Sketch(
        path=job.ref.path,
        view=view,
        orientation=info.orientation,
        candidates=candidates,
        grid=draw_queries(before, window.tracks_xy[0], colors, zoom),
        tracks=draw_tracks(after, window.tracks_xy, window.vis, colors, MAX_STEPS, zoom),
        start=start,
        steps=steps,
        facts=_facts(info, box, window),
        notes=info.notes,
    )


def _candidates(image: Any, info: StreamInfo) -> dict[Orientation, np.ndarray]:
    """Turn a stored frame all ways that keep its upright shape."""
    square = (THUMBNAIL_PX, THUMBNAIL_PX)
    box = Letterbox.fit(info.source_shape, square, info.sample_aspect_ratio)
    family = QUARTER_TURNS if info.orientation in QUARTER_TURNS else HALF_TURNS
    return {turn: Letterboxer(box, turn).content(image) for turn in family}


def _facts(info: StreamInfo, box: Geometry, window: Window) -> dict[str, str]:
    height, width = info.source_shape
    pad, (scale_x, scale_y) = box.pad, box.scale_xy
    facts = {
        "Source": f"{height} x {width} px (height x width), {count(info.num_frames, 'frame')}"
        + (f", {info.fps:.4g} per second" if info.fps else "")
        + (f", {info.codec}" if info.codec else ""),
        "Turned by": info.orientation,
        "Picture": f"{box.content_shape[0]} x {box.content_shape[1]} px of "
        f"{box.img_shape[0]} x {box.img_shape[1]}; bars: {pad.top} px above, {pad.bottom} below, "
        f"{pad.left} left, {pad.right} right",
        "Scale": f"{scale_x:.5g} in x, {scale_y:.5g} in y",
    }
    if info.sample_aspect_ratio != (1, 1):
        facts["Pixel shape"] = "{}:{} (width:height), applied".format(*info.sample_aspect_ratio)
    meter = MotionMeter(window.start + len(window.vis))
    meter.add(window)
    motion = meter.summary()
    if motion is not None:
        facts["Motion"] = (
            f"{motion.mean_px:.2f} px per step on average, {motion.zero_share:.0%} of the steps "
            f"below half a pixel, {motion.visible_share:.0%} visible"
        )
    return facts
