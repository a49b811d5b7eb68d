"""Which kind of source a file or folder looks like, by names and a look into a file or two."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from builder.errors import SourceError
from builder.ids import printable_path
from builder.sources.listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_small, walk
from builder.sources.safe_hdf5 import open_hdf5
from schemas.config import Limits

MAX_FOLDERS = 2000
_HDF5 = (".hdf5", ".h5")
_BRIDGE = re.compile(r"images\d+", re.ASCII)


@dataclass(frozen=True)
class Found:
    """A kind of source, settings that go with it, and what gave it away, in words."""

    kind: str
    why: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Folder:
    """What was seen below a root."""

    files: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    folders: dict[str, list[str]] = field(default_factory=dict)

    def having(self, suffixes: tuple[str, ...]) -> dict[str, list[str]]:
        """Return the folders with files of these suffixes, and those files."""
        found = {
            folder: [name for name in names if name.lower().endswith(suffixes)]
            for folder, names in self.folders.items()
        }
        return {folder: names for folder, names in found.items() if names}


def recognize(path: Path) -> Found:
    """Say which kind of source lies at a path.

    Looks at no more than ``MAX_FOLDERS`` folders.  Raises SourceError when it is none.
    """
    found = next(filter(None, _opinions(path)), None)
    if found is None:
        raise SourceError(
            f"{printable_path(path)}: nothing here looks like a source; `letterset build` reads "
            f"videos, image folders, HDF5 demonstrations, LeRobot, Zarr replay buffers and more: "
            f"set source.kind by hand"
        )
    return found


def _opinions(path: Path) -> Iterator[Found | None]:
    if not path.is_dir():
        yield _file(path)
        return
    yield _lerobot(path)
    if (path / ".zgroup").exists() and (path / "meta" / "episode_ends").is_dir():
        yield Found("diffusion_policy", "a Zarr group with meta/episode_ends")
    if any(path.glob("*.zarr")) or any(path.glob("*.zarr.zip")):
        yield Found("diffusion_policy", "*.zarr or *.zarr.zip in the folder")
    seen = _look(path)
    yield _named(seen)
    yield _hdf5(path, seen)
    yield _videos(seen)
    yield _images(seen)
    if any(name.endswith((".pkl", ".pickle")) for name in seen.names):
        yield Found("tapvid", "pickles and neither videos nor images")


def _file(path: Path) -> Found | None:
    name = path.name.lower()
    if name.endswith(VIDEO_SUFFIXES):
        return Found("video", "one video file")
    if name.endswith(_HDF5):
        return _inside(path)
    if name.endswith(".zip"):
        return Found("diffusion_policy", "a zip file, maybe of a Zarr group")
    if name.endswith((".pkl", ".pickle")):
        return Found("tapvid", "a pickle")
    return None


def _lerobot(path: Path) -> Found | None:
    info = path / "meta" / "info.json"
    if not info.is_file():
        return None
    try:
        version = json.loads(read_small(info, 1 << 30)).get("codebase_version", "unknown")
    except (ValueError, AttributeError, RecursionError):
        return None
    return Found("lerobot", f"meta/info.json of version {version}")


def _look(path: Path) -> _Folder:
    seen = _Folder()
    for folder, names in islice(walk(path), MAX_FOLDERS):
        seen.folders[folder] = names
        seen.files += [f"{folder}/{name}" if folder else name for name in names]
        seen.names.update(names)
    return seen


def _named(seen: _Folder) -> Found | None:
    """Kinds that names alone give away."""
    if "trajectory.h5" in seen.names:
        return Found("droid", "folders with a trajectory.h5", {"tolerance_seconds": 0.1})
    cameras = any(_BRIDGE.fullmatch(folder.rpartition("/")[2]) for folder in seen.folders)
    if cameras and {"policy_out.pkl", "obs_dict.pkl", "lang.txt"} & seen.names:
        return Found("bridge", "folders named images0 beside pickles or lang.txt")
    labels = any(name.endswith(("train.json", "validation.json")) for name in seen.names)
    if labels and any(name.endswith(".webm") for name in seen.names):
        return Found("something_something", "WebM videos and label files")
    return None


def _hdf5(path: Path, seen: _Folder) -> Found | None:
    files = [name for name in seen.files if name.lower().endswith(_HDF5)]
    # A damaged file should not hide what the others are.
    return next(filter(None, (_inside(path / name) for name in files[:5])), None)


def _inside(path: Path) -> Found | None:
    try:
        with open_hdf5(path, Limits()) as file:
            if any("video" in file.keys(f"root/{key}") for key in file.keys("root")):
                return Found("atm", "HDF5 files with root/<view>/video")
            for demo in file.keys("data")[:1]:
                keys = file.keys(f"data/{demo}/obs")
                if any(key.endswith("_rgb") for key in keys):
                    return Found("libero", f"data/{demo}/obs/*_rgb in HDF5 files")
                if any(key.endswith("_image") for key in keys):
                    return Found("robomimic", f"data/{demo}/obs/*_image in HDF5 files")
    except SourceError:
        return None
    return None


def _videos(seen: _Folder) -> Found | None:
    folders = seen.having(VIDEO_SUFFIXES)
    if not folders:
        return None
    stems = [{name.rpartition(".")[0] for name in names} for names in folders.values()]
    shared = set.intersection(*stems)
    if len(folders) > 1 and shared:
        names = ", ".join(sorted(map(printable_path, shared))[:5])
        return Found("episodes", f"{len(folders)} folders that each hold {names}")
    return Found("video", f"{sum(map(len, folders.values()))} video files")


def _images(seen: _Folder) -> Found | None:
    folders = seen.having(IMAGE_SUFFIXES)
    if not folders:
        return None
    above = {folder.rpartition("/")[0] for folder in folders}
    names = {folder.rpartition("/")[2] for folder in folders}
    # The same names again and again are views; names of their own are episodes.
    views = len(folders) > 1 and "" not in above and len(folders) == len(above) * len(names)
    kind = "view" if views else "episode"
    return Found(
        "images", f"{len(folders)} folders of images, read as one per {kind}", {"folder": kind}
    )
