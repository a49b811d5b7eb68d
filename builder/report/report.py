"""``letterset report``: one self-contained page to open before training."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from builder.canvas.windows import covering_rows
from builder.core.errors import DatasetError
from builder.core.messages import count, failed, points
from builder.core.spacing import spread
from builder.dataset.array_checks import has_windows
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.dataset.folder import read_failures
from builder.report.diagnosis import Diagnosis, diagnose
from builder.report.draw import row_colors
from builder.report.page import (
    bars,
    base64_of,
    definitions,
    histogram,
    jpeg_base64,
    letterbox_drawing,
    page,
    text,
    tiles,
    write_output,
)
from builder.stores.atomic import make_place
from schemas.dataset import DatasetMeta, EpisodeMeta, ViewMeta
from schemas.geometry import Geometry

MAX_EPISODES = 5000
"""Episodes looked at; of larger datasets, so many spread evenly."""
MAX_GEOMETRIES = 6
REGION_WINDOWS = 16
"""Windows per episode whose points are counted by region, spread evenly."""
PLAYER_FRAMES = 96
PLAYER_JPEG_QUALITY = 80

COLUMNS = (
    "episode", "view", "frames", "source", "aspect", "turned", "px/step", "still %", "visible %",
    "text",
)  # fmt: skip
TERMS = {
    "zero class": "steps that round to no motion at img_shape; a codebook cannot tell them apart",
    "saturated": "steps longer than the 7 pixels that AMPLIFY's classes reach",
    "clipped": "coordinates outside [-1, 1]: points that left the picture",
    "in the bars": "points that start in the bars of the letterbox, where nothing moves",
    "frozen tail": "windows that run past the last frame, which is repeated in them; "
    "WindowDataset leaves them out",
}
"""What the shares count, in the order of their chart."""
Row = tuple[Any, ...]


@dataclass
class _Facts:
    """What the page shows of the episodes."""

    rows: list[Row] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    views: list[ViewMeta] = field(default_factory=list)
    geometries: Counter[tuple[str, Geometry]] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, meta: EpisodeMeta) -> None:
        """Take what the page shows of an episode."""
        self.lengths.append(meta.length)
        for view in meta.views:
            self.views.append(view)
            self.rows.append(_row(meta, view))
            self.geometries[view.name, view.geometry] += 1


def write_report(
    dataset: Dataset,
    out: Path,
    *,
    episodes: int = 6,
    budget_mb: float = 24.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diagnosis:
    """Write the page to ``out``; returns the doctor's diagnosis, with all that cannot be read.

    ``episodes`` are put into the player, fewer when their pictures exceed ``budget_mb``.
    ``on_progress`` is told how many episodes of how many were looked at.
    Raises OutputError when ``out`` cannot be written, DatasetError when no episode can be read
    and there is an earlier page.
    """
    make_place(out)
    ids = [dataset.ids[k] for k in spread(len(dataset), MAX_EPISODES)]
    facts = _Facts()
    diagnosis = diagnose(
        dataset, dataset.meta.img_shape, ids=ids, on_episode=facts.add, on_progress=on_progress
    )
    facts.unreadable.update(diagnosis.problems)
    readable = [key for key in ids if key not in facts.unreadable]
    if ids and not readable and out.exists():
        raise DatasetError(
            f"{dataset.path}: no episode can be read, so {out}, of an earlier state, stays; "
            f"the first: {facts.unreadable[ids[0]]}"
        )
    chosen = [readable[k] for k in spread(len(readable), episodes)]
    queries = dataset.meta.queries
    rows, columns = queries.grid
    first_of_rows = slice(rows) if queries.order == "rows_fastest" else slice(None, None, columns)
    colors = row_colors(queries)[first_of_rows]
    data: dict[str, Any] = {
        "rows": facts.rows,
        "grid": queries.grid,
        "order": queries.order,
        "colors": [f"rgb({r}, {g}, {b})" for r, g, b in colors.tolist()],
        "episodes": _player_data(dataset, chosen, round(budget_mb * 1e6), facts.unreadable),
    }
    regions = [
        tiles(f"{name}: points per region", shares, dataset.meta.img_shape)
        for name, shares in point_regions(dataset, chosen).items()
        if shares.any()
    ]
    body = [_heading(dataset, diagnosis), *_player_section(data["episodes"])]
    body += [*_findings(diagnosis), *_failed(dataset, facts), *_built(dataset, len(ids))]
    if facts.rows:
        body += [*_geometries(facts), *_distributions(facts, diagnosis, regions)]
        body += [*_table(), _script(data)]
    write_output(out, page(f"{dataset.path.name}: letterset report", body))
    return diagnosis.model_copy(update={"problems": facts.unreadable})


def _row(meta: EpisodeMeta, view: ViewMeta) -> Row:
    height, width = view.geometry.source_shape
    motion = view.motion
    numbers: list[Any] = [""] * 3
    if motion:
        shares = (motion.zero_share, motion.visible_share)
        numbers = [round(motion.mean_px, 3), *(round(100 * share, 1) for share in shares)]
    aspect = round(_aspect(view), 3)
    shape, said = f"{height} x {width}", (meta.text or meta.task or "")[:200]
    return (meta.id, view.name, meta.length, shape, aspect, view.orientation, *numbers, said)


def _aspect(view: ViewMeta) -> float:
    height, width = view.geometry.source_shape
    numerator, denominator = view.geometry.sample_aspect_ratio
    return width * numerator / (height * denominator)


def _heading(dataset: Dataset, diagnosis: Diagnosis) -> str:
    verdict = "bad" if diagnosis.exit_code else "good"
    return (
        f"<h1>{text(dataset.path.name)}</h1>"
        f'<p class="{verdict}"><strong>{text(diagnosis.verdict)}</strong></p>'
    )


def _findings(diagnosis: Diagnosis) -> Iterator[str]:
    if not diagnosis.findings:
        return
    said = [f"{each.view}: {each.text}" if each.view else each.text for each in diagnosis.findings]
    items = "".join(
        f"<li{' class=bad' if finding.hurts else ''}>{text(line)}</li>"
        for finding, line in zip(diagnosis.findings, said, strict=True)
    )
    named = {name: TERMS[name] for name in TERMS if any(name in line for line in said)}
    yield f"<section><h2>Doctor</h2><ul>{items}</ul>{definitions(named)}</section>"


def _failed(dataset: Dataset, facts: _Facts) -> Iterator[str]:
    bad = [
        failed(line.path, line.reason, line.stage) for line in read_failures(dataset.path).values()
    ]
    bad += [failed(key, why) for key, why in facts.unreadable.items()]
    if bad:
        items = "".join(f"<li>{text(line)}</li>" for line in bad[:500])
        more = f"<p>and {len(bad) - 500} more</p>" if len(bad) > 500 else ""
        yield f'<section class="failures"><h2>{len(bad)} failed</h2><ul>{items}</ul>{more}'
        yield "</section>"


def _built(dataset: Dataset, looked_at: int) -> Iterator[str]:
    meta = dataset.meta
    part = "" if looked_at == len(dataset) else f" (numbers below from {looked_at} of them)"
    failures = count(len(read_failures(dataset.path)), "source")
    still = dataset.still_windows
    facts = {
        "Episodes": f"{len(dataset)}{part}, {failures} failed",
        "Frames": str(sum(line.frames for line in dataset.index.values())),
        "Built from": _source(meta),
        "Canvas": _canvas(meta),
        "Windows": "one for the whole of each episode"
        if meta.mode == "episode"
        else f"{count(meta.horizon, 'step')}, one every {count(meta.start_every, 'frame')}"
        + (f"; {still} that stand still are left out" if still else ""),
        "Points": f"{points(meta.queries.grid, meta.queries.region)}, {meta.queries.order}",
        "Tracker": f"{meta.tracker.name} {meta.tracker.version} ({meta.tracker.licence})",
        "Visible means": meta.tracker.visibility.rule,
        "Format": f"version {meta.format_version}, digest {meta.digest[:16]}",
        **_runs(dataset.path),
    }
    yield f"<section><h2>How it was built</h2>{definitions(facts)}</section>"


def _geometries(facts: _Facts) -> Iterator[str]:
    yield "<section><h2>Geometry</h2><div class=charts>"
    for (name, geometry), episodes in facts.geometries.most_common(MAX_GEOMETRIES):
        yield letterbox_drawing(geometry, f"{name}, {count(episodes, 'episode')}")
    hidden = len(facts.geometries) - MAX_GEOMETRIES
    yield "</div>" + (f"<p>and {hidden} more geometries</p>" if hidden > 0 else "") + "</section>"


def _canvas(meta: DatasetMeta) -> str:
    height, width = meta.img_shape
    shown = f"{height} x {width} (height x width)"
    if meta.config.get("geometry") == "resize_shorter":
        return f"each picture's own, for training at {shown}"
    return shown


def _source(meta: DatasetMeta) -> str:
    source = meta.config.get("source")
    if not isinstance(source, dict):
        return "older files, or parts of several datasets"
    kind = f"{source.get('kind')} source"
    return ", ".join([kind, *(f"{key} {source[key]}" for key in sorted(source.keys() - {"kind"}))])


def _runs(folder: Path) -> dict[str, str]:
    """Say how long the last finished run took."""
    paths = sorted((folder / "runs").glob("*.json"))
    if not paths:
        return {}
    try:
        last = json.loads(paths[-1].read_text(encoding="utf-8"))
        built, frames = count(last["built"], "episode"), count(last["frames"], "frame")
        said = f"{built} in {last['seconds']:.0f} s, {frames}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {}
    return {"Last run": f"{said}, {count(len(paths), 'run')} in all"}


def _distributions(facts: _Facts, diagnosis: Diagnosis, regions: Iterable[str]) -> Iterator[str]:
    """Draw what differs; what is the same everywhere is said in a line."""
    yield "<section><h2>Distributions</h2><div class=charts>"
    shapes = Counter("{} x {}".format(*view.geometry.source_shape) for view in facts.views)
    if len(shapes) > 1:
        yield bars("Source sizes (height x width)", dict(shapes.most_common(12)))
    motions = [view.motion for view in facts.views if view.motion]
    numbers: tuple[tuple[str, list[float], str], ...] = (
        ("Aspects (width / height)", [_aspect(view) for view in facts.views], ""),
        ("Episode lengths", [float(length) for length in facts.lengths], "frames"),
        ("Mean motion of a view", [motion.mean_px for motion in motions], "px/step"),
        ("Largest step of a view", [motion.max_px for motion in motions], "px"),
        ("Points seen", [100 * motion.visible_share for motion in motions], "%"),
    )
    same = {"Source size": f"{next(iter(shapes))} px"} if len(shapes) == 1 else {}
    for title, values, unit in numbers:
        if len({*values}) > 1:
            yield histogram(title, values, unit)
        elif values:
            same[title] = f"{values[0]:.4g} {unit}"
    for view in diagnosis.views:
        shares = (
            view.now.zero_class_share,
            view.now.saturated_share,
            view.now.clipped_share,
            view.padding_share,
            view.tail_share,
        )
        named = dict(zip(TERMS, shares, strict=True))
        yield bars(f"{view.name}: shares of steps and points", named, shares=True)
    yield from regions
    yield "</div>"
    if same:
        yield f"<h3>The same in all</h3>{definitions(same)}"
    if diagnosis.views:
        yield f"<h3>What the shares count</h3>{definitions(TERMS)}"
    yield "</section>"


def point_regions(dataset: Dataset, ids: Iterable[str]) -> dict[str, np.ndarray]:
    """Return by view the share of points in each ninth of the canvas, (3, 3), row by row.

    Points off the canvas count for the ninth they are nearest to.
    """
    counts: dict[str, np.ndarray] = {}
    for episode_id in ids:
        for name, view in dataset[episode_id].views.items():
            height, width = view.geometry.img_shape
            ninths = counts.setdefault(name, np.zeros((3, 3)))
            for window in spread(len(view.starts), REGION_WINDOWS):
                places = np.asarray(view.tracks[window]).reshape(-1, 2) * (3 / width, 3 / height)
                column, row = np.clip(np.floor(places), 0, 2).astype(int).T
                np.add.at(ninths, (row, column), 1)
    return {name: ninths / max(ninths.sum(), 1) for name, ninths in counts.items()}


def _player_data(
    dataset: Dataset, ids: list[str], budget_bytes: int, problems: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the player's episodes, in order, until ``budget_bytes`` of page are used up.

    Those of frames alone, without tracks, are left out, and damaged ones, of which ``problems``
    then tells by id.
    """
    episodes: list[dict[str, Any]] = []
    spent = 0
    for found in (dataset[episode_id] for episode_id in ids):
        if not has_windows(found.meta.views[0]):
            continue
        try:
            episode = _player_episode(found)
        except DatasetError as error:
            problems[found.meta.id] = str(error)
            continue
        spent += sum(
            len(view["tracks"]) + len(view["vis"]) + sum(map(len, view["frames"]))
            for view in episode["views"]
        )
        if episodes and spent > budget_bytes:
            break
        episodes.append(episode)
    return episodes


