"""What of a dataset goes where in a LeRobot v3.0 dataset, and what that cannot hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from builder.dataset.episodes import Dataset
from builder.transform.export.common import LEFT_OUT, chosen_views, refuse, refused_views
from schemas.dataset import TEXT_INDEX, EpisodeMeta

ACTIONS = ("action", "actions")
STATES = ("observation.state", "proprioception", "states")
"""Arrays that become ``action`` and ``observation.state``: the first of these that is there."""

COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
IMAGES = "observation.images."


@dataclass(frozen=True)
class Plan:
    """What goes where.

    ``views`` are our names by what follows ``observation.images.``, ``arrays`` our names by the
    names of their features; ``left_out`` are the arrays that no feature holds.
    """

    rate: Fraction
    views: dict[str, str]
    arrays: dict[str, str]
    features: dict[str, dict[str, Any]]
    left_out: list[str]


def make_plan(dataset: Dataset, views: Sequence[str] | None) -> Plan:
    """Decide what goes where; raises ConfigError listing everything LeRobot cannot hold."""
    names = chosen_views(dataset, views)
    # Views that come from LeRobot have such names already.
    keys = {name.removeprefix(IMAGES): name for name in names}
    refused = _refused(dataset, names)
    if len(keys) < len(names):
        refused.append(f"views {names}: two of them would have the same name")
    rate, irregular = (Fraction(1), []) if refused else _rate(dataset, names[0])
    features = _view_features(dataset, keys, rate)
    arrays, lost = _arrays(dataset, {*features, *COUNTERS})
    refuse("LeRobot's layout", [*refused, *irregular, *lost])
    rows = _per_frame(dataset[dataset.ids[0]].meta)
    for key, name in arrays.items():
        dtype, shape = rows[name]
        features[key] = {"dtype": dtype, "shape": list(shape), "names": None}
    for key in COUNTERS:
        dtype = "float32" if key == "timestamp" else "int64"
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    every = {name for episode in dataset for name in episode.meta.arrays} - {TEXT_INDEX}
    return Plan(rate, keys, arrays, features, sorted(every - set(arrays.values())))


def _refused(dataset: Dataset, names: list[str]) -> list[str]:
    meta, refused = dataset.meta, []
    if meta.mode != "reinit":
        refused.append("whole-episode tracks: a row holds the window that starts at its frame")
    elif meta.has_tracks and meta.start_every != 1:
        refused.append(f"start_every {meta.start_every}: every row holds a window")
    if dataset.skipped_windows:
        refused.append(f"{LEFT_OUT}: every row holds a window")
    if any(side % 2 for side in meta.img_shape):
        refused.append(f"img_shape {meta.img_shape}: H.264 with 4:2:0 colours needs even sides")
    for episode in dataset:
        refused += refused_views(dataset, episode, names, "every row has all")
    return refused


def _arrays(dataset: Dataset, taken: set[str]) -> tuple[dict[str, str], list[str]]:
    """Return arrays by feature, and why actions or states cannot be held."""
    each = {episode.id: _per_frame(episode.meta) for episode in dataset}
    names = {name for rows in each.values() for name in rows}
    kept, refused = {}, []
    for key, candidates in (("action", ACTIONS), ("observation.state", STATES)):
        for name in [name for name in candidates if name in names][:1]:
            kept[key] = name
            found = {rows.get(name): episode_id for episode_id, rows in each.items()}
            if len(found) > 1:
                listed = ", ".join(f"{rows} in {episode_id}" for rows, episode_id in found.items())
                refused.append(f"{name} whose rows differ: {listed}")
    for name in sorted(names - taken - {*kept, *kept.values()}):
        if len({rows.get(name) for rows in each.values()}) == 1:
            kept[name] = name
    return kept, refused


def _per_frame(meta: EpisodeMeta) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of a row of the arrays that have one row per frame."""
    return {
        name: (np.dtype(array.dtype).name, tuple(array.shape[1:]) or (1,))
        for name, array in meta.arrays.items()
        if name != TEXT_INDEX
        and meta.per_frame(name)
        and 0 not in array.shape
        and len(array.shape) <= 6
    }


def _rate(dataset: Dataset, name: str) -> tuple[Fraction, list[str]]:
    """Return frames per second, of the longest episode, and the episodes with another clock."""
    longest = max(dataset.ids, key=lambda episode_id: dataset.index[episode_id].length)
    view = dataset[longest].views[name]
    times = np.asarray(view.timestamps)
    rate = Fraction(view.meta.fps or 1.0).limit_denominator(1001)
    if len(times) > 1 and not (view.meta.fps and rate and _fits(times, rate)):
        seconds = float(times[-1] - times[0])
        rate = Fraction((len(times) - 1) / seconds if seconds > 0 else 0).limit_denominator(1001)
    refused = [
        f"episode {episode.id}: its frames do not come at {float(rate):.6g} per second, to a "
        f"quarter of a frame, as those of {longest} should"
        for episode in dataset
        if not rate or not _fits(np.asarray(episode.views[name].timestamps), rate)
    ]
    return rate, refused


def _fits(times: np.ndarray, rate: Fraction) -> bool:
    """Tell whether frame k comes at k / rate after the first, to a quarter of a period."""
    ticks = (times - times[0]) * float(rate)
    return bool(np.abs(ticks - np.arange(len(times))).max() <= 0.25)


def fps_number(rate: Fraction) -> int | float:
    """Return the rate as LeRobot writes it: whole when it is."""
    return rate.numerator if rate.denominator == 1 else float(rate)


def _view_features(
    dataset: Dataset, views: dict[str, str], rate: Fraction
) -> dict[str, dict[str, Any]]:
    height, width = dataset.meta.img_shape
    info = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps_number(rate),
        "video.channels": 3,
        "has_audio": False,
    }
    names = ["height", "width", "channels"]
    video = {"dtype": "video", "shape": [height, width, 3], "names": names, "info": info}
    features: dict[str, dict[str, Any]] = {}
    for key in views:
        features[IMAGES + key] = video
        if dataset.meta.has_tracks:
            features |= _track_features(dataset, key)
    return features


def _track_features(dataset: Dataset, key: str) -> dict[str, dict[str, Any]]:
    horizon, points = dataset.meta.horizon, dataset.meta.queries.num_points
    info = {
        "unit": f"px of {IMAGES}{key}, continuous: the centre of the first pixel is (0.5, 0.5)",
        "steps": "step h is at frame_index + h; past the episode's last frame it is padding",
    }
    # Flat, since lerobot-doctor breaks at more axes where values are constant, and whatever is
    # asked for is visible at step 0.
    flat = {"layout": f"(step, point): reshape to ({horizon}, {points}); 1 is visible"}
    return {
        f"observation.tracks.{key}": {
            "dtype": "float32",
            "shape": [horizon, points, 2],
            "names": ["step", "point", "xy"],
            "info": info,
        },
        f"observation.vis.{key}": {
            "dtype": "uint8",
            "shape": [horizon * points],
            "names": None,
            "info": flat,
        },
    }
