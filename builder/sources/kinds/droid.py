"""DROID in its raw form: ``metadata_*.json``, ``trajectory.h5`` and one MP4 per camera."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.paths import safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.hdf5 import SafeHdf5, open_hdf5
from builder.inputs.listing import UNREADABLE, names_in, walk
from builder.inputs.sidecars import read_json
from builder.inputs.streams import FrameStream, PickedStream
from builder.inputs.video import VideoStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Seconds, Selection

TRAJECTORY = "trajectory.h5"
_RECORDINGS = os.path.join("recordings", "MP4")
_GROUPS = ("action", "observation/robot_state", "observation/camera_extrinsics")
_CLOCK = "observation/timestamp/control/step_start"
_CAMERAS = ("wrist", "ext1", "ext2")


class DroidConfig(Selection):
    """Settings of the ``droid`` source."""

    tolerance_seconds: Seconds | None = Field(
        default=0.1, description="recordings are often a frame short of the trajectory"
    )
    recorded_fps: float = Field(default=15.0, gt=0, description="without control timestamps")


class Droid(BaseSource[DroidConfig]):
    """Folders with a ``trajectory.h5``; frame i of a recording belongs to step i.

    Views are called by their role in the metadata (wrist, ext1, ext2), else by serial number;
    stereo recordings are left out.  The clock is the trajectory's, counted from its start.
    """

    Config: ClassVar = DroidConfig

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for DROID's trajectory files."""
        if contents.is_folder and TRAJECTORY in contents.names:
            return Evidence(f"folders with a {TRAJECTORY}", strength=3)
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the folders in natural order.  Raises SourceError when there is none."""
        wanted = {TRAJECTORY, UNREADABLE}
        folders = (folder for folder, names in walk(self.path) if wanted.intersection(names))
        return self.refs_of_folders(folders, f"no folder with a {TRAJECTORY} found")

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode.  Raises SourceError naming what is wrong with it."""
        folder = self.path / ref.locator
        notes = names_in(folder, (".json",))
        described = self._describe(folder / notes[0]) if notes else {}
        recordings = [
            name for name in names_in(folder / _RECORDINGS, (".mp4",)) if "stereo" not in name
        ]
        if not recordings:
            raise SourceError.at(folder / _RECORDINGS, "there is no recording")
        roles = {str(described.get(f"{role}_cam_serial")): role for role in _CAMERAS}
        serials = [os.path.splitext(name)[0] for name in recordings]
        names = safe_names([roles.get(serial, serial) for serial in serials])
        places = {
            view: os.path.join(ref.locator, _RECORDINGS, recording)
            for view, recording in zip(names.values(), recordings, strict=True)
        }
        used = [os.path.join(ref.locator, name) for name in (*notes[:1], TRAJECTORY)]
        with open_hdf5(folder / TRAJECTORY, self._limits) as file:
            arrays, clock = self._arrays(file), self._clock(file)
            yield Episode(
                views=Lazy.of(partial(self._view, clock), {v: (v, places[v]) for v in places}),
                arrays=Lazy(arrays),
                files=fingerprints(self.path, used),
                view_files=self.files_of_views(places),
                text=safe_text(str(described.get("current_task") or "")),
                clock=clock,
            )

    def _describe(self, path: Path) -> dict[str, Any]:
        described = read_json(path)
        return described if isinstance(described, dict) else {}

    def _arrays(self, file: SafeHdf5) -> dict[str, Callable[[], np.ndarray]]:
        paths = _paths(file)
        names = (path.removeprefix("observation/").replace("/", ".") for path in paths)
        return file.arrays(dict(zip(paths, names, strict=True)))

    def _clock(self, file: SafeHdf5) -> np.ndarray:
        group, _, key = _CLOCK.rpartition("/")
        if key not in file.keys(group):
            shapes = [found[0] for path in _paths(file) if (found := file.described(path))]
            lengths = Counter(shape[0] for shape in shapes if shape)
            (steps, times), *others = [*lengths.most_common(2), (0, 0)]
            # Most have a row per step; one odd array is left out where it is read.
            if not steps or any(each == times for _, each in others):
                raise file.error("action", f"its arrays have several lengths: {sorted(lengths)}")
            return np.arange(steps) / self._config.recorded_fps
        milliseconds = file.array(_CLOCK).astype(np.float64)
        if milliseconds.ndim != 1 or not len(milliseconds) or (np.diff(milliseconds) <= 0).any():
            raise file.error(_CLOCK, "its times do not ascend")
        return (milliseconds - milliseconds[0]) / 1000

    def _view(self, clock: np.ndarray, named: tuple[str, str]) -> FrameStream:
        view, place = named
        path, turn = self.path / place, self._config.turned_by_hand(view)
        stream = VideoStream(path, limits=self._limits, orientation=turn)
        count = stream.info.num_frames
        if count > len(clock):
            raise SourceError.at(path, f"{count} frames for {len(clock)} steps of the trajectory")
        rate = (len(clock) - 1) / clock[-1] if clock[-1] > 0 else None
        return PickedStream(stream, np.arange(count), seconds=clock[:count], fps=rate)


def _paths(file: SafeHdf5) -> list[str]:
    paths = [f"{group}/{key}" for group in _GROUPS for key in file.keys(group)]
    return [path for path in paths if not file.is_group(path)]
