"""``letterset preview``: a page that shows what a build would make of a source.

A few episodes of different shapes, one window of each.  Orientation is the expensive mistake,
so every episode is shown in all orientations it could have.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from builder.build.backends import open_executor, open_source, open_tracker
from builder.build.episode import Job
from builder.build.executors.base import Outcome, ReportProgress
from builder.build.reader import listed
from builder.build.view import view_key
from builder.canvas.letterbox import Letterboxer
from builder.core import messages
from builder.core.errors import SourceError
from builder.core.spacing import spread, stratified
from builder.inputs.streams import FrameStream, StreamInfo
from builder.report import draw
from builder.report.page import definitions, figure, page, text, write_output
from builder.stores.atomic import make_place
from builder.trackers.base import Window
from builder.trackers.motion import MotionMeter
from builder.trackers.view_tracker import ViewFrames, ViewTracker
from schemas.config import BuildConfig
from schemas.geometry import Geometry, Letterbox, Orientation

MAX_PROBED = 48
MAX_STEPS = 16
MAX_SKIPPED = 48  # frames before the window, which are decoded only
MAX_VIEWS = 3
PICTURE_PX = 512
THUMBNAIL_PX = 238  # two of them and their margins are as wide as a picture

HALF_TURNS: tuple[Orientation, ...] = ("none", "hflip", "vflip", "rot180")
QUARTER_TURNS: tuple[Orientation, ...] = ("rot90", "rot270", "transpose", "antitranspose")


@dataclass(frozen=True)
class WindowPreview:
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


def preview(config: BuildConfig, out: Path, count: int = 6) -> list[str]:
    """Draw up to ``count`` episodes and write ``out``: an HTML page, or a picture for ``.png``.

    Writes no dataset.  Returns what could not be shown, as "FAILED path (stage): reason",
    which is on the page too.  Raises SourceError when the source has no episodes, or none that can
    be shown: then no page takes the place of an earlier one.  OutputError when ``out`` cannot be
    written.
    """
    refs = listed(open_source(config), config.limits)
    if not refs:
        raise SourceError(f"{config.source.path}: there are no episodes to preview")
    make_place(out)
    failures: list[str] = []
    jobs = [Job(config, refs[k]) for k in spread(len(refs), MAX_PROBED)]
    shapes = _run(config, probe_episode, jobs, failures)
    chosen = stratified(shapes, count)
    jobs = [job for job in jobs if job.ref.id in chosen]
    drawn = _run(config, preview_windows, jobs, failures)
    windows = [window for episode in drawn.values() for window in episode]
    if not windows:
        raise SourceError(
            f"{config.source.path}: nothing could be shown, so {out} was not written\n"
            + "\n".join(failures)
        )
    if out.suffix.lower() == ".png":
        data = draw.png(_picture(windows, failures))
    else:
        shown = f"{len(drawn)} of {messages.count(len(refs), 'episode')}"
        title = f"Preview of {config.source.path}"
        data = page(title, _body(config, windows, failures, title, shown))
    write_output(out, data)
    return failures


def _run(
    config: BuildConfig, function: Callable[..., Any], jobs: list[Job], failures: list[str]
) -> dict[str, Any]:
    """Run in child processes, as a build does; return results by episode, in order of jobs."""
    executor, _ = open_executor(config.executor, config.limits)
    results: dict[str, Any] = {}
    with closing(executor.run(function, jobs)) as events:
        for event in events:
            if not isinstance(event, Outcome):
                continue
            ref = event.task.ref
            if event.error is None:
                results[ref.id] = event.result
            else:
                stage, reason = event.failure()
                failures.append(messages.failed(ref.path, reason, stage))
    return {job.ref.id: results[job.ref.id] for job in jobs if job.ref.id in results}


def _body(
    config: BuildConfig, windows: list[WindowPreview], failures: list[str], title: str, shown: str
) -> Iterator[str]:
    made = messages.pictures(config.img_shape, config.geometry)
    grid = messages.points(config.queries.grid, config.queries.region)
    yield f"<h1>{text(title)}</h1>"
    yield (
        f"<p>{shown}, chosen so that different frame sizes are there; one window of "
        f"each, {made} (height x width), with points: {grid}, tracked by "
        f"<code>{text(config.tracker.kind)}</code>.</p>"
        "<p><strong>Look at every picture: is it the right way up, and not mirrored?</strong> "
        "The outlined one is what a build would use. If another one is right, set it, for "
        "example <code>source.orientation=vflip</code>.</p>"
    )
    if failures:
        items = "".join(f"<li>{text(failure)}</li>" for failure in failures)
        yield (
            f'<section class="failures"><h2>{len(failures)} could not be shown</h2>'
            f"<ul>{items}</ul></section>"
        )
    for window in windows:
        yield from _section(window)


def _section(window: WindowPreview) -> Iterator[str]:
    name = _name(window)
    yield f"<section><h2>{text(name)}</h2><h3>Which way is up?</h3>"
    yield '<div class="row">'
    for turn, image in window.candidates.items():
        chosen = turn == window.orientation
        caption = f"<code>{turn}</code>" + (", what a build uses" if chosen else "")
        alt = f"A frame of {name} as it looks with orientation {turn}"
        yield figure(image, alt, caption, "small chosen" if chosen else "small")
    yield '</div><h3>What a build would make</h3><div class="row">'
    yield figure(
        window.grid,
        f"Frame {window.start} of {name}, letterboxed: bars hatched, picture outlined, query "
        "points in the colour of their row",
        f"Frame {window.start} with its query points; bars are hatched",
    )
    yield figure(
        window.tracks,
        f"Frame {window.start + window.steps - 1} of {name} with the tracks of all query points",
        f"{window.steps - 1} steps later: filled points are visible, hollow ones are lost",
    )
    yield f"</div>{definitions(window.facts)}"
    yield "".join(f"<p>Note: {text(note)}</p>" for note in window.notes)
    yield "</section>"


def _name(window: WindowPreview) -> str:
    return f"{window.path}, {window.view}"


def _picture(windows: list[WindowPreview], failures: list[str]) -> np.ndarray:
    """Lay everything out as one picture (H, W, 3) uint8 RGB."""
    images, labels = [], []
    for window in windows:
        turns = [f"{t} (used)" if t == window.orientation else t for t in window.candidates]
        images += [draw.contact_sheet(list(window.candidates.values()), turns, 2), window.grid]
        images.append(window.tracks)
        labels += [
            f"{_name(window)}\nwhich way is up?",
            f"frame {window.start}: query points\n{window.facts['Source']}",
            f"{window.steps - 1} steps later: tracks\n{window.facts.get('Motion', '')}",
        ]
    return draw.contact_sheet(images, labels, 3, footer=failures)


def probe_episode(job: Job, report: ReportProgress) -> tuple[tuple[int, int], ...]:
    """Return the upright shape (H, W) of every view, without decoding; for a child process."""
    with open_source(job.config).open(job.ref) as episode:
        return tuple(stream.info.source_shape for stream in episode.views.values())


def preview_windows(job: Job, report: ReportProgress) -> list[WindowPreview]:
    """Draw one window of an episode's first views; for a child process.  Raises SourceError."""
    with open_source(job.config).open(job.ref) as episode:
        return [
            _window_preview(job, name, stream, episode.notes, report)
            for name, stream in islice(episode.views.items(), MAX_VIEWS)
        ]


