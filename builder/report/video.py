"""Tracks over letterboxed frames as an MP4 to look at."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.core.errors import OutputError
from builder.dataset.episodes import Dataset
from builder.report.draw import draw_geometry, draw_tracks, enlarge, row_colors
from builder.report.moments import moments
from builder.stores.atomic import make_place

SIDE_PX = 512
DEFAULT_FPS = 10.0


def render_video(dataset: Dataset, episode_id: str, view_name: str, out: Path) -> int:
    """Write one view of an episode as H.264; returns the number of frames.

    Raises KeyError for an unknown episode or view, DatasetError where there are no tracks and
    OutputError when ``out`` cannot be written.
    """
    episode = dataset[episode_id]
    view = episode.views[view_name]
    colors = row_colors(dataset.meta.queries)
    zoom = max(1.0, SIDE_PX / max(view.geometry.img_shape))
    rate = Fraction(view.meta.fps or DEFAULT_FPS).limit_denominator(1000)
    make_place(out)
    count, shown = 0, moments(episode, view)
    try:
        with av.open(f"file:{out}", "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "18"})
            # 4:2:0 needs even sides.
            height, width = (round(side * zoom) // 2 * 2 for side in view.geometry.img_shape)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for moment in shown:
                picture = draw_geometry(enlarge(moment.frame_rgb, zoom), view.geometry, zoom)
                picture = draw_tracks(picture, moment.tracks_xy, moment.vis, colors, zoom=zoom)
                picture = np.ascontiguousarray(picture[:height, :width])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode())
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
    return count
