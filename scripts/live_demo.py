"""Follow points live: those of a webcam, or of a video that is played at its own rate.

    python scripts/live_demo.py 0                          webcam 0, at http://127.0.0.1:8321
    python scripts/live_demo.py video.mp4                  a file as if it were a camera
    python scripts/live_demo.py video.mp4 --out seen.mp4   every frame, written as a video

Trails are the newest window's tracks, in the camera's own pixels. The line below them is the
energy of motion, one value per window; latency is from a frame's arrival to its window. With
``--inference`` the record beside a checkpoint says how to track, else ``--preset`` does.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np

from builder.canvas.letterbox import orient_frame
from builder.canvas.query_grid import query_points
from builder.inference import LiveWindows
from builder.inputs.streams import StreamInfo
from builder.inputs.video import VideoStream
from builder.report.draw import FAINT, INK, OUTLINE, PAPER, draw_tracks, enlarge, row_colors
from builder.trackers.kinds.dis import DisConfig, DisTracker
from schemas.affine import AxisAffine, swap_xy
from schemas.config import TrackerPart
from schemas.dataset import QuerySpec
from schemas.geometry import Letterbox
from schemas.inference import InferenceMeta, InferenceView, LiveTracking

WIDTH = 960
STRIP = 96
TRAIL = 15
SHOWN_WINDOWS = 200


class Shot(NamedTuple):
    """A frame of the camera: its own time, and when it was there to be taken, both in seconds."""

    image: Any
    seconds: float
    arrived: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("camera", help="number of a webcam, or a video file")
    parser.add_argument("--inference", type=Path, help="as letterset export --to inference wrote")
    parser.add_argument("--preset", choices=("best", "balanced", "fast"), default="best")
    parser.add_argument("--stride", type=int, default=1, help="frames from window to window")
    parser.add_argument("--out", type=Path, help="video to write instead of showing it")
    parser.add_argument("--picture", type=Path, help="PNG or JPEG to write of the last frame")
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("--port", type=int, default=8321, help="of the page that shows it")
    args = parser.parse_args()
    info, shots = webcam(int(args.camera)) if args.camera.isdigit() else file(args)
    if args.inference:
        live = LiveWindows.load(args.inference, stride=args.stride)
    else:
        live = LiveWindows(camera_meta(info, args.preset), stride=args.stride, every_frame=True)
    if len(live.meta.views) > 1:
        raise SystemExit(f"{args.inference} is of {len(live.meta.views)} cameras, here is one")
    overlay = Overlay(live)
    with shown(args, info.fps or 30.0) as show:
        for number, shot in enumerate(shots, start=1):
            samples = live.push({live.reference_view: shot.image}, shot.seconds)
            overlay.add(samples, time.perf_counter() - shot.arrived)
            show(overlay.draw(shot))
            if number == args.frames:
                break
    print(f"{overlay.line()}; {live.counts}")
    if args.picture:
        cv2.imwrite(str(args.picture), overlay.picture[..., ::-1])


def webcam(number: int) -> tuple[StreamInfo, Iterator[Shot]]:
    """Open a webcam; raises SystemExit."""
    capture = cv2.VideoCapture(number)
    there, image = capture.read()
    if not there:
        raise SystemExit(f"webcam {number} gives no picture; is another program using it?")

    def shots() -> Iterator[Shot]:
        while True:
            there, image = capture.read()
            if not there:
                return
            now = time.perf_counter()
            yield Shot(np.ascontiguousarray(image[..., ::-1]), now, now)  # OpenCV's are BGR

    fps = capture.get(cv2.CAP_PROP_FPS) or None
    return StreamInfo(num_frames=1, coded_shape=image.shape[:2], fps=fps), shots()


def file(args: argparse.Namespace) -> tuple[StreamInfo, Iterator[Shot]]:
    """Open a video; without ``--out`` frames come when they are due."""
    video = VideoStream(args.camera)

    def shots() -> Iterator[Shot]:
        begun, period = time.perf_counter(), 1 / (video.info.fps or 30)
        for image, seconds in video:
            due = now = time.perf_counter()
            if not args.out:
                due = begun + seconds
                if now - due > period:
                    continue  # nobody was there to take it: a camera goes on
                time.sleep(max(0.0, due - now))
            yield Shot(image, seconds, due)

    return video.info, shots()


def camera_meta(info: StreamInfo, preset: Any) -> InferenceMeta:
    """Describe a camera for which nothing was trained: 20 x 20 points, windows of 16 steps."""
    box = Letterbox.fit(info.source_shape, (256, 256), info.sample_aspect_ratio)
    queries = QuerySpec()
    points_rc = swap_xy(AxisAffine.normalization(box.img_shape)(query_points(queries, box)))
    view = InferenceView(
        name="camera",
        geometry=box,
        coded_shape=info.coded_shape,
        orientation=info.orientation,
        fps=info.fps,
        queries_rc=tuple((float(row), float(column)) for row, column in points_rc),
    )
    tracker = DisTracker(DisConfig(preset=preset)).info
    settings = TrackerPart.model_validate({"kind": "dis", "preset": preset})
    return InferenceMeta.seal(
        img_shape=box.img_shape,
        horizon=settings.horizon,
        queries=queries,
        views=(view,),
        live=LiveTracking(tracker=tracker, settings=settings),
    )


class Overlay:
    """Draws the newest window, its numbers, and the energy of the windows so far."""

    def __init__(self, live: LiveWindows) -> None:
        self.live, self.view = live, live.meta.views[0]
        self.colors = row_colors(live.meta.queries)
        self.window: tuple[np.ndarray, np.ndarray] | None = None
        self.energies: deque[float] = deque(maxlen=SHOWN_WINDOWS)
        self.latencies: deque[float] = deque(maxlen=10_000)
        self.arrivals: deque[float] = deque(maxlen=30)
        self.picture = np.zeros((1, 1, 3), np.uint8)

    def add(self, samples: list[dict[str, Any]], latency: float) -> None:
        """Take what a frame gave, ``latency`` seconds after it arrived."""
        for sample in samples:
            source_xy = self.live.decode(sample["traj"][0], self.view.name)
            self.window = np.asarray(source_xy), sample["vis"][0]
            self.energies.append(energy(sample, self.live.meta.img_shape))
            self.latencies.append(latency)

    def draw(self, shot: Shot) -> np.ndarray:
        """Return the upright picture, (H, W, 3) uint8 of even sides, everything drawn over it."""
        image = shot.image
        if isinstance(image, av.VideoFrame):
            image = image.to_ndarray(format="rgb24")
        upright = np.ascontiguousarray(orient_frame(image, self.view.orientation))
        zoom = min(1.0, WIDTH / upright.shape[1])
        picture = enlarge(upright, zoom)
        if self.window is not None:
            picture = draw_tracks(picture, *self.window, self.colors, TRAIL, zoom)
        self.arrivals.append(shot.seconds)
        picture = np.concatenate([picture, self._strip(picture.shape[1])])
        self.picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        return self.picture

    def line(self) -> str:
        """Say how fast it is."""
        took = np.array(self.latencies or [0.0]) * 1e3
        spans = np.diff(self.arrivals)
        fps = 1 / max(float(np.mean(spans)), 1e-6) if len(spans) else 0.0
        p50, p99 = np.percentile(took, (50, 99))
        return f"{fps:.1f} fps, latency {p50:.0f} ms (p99 {p99:.0f} ms)"

    def _strip(self, width: int) -> np.ndarray:
        strip = np.full((STRIP, width, 3), PAPER, np.uint8)
        newest = f"{self.energies[-1]:.2f}" if self.energies else "none yet"
        texts = (self.line(), f"energy of motion: {newest} px2 per step")
        for text, left, color in zip(texts, (8, width // 2), (INK, OUTLINE), strict=True):
            cv2.putText(strip, text, (left, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, 16)
        if self.energies:
            # The root, so that slow motion shows beside fast.
            values = np.sqrt(self.energies)
            x = np.arange(len(values)) * (width - 1) / (SHOWN_WINDOWS - 1)
            y = STRIP - 6 - values / max(values.max(), 0.5) * (STRIP - 36)
            points = np.rint(np.stack([x, y], axis=-1)).astype(np.int32)
            cv2.polylines(strip, [points], False, OUTLINE, 1, cv2.LINE_AA)
        cv2.line(strip, (0, STRIP - 5), (width, STRIP - 5), FAINT, 1)
        return strip


def energy(sample: dict[str, Any], img_shape: tuple[int, int]) -> float:
    """Return the mean squared step of the points that are seen, in pixels of ``img_shape``."""
    moved = np.diff(sample["traj"], axis=1) * (np.array(img_shape) / 2)
    seen = (sample["vis"][:, 1:] * sample["vis"][:, :-1]) > 0
    return float((moved**2).sum(axis=-1)[seen].mean()) if seen.any() else 0.0


@contextmanager
def shown(args: argparse.Namespace, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what takes pictures: a video's writer, or a page on this machine alone."""
    if args.out is None:
        page = Page(args.port)
        print(f"shown at http://127.0.0.1:{args.port} (over ssh: ssh -L {args.port}:localhost:...)")
        yield page.show
        return
    with av.open(str(args.out), "w") as container:
        stream: Any = None

        def write(picture: np.ndarray) -> None:
            nonlocal stream
            if stream is None:
                stream = container.add_stream("libx264", rate=round(fps))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))

        yield write
        if stream is not None:
            container.mux(stream.encode(None))


class Page:
    """Shows the newest picture in a browser, as a stream of JPEG."""

    def __init__(self, port: int) -> None:
        self._jpeg, self._new = b"", threading.Condition()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
                self.end_headers()
                with suppress(OSError):  # the browser left
                    while True:
                        head = b"--next\r\nContent-Type: image/jpeg\r\n\r\n"
                        self.wfile.write(head + page.newest() + b"\r\n")

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def show(self, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8 RGB."""
        encoded = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
        with self._new:
            self._jpeg = encoded
            self._new.notify_all()

    def newest(self) -> bytes:
        """Wait for the next picture."""
        with self._new:
            self._new.wait()
            return self._jpeg


if __name__ == "__main__":
    main()
