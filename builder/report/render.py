"""``letterset render``: a contact sheet of a dataset, a video or Rerun recording of an episode."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from builder.core.errors import DatasetError, OutputError
from builder.core.messages import no_episodes
from builder.core.spacing import spread, stratified
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.report import draw
from builder.report.page import write_output
from builder.stores.atomic import make_place

MAX_LOOKED_AT = 24  # episodes, and windows of each, to choose from
VIDEO_PX = 512
DEFAULT_FPS = 10.0
RERUN_TRAIL = 12  # steps


def render_contact_sheet(
    dataset: Dataset, out: Path, episodes: int = 3, columns: int = 4, tile_px: int = 384
) -> None:
    """Write a PNG: a row per episode, ``columns`` steps of the window with the most motion.

    The first column shows the query points, the others the tracks so far.  Episodes are chosen
    so that different source shapes are there.  Raises DatasetError when there are none,
    OutputError when ``out`` cannot be written.
    """
    if not dataset.ids:
        raise DatasetError(no_episodes(dataset.path))
    make_place(out)
    looked_at = [dataset.ids[k] for k in spread(len(dataset.ids), MAX_LOOKED_AT)]
    views = {key: _first_view(dataset[key]) for key in looked_at}
    # One that stands still has no window to draw.
    shown = {key: view for key, view in views.items() if len(view.starts)} or views
    shapes = {key: view.geometry.source_shape for key, view in shown.items()}
    colors = draw.row_colors(dataset.meta.queries)
    chosen = sorted(stratified(shapes, episodes))
    tiles = [tile for key in chosen for tile in _tiles(dataset[key], colors, columns, tile_px)]
    images, labels = zip(*tiles, strict=True)
    write_output(out, draw.png(draw.contact_sheet(images, labels, columns)))


def _first_view(episode: EpisodeData) -> ViewData:
    return next(iter(episode.views.values()))


def _tiles(
    episode: EpisodeData, colors: np.ndarray, columns: int, tile_px: int
) -> Iterator[tuple[np.ndarray, str]]:
    """Yield pictures and labels of one window at evenly spread steps."""
    view = _first_view(episode)
    box, length = view.geometry, episode.meta.length
    zoom = tile_px / max(box.img_shape)
    starts = tracked_starts(episode, view)
    window = _most_moving_window(view, starts, length)
    start, tracks_xy, vis = int(starts[window]), view.tracks[window], view.vis[window]
    (height, width), (img_height, img_width) = box.source_shape, box.img_shape
    last = min(len(tracks_xy), length - start) - 1
    for k, step in enumerate(np.linspace(0, last, columns).round().astype(int)):
        frame = draw.enlarge(_frame(view, start + step), zoom)
        image = draw.draw_geometry(frame, box, zoom)
        if k == 0:
            image = draw.draw_queries(image, tracks_xy[0], colors, zoom)
            label = f"{episode.meta.source.path}, frame {start}\n"
            label += f"{height} x {width} px in {img_height} x {img_width}"
        else:
            so_far = slice(0, step + 1)
            image = draw.draw_tracks(image, tracks_xy[so_far], vis[so_far], colors, last, zoom)
            label = f"frame {start + step}\n"
        yield image, label


def _most_moving_window(view: ViewData, starts: np.ndarray, length: int) -> int:
    """Find the window whose visible points get farthest, among those without a frozen tail."""
    whole = np.flatnonzero(starts + view.tracks.shape[1] <= length)
    best, farthest = 0, -1.0
    for window in (int(whole[k]) for k in spread(len(whole), MAX_LOOKED_AT)):
        tracks_xy, seen = np.asarray(view.tracks[window]), np.asarray(view.vis[window][-1])
        distance = np.linalg.norm(tracks_xy[-1] - tracks_xy[0], axis=-1)
        if (score := float((distance * seen).mean())) > farthest:
            best, farthest = window, score
    return best


class TrackedFrame(NamedTuple):
    """A frame and the tracks that end on it.

    ``frame_rgb`` (H, W, 3) uint8, black where no frames are stored; ``tracks_xy`` (steps, N, 2)
    img px from the window's start up to this frame; ``vis`` (steps, N).
    """

    frame: int
    seconds: float
    frame_rgb: np.ndarray
    window: int
    tracks_xy: np.ndarray
    vis: np.ndarray


def tracked_starts(episode: EpisodeData, view: ViewData) -> np.ndarray:
    """Return the start frames (S,) of a view's windows; raises DatasetError without tracks."""
    starts = np.asarray(view.starts)
    if not len(starts):
        why = "all its windows stand still (tracker.skip_still)"
        todo = why if episode.meta.still else "see letterset track"
        raise DatasetError(f"{episode.meta.id}: there are no tracks to show; {todo}")
    return starts