def _player_section(episodes: list[dict[str, Any]]) -> Iterator[str]:
    """Write the player's part of the page; nothing where no episode has tracks to play."""
    if not episodes:
        return
    options = "".join(f"<option>{text(episode['id'])}</option>" for episode in episodes)
    yield f"""<section id="player"><h2>Player</h2>
<div class="controls">
<label>Episode <select id="episode">{options}</select></label>
<label>View <select id="view"></select></label>
<button id="play" type="button">Play</button>
<label><input type="checkbox" id="source"> source pixels</label>
<label><input type="checkbox" id="bars" checked> pad borders</label>
<label><input type="checkbox" id="trails" checked> trails</label>
<input type="range" id="scrub" min="0" value="0" aria-label="Place on the timeline">
</div>
<p id="when" aria-live="off"></p>
<div id="stage"></div>
<p id="readout" role="status"></p>
<p>Colours are grid rows; hollow points are occluded. On a picture: arrow keys scrub, space plays,
N and P follow the next and the previous point. Of each episode the first {PLAYER_FRAMES} frames are
here.</p></section>"""


def _player_episode(episode: EpisodeData) -> dict[str, Any]:
    meta = episode.meta
    shown = min(meta.length, PLAYER_FRAMES)
    first = next(iter(episode.views.values()))
    starts = np.asarray(first.starts)
    rows = [row for row in covering_rows(starts, meta.horizon, meta.length) if starts[row] < shown]
    steps = min(meta.horizon, shown) if meta.mode == "episode" else meta.horizon
    return {
        "id": meta.id,
        "length": meta.length,
        "horizon": steps,
        "starts": [int(starts[row]) for row in rows],
        "views": [
            _player_view(name, view, rows, steps, shown) for name, view in episode.views.items()
        ],
    }


