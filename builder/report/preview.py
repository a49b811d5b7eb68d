"""``letterset preview``: a page that shows what a build would make of a source.

A few episodes of different shapes, one window of each.  Orientation is the expensive mistake,
so every episode is shown in all orientations it could have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from builder.build.episode import Job, open_source
from builder.build.executors.base import Outcome
from builder.core import messages as wording
from builder.core.errors import SourceError
from builder.core.registry import configure
from builder.core.spacing import spread
from builder.report.draw import contact_sheet, png
from builder.report.page import definitions, figure, page, text, write_output
from builder.report.sketch import Sketch, probe_episode, sketch_episode
from builder.stores.atomic import make_place
from schemas.config import BuildConfig

MAX_PROBED = 48


def preview(config: BuildConfig, out: Path, count: int = 6) -> list[str]:
    """Draw up to ``count`` episodes and write ``out``: an HTML page, or a picture for ``.png``.

    Writes no dataset.  Returns what could not be shown, as "FAILED path (stage): reason",
    which is on the page too.  Raises SourceError when the source has no episodes, OutputError
    when ``out`` cannot be written.
    """
    refs = list(open_source(config).refs())
    if not refs:
        raise SourceError(f"{config.source.path}: there are no episodes to preview")
    make_place(out)
    failures: list[str] = []
    jobs = [Job(config, refs[k]) for k in spread(len(refs), MAX_PROBED)]
    shapes = _run(config, probe_episode, jobs, failures)
    chosen = stratified(shapes, count)
    jobs = [job for job in jobs if job.ref.id in chosen]
    drawn = _run(config, sketch_episode, jobs, failures)
    sketches = [sketch for episode in drawn.values() for sketch in episode]
    if out.suffix.lower() == ".png":
        data = png(_picture(sketches, failures))
    else:
        shown = f"{len(drawn)} of {wording.count(len(refs), 'episode')}"
        title = f"Preview of {config.source.path}"
        data = page(title, _body(config, sketches, failures, title, shown))
    write_output(out, data)
    return failures


def stratified(shapes: Mapping[str, Any], count: int) -> list[str]:
    """Choose up to ``count`` keys so that as many different values as possible are there.

    Values take turns, the most frequent first; keys of one value are spread evenly.
    """
    groups: dict[Any, list[str]] = {}
    for key, shape in shapes.items():
        groups.setdefault(shape, []).append(key)
    ordered = sorted(groups.values(), key=len, reverse=True)
    quotas = [0] * len(ordered)
    for _ in range(min(count, len(shapes))):
        open_groups = (k for k, keys in enumerate(ordered) if quotas[k] < len(keys))
        quotas[min(open_groups, key=lambda k: quotas[k])] += 1
    return [
        keys[k]
        for keys, quota in zip(ordered, quotas, strict=True)
        for k in spread(len(keys), quota)
    ]


def _run(
    config: BuildConfig, function: Callable[..., Any], jobs: list[Job], failures: list[str]
) -> dict[str, Any]:
    """Run in child processes, as a build does; return results by episode, in order of jobs."""
    found, own = configure("executors", config.executor)
    executor = found(own, config.executor.workers, config.limits.stall_seconds)
    results: dict[str, Any] = {}
    with closing(executor.run(function, jobs)) as events:
        for event in events:
            if not isinstance(event, Outcome):
                continue
            ref, error = event.task.ref, event.error
            if error is None:
                results[ref.id] = event.result
            elif isinstance(error, SourceError):
                failures.append(wording.failed(ref.path, str(error), error.stage))
            else:
                raise error
    return {job.ref.id: results[job.ref.id] for job in jobs if job.ref.id in results}


def _body(
    config: BuildConfig, sketches: list[Sketch], failures: list[str], title: str, shown: str
) -> Iterator[str]:
    made = wording.pictures(config.img_shape, config.geometry)
    grid = wording.points(config.queries.grid, config.queries.region)
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
    for sketch in sketches:
        yield from _section(sketch)


def _section(sketch: Sketch) -> Iterator[str]:
    name = _name(sketch)
    yield f"<section><h2>{text(name)}</h2><h3>Which way is up?</h3>"
    yield '<div class="row">'
    for turn, image in sketch.candidates.items():
        chosen = turn == sketch.orientation
        caption = f"<code>{turn}</code>" + (", what a build uses" if chosen else "")
        alt = f"A frame of {name} as it looks with orientation {turn}"
        yield figure(image, alt, caption, "small chosen" if chosen else "small")
    yield '</div><h3>What a build would make</h3><div class="row">'
    yield figure(
        sketch.grid,
        f"Frame {sketch.start} of {name}, letterboxed: bars hatched, picture outlined, query "
        "points in the colour of their row",
        f"Frame {sketch.start} with its query points; bars are hatched",
    )
    yield figure(
        sketch.tracks,
        f"Frame {sketch.start + sketch.steps - 1} of {name} with the tracks of all query points",
        f"{sketch.steps - 1} steps later: filled points are visible, hollow ones are lost",
    )
    yield f"</div>{definitions(sketch.facts)}"
    yield "".join(f"<p>Note: {text(note)}</p>" for note in sketch.notes)
    yield "</section>"


def _name(sketch: Sketch) -> str:
    return f"{sketch.path}, {sketch.view}"


def _picture(sketches: list[Sketch], failures: list[str]) -> np.ndarray:
    """Lay everything out as one picture (H, W, 3) uint8 RGB."""
    images, labels = [], []
    for sketch in sketches:
        turns = [f"{t} (used)" if t == sketch.orientation else t for t in sketch.candidates]
        images += [contact_sheet(list(sketch.candidates.values()), turns, 2), sketch.grid]
        images.append(sketch.tracks)
        labels += [
            f"{_name(sketch)}\nwhich way is up?",
            f"frame {sketch.start}: query points\n{sketch.facts['Source']}",
            f"{sketch.steps - 1} steps later: tracks\n{sketch.facts.get('Motion', '')}",
        ]
    return contact_sheet(images, labels, 3, footer=failures)
