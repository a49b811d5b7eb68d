"""What bench_reader measures of the robot side: time per step, live frames against built ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from bench_reader_data import HORIZON, VIEWS

from builder.inference import Preprocessor
from schemas import Letterbox, QuerySpec
from schemas.inference import Decoder, InferenceMeta, InferenceView

SHAPE, IMG_SHAPE = (720, 1280), (256, 256)


def inference_meta() -> InferenceMeta:
    """Describe two 720p cameras."""
    box = Letterbox.fit(SHAPE, IMG_SHAPE)
    return InferenceMeta.seal(
        img_shape=IMG_SHAPE,
        horizon=HORIZON,
        queries=QuerySpec(),
        views=[
            InferenceView(name=name, geometry=box, coded_shape=SHAPE, queries_rc=())
            for name in VIEWS
        ],
    )


def live_frames() -> list[str]:
    """Compare as a table: PSNR, and how far the picture is shifted, by least squares."""
    import av
    import cv2
    from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    waves = [np.sin(rows / a + columns / b) for a, b in rng.uniform(4, 60, (6, 2))]
    picture = np.stack([sum(waves[at : at + 4]) for at in range(3)], axis=-1)
    picture = (128 + 30 * picture + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
    preprocess = Preprocessor(inference_meta())
    kernel = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
    fine = VideoReformatter().reformat(
        frame, format="rgb24", interpolation=kernel, dst_color_range=ColorRange.JPEG
    )
    coarse = cv2.cvtColor(frame.to_ndarray(), cv2.COLOR_YUV2RGB_I420)
    live = {
        "the camera's own YUV": frame,
        "RGB with interpolated chroma": fine.to_ndarray(),
        "RGB by cv2.cvtColor": coarse,
    }
    built = preprocess.frame(frame, VIEWS[0])[56:200].astype(np.float64)
    lines = ["| camera gives | PSNR | shift |", "|---|--:|--:|"]
    for name, image in live.items():
        error = preprocess.frame(image, VIEWS[0])[56:200] - built
        psnr = 10 * np.log10(255**2 / np.mean(error**2)) if error.any() else np.inf
        slopes = [np.gradient(built, axis=axis) for axis in (0, 1)]
        shift = max(abs((error * slope).sum() / (slope * slope).sum()) for slope in slopes)
        said = "identical" if np.isinf(psnr) else f"{psnr:.1f} dB"
        lines.append(f"| {name} | {said} | {shift:.3f} px |")
    return lines


def robot(rounds: int = 200) -> dict[str, float]:
    """Time preprocessing and decoding against cv2 and a formula by hand."""
    import cv2

    cv2.setNumThreads(1)
    meta = inference_meta()
    preprocess, decoder = Preprocessor(meta), Decoder(meta)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (*SHAPE, 3), np.uint8) for name in VIEWS}
    points = rng.uniform(-1, 1, (HORIZON, 400, 2)).astype(np.float32)

    def ours() -> None:
        preprocess(images)
        for name in VIEWS:
            decoder.decode(points, name)

    def by_hand() -> None:
        canvas = np.zeros((2, *IMG_SHAPE, 3), np.uint8)
        for index, image in enumerate(images.values()):
            canvas[index, 56:200] = cv2.resize(image, (256, 144), interpolation=cv2.INTER_AREA)
            x, y = points[..., 1], points[..., 0]
            np.stack([(x + 1) * 128 * 5, ((y + 1) * 128 - 56) * 5], axis=-1)

    took: dict[str, list[float]] = {"ours": [], "hand": []}
    for _ in range(rounds):
        for name, function in (("ours", ours), ("hand", by_hand)):
            begun = time.perf_counter()
            function()
            took[name].append((time.perf_counter() - begun) * 1e3)
    many = rng.uniform(-1, 1, (1_000_000, 2))
    passes: dict[str, list[float]] = {"decode": [], "numpy": []}
    ways: dict[str, Callable[[], Any]] = {
        "decode": lambda: decoder.decode(many, "front"),
        "numpy": lambda: many * np.array([5.0, 5.0]) + np.array([1.0, 2.0]),
    }
    for _ in range(15):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            passes[name].append(time.perf_counter() - begun)
    return {
        "median_ms": median(took["ours"]),
        "p99_ms": float(np.percentile(took["ours"], 99)),
        "hand_ratio": median(a / b for a, b in zip(took["ours"], took["hand"], strict=True)),
        "decode_ratio": median(
            a / b for a, b in zip(passes["decode"], passes["numpy"], strict=True)
        ),
    }