def _player_view(
    name: str, view: ViewData, rows: list[int], steps: int, shown: int
) -> dict[str, Any]:
    geometry = view.geometry
    tracks_xy = np.stack([np.asarray(view.tracks[row, :steps]) for row in rows])
    vis = np.stack([np.asarray(view.vis[row, :steps]) for row in rows])
    frames = view.frames
    # A window that begins within the shown part runs on after it.
    count = 0 if frames is None else min(len(frames), shown + steps)
    return {
        "name": name,
        "img_shape": geometry.img_shape,
        "source_shape": geometry.source_shape,
        "content_box": geometry.content_box,
        "scale_xy": geometry.affine.scale_xy,
        "offset_xy": geometry.affine.offset_xy,
        "count": tracks_xy.shape[2],
        "tracks": base64_of(tracks_xy.astype("<f4")),
        "vis": base64_of((vis > 0.5).astype(np.uint8)),
        "frames": [jpeg_base64(np.asarray(frames[k]), PLAYER_JPEG_QUALITY) for k in range(count)],
    }


def _table() -> Iterator[str]:
    heads = "".join(
        f'<th scope="col"><button type="button">{name}</button></th>' for name in COLUMNS
    )
    yield f"""<section><h2>Episodes</h2>
<p>Motion is of visible points, over all windows, as they were built: px/step their mean step,
still % their steps under half a pixel. <span id="same"></span></p><div class="controls">
<label>Search <input type="search" id="search"></label><span id="found" role="status"></span></div>
<div class="scroll" tabindex="0" role="region" aria-label="Table of episodes">
<table id="episodes"><thead><tr>{heads}</tr></thead><tbody></tbody></table>
</div>
</section>"""


def _script(data: dict[str, Any]) -> str:
    code = (files("builder.report") / "report.js").read_text(encoding="utf-8")
    # Inside <script> nothing may look like its end.
    payload = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<script type="application/json" id="data">{payload}</script>\n<script>\n{code}</script>'
    )
