"""An episode as a Rerun recording: frames, points and trails on a timeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rerun as rr

from builder.core.errors import OutputError
from builder.dataset.episodes import Dataset
from builder.report.draw import row_colors
from builder.report.moments import moments
from builder.stores.atomic import make_place

TRAIL = 12


def render_rerun(dataset: Dataset, episode_id: str, out: Path) -> int:
    """Write all views of an episode to an .rrd file; returns the number of frames logged.

    Rerun's 2D space has its origin at the outer corner of the top-left pixel, as ours has, so
    points go in unchanged.  Raises KeyError for an unknown episode, OutputError when ``out``
    cannot be written.
    """
    episode = dataset[episode_id]
    colors = row_colors(dataset.meta.queries)
    make_place(out)
    recording = rr.RecordingStream("letterset")
    try:
        recording.save(out)
    except RuntimeError as error:
        raise OutputError(f"cannot write {out}: {error}") from None
    count = 0
    for name, view in episode.views.items():
        for moment in moments(episode, view):
            recording.set_time("frame", sequence=moment.frame)
            recording.set_time("time", duration=moment.seconds)
            recording.log(name, rr.Image(moment.frame_rgb))
            seen = moment.vis[-1].astype(bool)
            now_xy = moment.tracks_xy[-1]
            recording.log(f"{name}/visible", rr.Points2D(now_xy[seen], colors=colors[seen]))
            recording.log(f"{name}/occluded", rr.Points2D(now_xy[~seen], colors=colors[~seen] // 2))
            trails = np.swapaxes(moment.tracks_xy[-TRAIL:], 0, 1)
            recording.log(f"{name}/trails", rr.LineStrips2D(list(trails), colors=colors))
            count += 1
    recording.flush()
    return count