def tracked_frames(episode: EpisodeData, view: ViewData) -> Iterator[TrackedFrame]:
    """Return every frame once, windows back to back; the frozen tail is left out.

    A frame of no window, where all stand still, has the query points, not visible, and window -1.

    Raises DatasetError, before the first, where there are no tracks.
    """
    return _tracked_frames(episode, view, tracked_starts(episode, view))


def _tracked_frames(
    episode: EpisodeData, view: ViewData, starts: np.ndarray
) -> Iterator[TrackedFrame]:
    horizon, times = episode.meta.horizon, view.timestamps
    window = 0
    for index in range(episode.meta.length):
        # The next window begins where the last one ends, or as soon after as there is one.
        if index >= starts[window] + horizon:
            window = int(np.flatnonzero(starts <= index)[-1])
        if not 0 <= index - starts[window] < horizon:  # nothing moves: it was left out
            queries_xy = np.asarray(view.queries)[None]
            unseen = np.zeros(queries_xy.shape[:2], np.uint8)
            seconds = float(times[index])
            yield TrackedFrame(index, seconds, _frame(view, index), -1, queries_xy, unseen)
            continue
        steps = int(index - starts[window]) + 1
        yield TrackedFrame(
            index,
            float(times[index]),
            _frame(view, index),
            window,
            np.asarray(view.tracks[window, :steps]),
            np.asarray(view.vis[window, :steps]),
        )


def _frame(view: ViewData, index: int) -> np.ndarray:
    if view.frames is None:
        return np.zeros((*view.geometry.img_shape, 3), np.uint8)
    return np.asarray(view.frames[index])


def render_video(dataset: Dataset, episode_id: str, view_name: str, out: Path) -> int:
    """Write tracks over one view of an episode as H.264; returns the number of frames.

    Raises KeyError for an unknown episode or view, DatasetError where there are no tracks and
    OutputError when ``out`` cannot be written.
    """
    import av

    episode = dataset[episode_id]
    view = episode.views[view_name]
    colors = draw.row_colors(dataset.meta.queries)
    zoom = max(1.0, VIDEO_PX / max(view.geometry.img_shape))
    rate = Fraction(view.meta.fps or DEFAULT_FPS).limit_denominator(1000)
    make_place(out)
    count, frames = 0, tracked_frames(episode, view)
    try:
        with av.open(f"file:{out}", "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "18"})
            # 4:2:0 needs even sides.
            height, width = (round(side * zoom) // 2 * 2 for side in view.geometry.img_shape)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for now in frames:
                enlarged = draw.enlarge(now.frame_rgb, zoom)
                picture = draw.draw_geometry(enlarged, view.geometry, zoom)
                picture = draw.draw_tracks(picture, now.tracks_xy, now.vis, colors, zoom=zoom)
                picture = np.ascontiguousarray(picture[:height, :width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                count += 1
            container.mux(stream.encode())
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
    return count


def render_rerun(dataset: Dataset, episode_id: str, out: Path) -> int:
    """Write all views of an episode to an .rrd file; returns the number of frames logged.

    Rerun's 2D space has its origin at the outer corner of the top-left pixel, as ours has, so
    points go in unchanged.  Raises KeyError for an unknown episode, OutputError when ``out``
    cannot be written.
    """
    import rerun as rr

    episode = dataset[episode_id]
    colors = draw.row_colors(dataset.meta.queries)
    make_place(out)
    recording = rr.RecordingStream("letterset")
    try:
        recording.save(out)
    except RuntimeError as error:
        raise OutputError(f"cannot write {out}: {error}") from None
    count = 0
    for name, view in episode.views.items():
        for now in tracked_frames(episode, view):
            recording.set_time("frame", sequence=now.frame)
            recording.set_time("time", duration=now.seconds)
            recording.log(name, rr.Image(now.frame_rgb))
            seen, now_xy = now.vis[-1].astype(bool), now.tracks_xy[-1]
            recording.log(f"{name}/visible", rr.Points2D(now_xy[seen], colors=colors[seen]))
            recording.log(f"{name}/occluded", rr.Points2D(now_xy[~seen], colors=colors[~seen] // 2))
            trails = np.swapaxes(now.tracks_xy[-RERUN_TRAIL:], 0, 1)
            recording.log(f"{name}/trails", rr.LineStrips2D(list(trails), colors=colors))
            count += 1
    recording.flush()
    return count
