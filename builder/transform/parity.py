"""Plays an episode's source as a live camera, and compares its windows with those of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from typing import Any

import av
import numpy as np

from builder.build.backends import open_source_part
from builder.build.resume import source_change
from builder.build.run_log import last_limits
from builder.canvas.windows import window_starts
from builder.core.errors import ConfigError
from builder.core.messages import count
from builder.core.result import Result
from builder.dataset.episodes import Dataset
from builder.inference.live import LiveWindows
from builder.inputs.streams import Frame, FrameStream
from builder.sources.clips import clip_of, whole_of
from builder.sources.selected import Selected
from builder.stores.codecs import U16_SCALE
from builder.training.windows import WindowDataset
from builder.transform.compare_source import recorded_source
from builder.transform.export.common import only
from builder.transform.export.inference import inference_meta
from builder.transform.track_layer import episode_refs


@dataclass
class Parity(Result):
    """How live windows compare with those of training.

    Distances are in pixels of ``img_shape``, over all steps and points.  ``missing`` are windows
    of training that the camera did not give.
    """

    episode: str
    windows: int = 0
    equal: int = 0
    missing: int = 0
    extra: int = 0
    """Windows that the camera gave, and training left out since they stand still."""
    mean_px: float = 0.0
    seen_px: float = 0.0
    """The mean over points that are visible in both: a lost point may go anywhere."""
    max_px: float = 0.0
    visibility_differs: float = 0.0
    """Share of points and steps."""
    tolerance_px: float = 0.0
    failures: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Say how many windows have the same bits, and how far the others are off."""
        same = f"{self.equal} of {count(self.windows, 'window')} equal bit for bit"
        if self.equal < self.windows:
            same += (
                f"; points are {self.mean_px:.3g} px apart on average, those that both see "
                f"{self.seen_px:.3g} px, none more than {self.max_px:.3g} px, and "
                f"{self.visibility_differs:.2%} of the visibility differs"
            )
        return f"episode {self.episode}: {same}"


def parity(
    path: Path | str,
    episode: str | None = None,
    source: str | None = None,
    *,
    tracks: str | None = None,
    rgb: bool = False,
    tracker: Mapping[str, Any] | None = None,
    tolerance_px: float = 0.0,
    on_windows: Callable[[int, int], None] = lambda done, total: None,
) -> Parity:
    """Play the source of one episode (default: the first) through ``LiveWindows``.

    ``source`` is where the videos are, ``tracks`` a layer's tracks to compare with.  With ``rgb``
    frames are first made RGB by FFmpeg's default conversion, as a camera's driver makes them.
    Windows that differ by more than ``tolerance_px``, or do not come, are failures; tracks stored
    as u16 may differ by the rounding they were stored with.
    Raises ConfigError for an episode or source that is not there, and what the source raises.
    """
    dataset = Dataset(Path(path), tracks=tracks)
    if episode is not None and episode not in dataset.index:
        raise ConfigError(f"{path} has no episode {episode!r}; letterset inspect lists them")
    one = only(dataset, [episode or dataset.ids[0]])
    result = Parity(one.ids[0], tolerance_px=tolerance_px)
    data = one[one.ids[0]]
    if any(view.meta.arrays["tracks"].codec == "u16" for view in data.views.values()):
        result.tolerance_px += U16_SCALE
    meta = inference_meta(one)
    recorded = meta.live is not None and meta.live.fps is not None
    try:
        live = LiveWindows(meta, every_frame=not recorded, wait=True, tracker=tracker)
    except ValueError as error:
        raise ConfigError(f"{path} cannot go live: {error}") from None
    training = WindowDataset(one, views=[view.name for view in meta.views], tail="exclude")
    result.windows = len(training)
    scale = np.array(meta.img_shape) / 2
    sums = np.zeros(3)
    got = seen = 0
    starts = {start: index for index, start in enumerate(_starts(one, result.windows))}
    for sample in _played(live, one, source, rgb):
        on_windows(live.counts.windows, result.windows)
        index = starts.get(sample["t"])
        if index is None:
            if sample["t"] > max(starts):
                break  # beyond source.max_frames
            result.extra += 1
            continue
        got += 1
        wanted = training[index]
        traj, vis = (wanted[name].numpy() for name in ("traj", "vis"))
        apart = np.linalg.norm((sample["traj"] - traj) * scale, axis=-1)
        differs, both = sample["vis"] != vis, (sample["vis"] * vis) > 0
        result.equal += bool(np.array_equal(sample["traj"], traj) and not differs.any())
        result.max_px = max(result.max_px, float(apart.max()))
        sums += apart.mean(), differs.mean(), apart[both].sum()
        seen += int(both.sum())
    result.missing = result.windows - got
    result.mean_px, result.visibility_differs = (float(each) for each in sums[:2] / max(1, got))
    result.seen_px = float(sums[2] / max(1, seen))
    result.failures = _failures(result, exact=not rgb)
    return result


def _starts(one: Dataset, windows: int) -> list[int]:
    """Return the start frames of an episode's first windows."""
    runs = one.skipped_windows.get(0, ())
    starts = window_starts(int(one.index.lengths[0]), one.meta.start_every, runs)
    return [int(start) for start in starts[:windows]]


def _failures(result: Parity, exact: bool) -> dict[str, str]:
    failures = {}
    if result.missing:
        failures[result.episode] = f"{count(result.missing, 'window')} did not come"
    elif exact and result.extra:
        failures[result.episode] = f"{count(result.extra, 'window')} came that training left out"
    elif exact and result.max_px > result.tolerance_px:
        failures[result.episode] = (
            f"live windows differ from training by up to {result.max_px:.3g} px, allowed are "
            f"{result.tolerance_px:.3g}"
        )
    return failures


def _played(
    live: LiveWindows, one: Dataset, source: str | None, rgb: bool
) -> Iterator[dict[str, Any]]:
    """Push the frames of all views in the order of their times; yields the windows."""
    source = source or recorded_source(one.path)
    if source is None:
        raise ConfigError(f"{one.path} does not record where its videos are: give --source")
    part, refs = episode_refs(one, source)
    [episode_id] = one.ids
    if part is None or episode_id not in refs:
        path = one[episode_id].meta.source.path
        raise ConfigError(f"the source {source} has no {path}, from which {episode_id} was built")
    if change := source_change(one[episode_id].meta, Path(part.path)):
        raise ConfigError(f"the source is not what the dataset was built from: {change}")
    opened = open_source_part(part, last_limits(one.path))
    # What is picked of it is for the live path to decide.
    videos = opened.source if isinstance(opened, Selected) else opened
    start, end = (part.settings.get(f"{name}_seconds") for name in ("start", "end"))
    ref = refs[episode_id]
    if clip_of(ref):
        times = one[episode_id].views[live.reference_view].timestamps
        start, end = times[0], np.nextafter(times[-1], np.inf)
    with videos.open(whole_of(ref)) as episode:
        names = [view.name for view in live.meta.views]
        streams = [_named(name, episode.views[name]) for name in names]
        for seconds, _, name, image in merge(*streams, key=lambda each: each[:2]):
            if (start or 0.0) <= seconds < (end or np.inf) or name != live.reference_view:
                shown = image.to_ndarray(format="rgb24") if rgb and _is_video(image) else image
                yield from live.push({name: shown}, seconds)
        yield from live.finish()


def _named(name: str, stream: FrameStream) -> Iterator[tuple[float, str, str, Any]]:
    frame: Frame
    for frame in stream:
        yield frame.seconds, name, name, frame.image


def _is_video(image: Any) -> bool:
    return isinstance(image, av.VideoFrame)