def _window_preview(
    job: Job, view: str, stream: FrameStream, notes: tuple[str, ...], report: ReportProgress
) -> WindowPreview:
    config, info = job.config, stream.info
    box = config.fit(info.source_shape, info.sample_aspect_ratio)
    steps = min(config.tracker.horizon, MAX_STEPS, info.num_frames)
    tracker, start = open_tracker(config), min(info.num_frames // 3, MAX_SKIPPED)
    # What is known of a view beforehand is known of its beginning.
    start = 0 if tracker.needs_view else min(start, info.num_frames - steps)
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

    zoom, colors = PICTURE_PX / max(config.img_shape), draw.row_colors(config.queries)
    before, after = (
        draw.draw_geometry(draw.enlarge(canvases[at], zoom), box, zoom) for at in (0, -1)
    )
    return WindowPreview(
        path=job.ref.path,
        view=view,
        orientation=info.orientation,
        candidates=candidates,
        grid=draw.draw_queries(before, window.tracks_xy[0], colors, zoom),
        tracks=draw.draw_tracks(after, window.tracks_xy, window.vis, colors, MAX_STEPS, zoom),
        start=start,
        steps=steps,
        facts=_facts(info, box, window),
        notes=(*info.notes, *notes),
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
        "Source": f"{height} x {width} px (height x width), "
        + messages.count(info.num_frames, "frame")
        + (f", {info.fps:.4g} per second" if info.fps else "")
        + (f", {info.codec}" if info.codec else ""),
        "Way up": messages.way_up(info.orientation, info.orientation_from),
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
