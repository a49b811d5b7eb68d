"""BridgeData in its raw form: ``traj*/images<k>/im_<t>.jpg`` and pickled states and actions."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.paths import safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.images import image_stream
from builder.inputs.listing import UNREADABLE, natural_key, walk
from builder.inputs.pickled import load_pickle
from builder.inputs.sidecars import read_text
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection

_CAMERA = re.compile(r"images\d+", re.ASCII)
_FILES = ("lang.txt", "obs_dict.pkl", "policy_out.pkl")


class BridgeConfig(Selection):
    """Settings of the ``bridge`` source."""

    recorded_fps: float = Field(default=5.0, gt=0, description="of the images")


class Bridge(BaseSource[BridgeConfig]):
    """Folders that hold ``images0``, ``images1``, ... ; depth images are left out.

    Numeric arrays of ``obs_dict.pkl`` pass through, as constants where they have no row per
    image, and ``actions`` of ``policy_out.pkl``.  There is one action fewer than images: its
    last row is NaN.
    """

    Config: ClassVar = BridgeConfig

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for folders of a camera's images beside files of Bridge."""
        cameras = any(_CAMERA.fullmatch(os.path.basename(each)) for each in contents.folders)
        if cameras and contents.names.intersection(_FILES):
            return Evidence("folders named images0 beside pickles or lang.txt", strength=3)
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the trajectories in natural order.  Raises SourceError when there is none."""
        trajectories = (
            above if _CAMERA.fullmatch(own) else folder
            for folder, names in walk(self.path)
            for above, own in [os.path.split(folder)]
            if _CAMERA.fullmatch(own) or UNREADABLE in names
        )
        return self.refs_of_folders(trajectories, "no folder named images0 found")

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one trajectory.  Raises SourceError naming what is wrong with it."""
        folder = self.path / ref.locator
        try:
            inside = os.listdir(folder)
        except OSError as error:
            raise SourceError.at(folder, f"{error.strerror}") from None
        cameras = sorted(filter(_CAMERA.fullmatch, inside), key=natural_key)
        used = [name for name in _FILES if name in inside]
        views = {}
        for camera, view in safe_names(cameras).items():
            fps = self._config.recorded_fps
            views[view], ends = image_stream(folder / camera, fps, self._limits)
            used += [os.path.join(camera, image) for image in ends]
        if not views:
            raise SourceError.at(folder, "no folder named images0 in it")
        length = next(iter(views.values())).info.num_frames
        arrays, constants = self._arrays(folder, inside, length)
        yield Episode(
            views=views,
            arrays=arrays,
            constants=constants,
            files=fingerprints(self.path, (os.path.join(ref.locator, name) for name in used)),
            text=_language(folder / "lang.txt") if "lang.txt" in inside else None,
        )

    def _arrays(
        self, folder: Path, inside: list[str], length: int
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the arrays with a row per image, and those of other lengths."""
        arrays: dict[str, np.ndarray] = {}
        constants: dict[str, np.ndarray] = {}
        if "obs_dict.pkl" in inside:
            path = folder / "obs_dict.pkl"
            states = load_pickle(path, self._limits)
            if not isinstance(states, dict):
                raise SourceError.at(path, "expected a dict of arrays")
            names = safe_names(map(str, states))
            for key, value in states.items():
                array = _numbers(value)
                if array is not None:
                    group = arrays if array.shape[:1] == (length,) else constants
                    group[names[str(key)]] = array
        if "policy_out.pkl" in inside:
            path = folder / "policy_out.pkl"
            arrays["actions"] = _actions(path, load_pickle(path, self._limits), length)
        return arrays, {name: each for name, each in constants.items() if name not in arrays}


def _actions(path: Path, steps: Any, length: int) -> np.ndarray:
    try:
        rows = [step["actions"] if isinstance(step, dict) else step for step in steps]
        actions = np.array(rows, np.float64)
    except (TypeError, KeyError, ValueError) as error:
        raise SourceError.at(path, f"it holds no actions ({error!r})") from None
    if actions.ndim != 2 or len(actions) not in (length - 1, length):
        raise SourceError.at(path, f"actions {actions.shape} do not fit {length} images")
    missing = np.full((length - len(actions), actions.shape[1]), np.nan)
    return np.concatenate([actions, missing])


def _numbers(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    if array.dtype.kind not in "biuf":
        return None
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _language(path: Path) -> str | None:
    lines = (read_text(path) or "").splitlines()
    return safe_text("\n".join(line for line in lines if "confidence" not in line))
