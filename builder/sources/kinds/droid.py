"""DROID in its raw form: ``metadata_*.json``, ``trajectory.h5`` and one MP4 per camera."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.paths import safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.hdf5 import SafeHdf5, open_hdf5
from builder.inputs.listing import UNREADABLE, names_in, read_small, walk
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
_JSON_BYTES = 1 << 20


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
        with open_hdf5(folder / TRAJECTORY, self._limits) as file:
            arrays = self._arrays(file)
            clock = self._clock(file, arrays)
        recordings = [
            name for name in names_in(folder / _RECORDINGS, (".mp4",)) if "stereo" not in name
        ]
        if not recordings:
            raise SourceError.at(folder / _RECORDINGS, "there is no recording")
        roles = {str(described.get(f"{role}_cam_serial")): role for role in _CAMERAS}
        serials = [os.path.splitext(name)[0] for name in recordings]
        names = safe_names([roles.get(serial, serial) for serial in serials])
        used = [*notes[:1], TRAJECTORY, *(os.path.join(_RECORDINGS, name) for name in recordings)]
        yield Episode(
            views={
                view: self._view(folder / _RECORDINGS / recording, view, clock)
                for view, recording in zip(names.values(), recordings, strict=True)
            },
            arrays=arrays,
            files=fingerprints(self.path, (os.path.join(ref.locator, name) for name in used)),
            text=safe_text(str(described.get("current_task") or "")),
            clock=clock,
        )

    def _describe(self, path: Path) -> dict[str, Any]:
        try:
            described = json.loads(read_small(path, _JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise SourceError.at(path, f"not JSON ({error})") from None
        return described if isinstance(described, dict) else {}

    def _arrays(self, file: SafeHdf5) -> dict[str, np.ndarray]:
        paths = [f"{group}/{key}" for group in _GROUPS for key in file.keys(group)]
        paths = [path for path in paths if not file.is_group(path)]
        names = (path.removeprefix("observation/").replace("/", ".") for path in paths)
        return file.arrays(dict(zip(paths, names, strict=True)))

    def _clock(self, file: SafeHdf5, arrays: dict[str, np.ndarray]) -> np.ndarray:
        group, _, key = _CLOCK.rpartition("/")
        if key not in file.keys(group):
            lengths = {len(array) for array in arrays.values() if array.ndim}
            if len(lengths) != 1:
                raise file.error("action", f"its arrays have several lengths: {sorted(lengths)}")
            return np.arange(lengths.pop()) / self._config.recorded_fps
        milliseconds = file.array(_CLOCK).astype(np.float64)
        if milliseconds.ndim != 1 or not len(milliseconds) or (np.diff(milliseconds) <= 0).any():
            raise file.error(_CLOCK, "its times do not ascend")
        return (milliseconds - milliseconds[0]) / 1000

    def _view(self, path: Path, view: str, clock: np.ndarray) -> FrameStream:
        turn = self._config.turned_by_hand(view)
        stream = VideoStream(path, limits=self._limits, orientation=turn)
        count = stream.info.num_frames
        if count > len(clock):
            raise SourceError.at(path, f"{count} frames for {len(clock)} steps of the trajectory")
        rate = (len(clock) - 1) / clock[-1] if clock[-1] > 0 else None
        return PickedStream(stream, np.arange(count), seconds=clock[:count], fps=rate)
