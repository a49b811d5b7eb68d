"""What feeding a tracker a stretched picture costs, against an aspect-true one.

A real frame is moved by a known camera motion (pan, zoom, turn), so the truth is exact; the
clip is tracked stretched to a square, letterboxed into it, and aspect-true with as many pixels
as the square has.  Errors are in source pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from builder.canvas.query_grid import query_points
from builder.inputs.video import VideoStream
from builder.trackers.base import TRACKERS
from builder.training.tapvid_metrics import tapvid_scores
from schemas import Letterbox, QuerySpec, Stretch

SQUARE = 256
STEPS = 16
QUERIES = QuerySpec(grid=(16, 16))


def stretch_cost(videos: Path) -> dict[str, Any]:
    """Return, per kind of picture, errors averaged over videos and motions."""
    found: dict[str, list[dict[str, float]]] = {}
    for path in sorted(videos.glob("*.mp4")):
        image = next(iter(VideoStream(path))).image.to_ndarray(format="rgb24")
        for seed in range(4):
            frames, motions = moving_camera(image, seed)
            for kind, score in _scores(frames, motions).items():
                found.setdefault(kind, []).append(score)
    return {
        kind: {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
        for kind, scores in found.items()
    }


def moving_camera(image: np.ndarray, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Render STEPS frames (H, W, 3); returns them and 2 x 3 maps of frame 0's points (x, y)."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    pan = rng.uniform(-0.006, 0.006, 2) * width
    turn, zoom = rng.uniform(-0.6, 0.6), 1 + rng.uniform(-0.006, 0.006)
    frames, motions = [], []
    for step in range(STEPS):
        centre, scale = (width / 2, height / 2), 1.25 * zoom**step
        matrix = np.asarray(cv2.getRotationMatrix2D(centre, turn * step, scale), np.float64)
        matrix[:, 2] += pan * step
        # OpenCV speaks pixel centres; points are edge coordinates.
        centred = matrix.copy()
        centred[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
        frames.append(
            cv2.warpAffine(
                image,
                centred,
                (width, height),
                flags=cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REFLECT,
            )
        )
        motions.append(matrix)
    first = np.vstack([motions[0], [0, 0, 1]])
    relative = [np.vstack([matrix, [0, 0, 1]]) @ np.linalg.inv(first) for matrix in motions]
    return frames, [matrix[:2] for matrix in relative]


def _scores(frames: list[np.ndarray], motions: list[np.ndarray]) -> dict[str, dict[str, float]]:
    source = frames[0].shape[:2]
    content = Letterbox.fit(source, (SQUARE, SQUARE)).content_shape
    grow = (SQUARE * SQUARE / (source[0] * source[1])) ** 0.5
    equal = (round(source[0] * grow), round(source[1] * grow))
    shapes = {
        f"stretched to {SQUARE} x {SQUARE}": (SQUARE, SQUARE),
        "aspect-true, letterboxed into it": content,
        "aspect-true, as many pixels": equal,
    }
    return {kind: _score(frames, motions, shape) for kind, shape in shapes.items()}


def _score(
    frames: list[np.ndarray], motions: list[np.ndarray], shape: tuple[int, int]
) -> dict[str, float]:
    source = frames[0].shape[:2]
    spread = Stretch(source_shape=source, img_shape=shape)
    points = query_points(QUERIES, Stretch(source_shape=shape, img_shape=shape))
    session = TRACKERS.load("dis")().open(shape, points, STEPS, STEPS)
    windows = []
    for frame in frames:
        windows += session.push(cv2.resize(frame, shape[::-1], interpolation=cv2.INTER_AREA))
    tracks = spread.to_source(windows[0].tracks_xy.astype(np.float64))
    start = tracks[0]
    truth = np.stack([start @ matrix[:, :2].T + matrix[:, 2] for matrix in motions])
    inside = np.asarray(Stretch(source_shape=source, img_shape=source).inside(truth))
    counted = inside.copy()
    counted[0] = False
    raster = tapvid_scores(truth, inside, tracks, windows[0].vis, source, counted)
    return {
        "median_error_source_px": float(
            np.median(np.linalg.norm(tracks - truth, axis=-1)[counted])
        ),
        "d_avg": raster.d_avg,
        "pixels": float(shape[0] * shape[1]),
    }
