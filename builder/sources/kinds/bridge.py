"""BridgeData in its raw form: ``traj*/images<k>/im_<t>.jpg`` and pickled states and actions."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import DecodeError, SourceError
from builder.core.lazy import Lazy
from builder.core.paths import safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.image_names import MISSING_IMAGES, MissingImages, image_names
from builder.inputs.images import ends_of, image_stream
from builder.inputs.listing import UNREADABLE, natural_key, walk
from builder.inputs.pickled import load_pickle
from builder.inputs.sidecars import read_text
from builder.inputs.streams import FrameStream
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection

_CAMERA = re.compile(r"images\d+", re.ASCII)
_FILES = ("lang.txt", "obs_dict.pkl", "policy_out.pkl")


class BridgeConfig(Selection):
    """Settings of the ``bridge`` source."""

    recorded_fps: float = Field(default=5.0, gt=0, description="of the images")
    missing_images: MissingImages = Field(default="error", description=MISSING_IMAGES)


class Bridge(BaseSource[BridgeConfig]):
    """Folders that hold ``images0``, ``images1``, ... ; depth images are left out.

    Numeric arrays of ``obs_dict.pkl`` with a row per image pass through, and ``actions`` of
    ``policy_out.pkl``.  There is one action fewer than images: its last row is NaN.  Row t
    belongs to ``im_<t>.jpg``.
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
        if not cameras:
            raise SourceError.at(folder, "no folder named images0 in it")
        names = safe_names(cameras)
        used = [name for name in _FILES if name in inside]
        places = {view: os.path.join(ref.locator, camera) for camera, view in names.items()}
        yield Episode(
            views=Lazy.of(self._stream, places),
            arrays=Lazy(self._arrays(folder, inside, cameras)),
            files=fingerprints(self.path, (os.path.join(ref.locator, name) for name in used)),
            view_files=Lazy.of(partial(ends_of, self.path), places),
            text=_language(folder / "lang.txt") if "lang.txt" in inside else None,
        )

    def _stream(self, relative: str) -> FrameStream:
        how, folder = self._config, self.path / relative
        return image_stream(folder, how.recorded_fps, self._limits, how.missing_images, first=0)

    def _arrays(
        self, folder: Path, inside: list[str], cameras: list[str]
    ) -> dict[str, Callable[[], np.ndarray]]:
        """Return what reads each array."""
        arrays: dict[str, Callable[[], np.ndarray]] = {}
        if "obs_dict.pkl" in inside:
            path = folder / "obs_dict.pkl"
            states = self._states(path)
            names = safe_names(map(str, states))
            for key, value in states.items():
                arrays[names[str(key)]] = partial(_numbers, path, str(key), value)
        if "policy_out.pkl" in inside:
            arrays["actions"] = partial(self._actions, folder, cameras)
        return arrays

    def _states(self, path: Path) -> dict[Any, Any]:
        try:
            states = load_pickle(path, self._limits)
        except DecodeError:
            raise
        except SourceError as error:
            return {"obs_dict": error}
        return states if isinstance(states, dict) else {"obs_dict": states}

    def _actions(self, folder: Path, cameras: list[str]) -> np.ndarray:
        path = folder / "policy_out.pkl"
        steps = load_pickle(path, self._limits)
        try:
            rows = [step["actions"] if isinstance(step, dict) else step for step in steps]
            actions = np.array(rows, np.float64)
        except (TypeError, KeyError, ValueError) as error:
            raise SourceError.at(path, f"it holds no actions ({error!r})") from None
        length = self._length(folder, cameras)
        if actions.ndim != 2 or len(actions) not in (length - 1, length):
            raise SourceError.at(path, f"actions {actions.shape} do not fit {length} images")
        missing = np.full((length - len(actions), actions.shape[1]), np.nan)
        return np.concatenate([actions, missing])

    def _length(self, folder: Path, cameras: list[str]) -> int:
        """Count the images of the first camera whose images can be counted."""
        for camera in cameras:
            with suppress(SourceError):
                how = self._config.missing_images
                return len(image_names(folder / camera, self._limits, how, first=0)[0])
        return 0


def _numbers(path: Path, key: str, value: Any) -> np.ndarray:
    if isinstance(value, SourceError):
        raise value
    try:
        array = np.asarray(value)
    except ValueError:
        raise SourceError.at(path, f"{key}: its rows differ in length") from None
    if array.dtype.kind not in "biuf":
        raise SourceError.at(path, f"{key}: its type {array.dtype} is not plain numbers")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def _language(path: Path) -> str | None:
    lines = (read_text(path) or "").splitlines()
    return safe_text("\n".join(line for line in lines if "confidence" not in line))
