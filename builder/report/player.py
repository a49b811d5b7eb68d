"""The data behind the report's player: sampled episodes, small enough for one page."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from builder.core.errors import DatasetError
from builder.dataset.array_checks import has_windows
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.report.page import base64_of, jpeg_base64, text

MAX_FRAMES = 96
JPEG_QUALITY = 80


def player_data(
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
            episode = _episode(found)
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


def player_section(episodes: list[dict[str, Any]]) -> Iterator[str]:
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
N and P follow the next and the previous point. Of each episode the first {MAX_FRAMES} frames are
here.</p></section>"""


def _episode(episode: EpisodeData) -> dict[str, Any]:
    meta = episode.meta
    shown = min(meta.length, MAX_FRAMES)
    first = next(iter(episode.views.values()))
    starts = np.asarray(first.starts)
    # Windows back to back, or as little over one another as passes every frame.
    step = max(1, meta.horizon // meta.start_every)
    rows = [row for row in range(0, len(starts), step) if starts[row] < shown]
    steps = min(meta.horizon, shown) if meta.mode == "episode" else meta.horizon
    return {
        "id": meta.id,
        "length": meta.length,
        "horizon": steps,
        "starts": [int(starts[row]) for row in rows],
        "views": [_view(name, view, rows, steps, shown) for name, view in episode.views.items()],
    }


def _view(name: str, view: ViewData, rows: list[int], steps: int, shown: int) -> dict[str, Any]:
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
        "frames": [jpeg_base64(np.asarray(frames[k]), JPEG_QUALITY) for k in range(count)],
    }
