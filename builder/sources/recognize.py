"""Which kind of source a file or folder looks like, by names and a look into a file or two."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from builder.core.errors import ConfigError, SourceError
from builder.core.paths import printable_path
from builder.inputs.hdf5 import open_hdf5
from builder.inputs.listing import (
    HDF5_SUFFIXES,
    IMAGE_SUFFIXES,
    PICKLE_SUFFIXES,
    VIDEO_SUFFIXES,
    read_small,
    walk,
)
from builder.sources.base import SOURCES
from schemas.config import Limits

MAX_FOLDERS = 2000
_WITH_VIDEOS = ("droid", "bridge", "something_something", "atm")
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

    Looks at no more than ``MAX_FOLDERS`` folders.  Raises SourceError when it is none, and
    ConfigError listing the kinds when it could be several.
    """
    if not os.path.lexists(path):
        raise SourceError.at(path, "there is no such file or folder")
    found = list(_opinions(path))
    if not found and _older(path):
        raise SourceError.at(
            path,
            "older track files, not a source: `letterset doctor` tells "
            "what is in them, `letterset migrate` makes a dataset of them",
        )
    if not found:
        raise SourceError.at(
            path,
            f"nothing here looks like a source (no videos, images, HDF5 "
            f"demonstrations, Zarr groups, LeRobot metadata or pickles); if it is one, set "
            f"source.kind to one of {', '.join(SOURCES.kinds())}",
        )
    if len({each.kind for each in found}) > 1:
        seen = "; ".join(f"{each.kind} ({each.why})" for each in found)
        raise ConfigError(
            f"{printable_path(path)} looks like several kinds of source: {seen}. Say which, for "
            f"example source.kind={found[0].kind} (init: --kind {found[0].kind}), or give the "
            f"folder of one of them"
        )
    return found[0]


def _opinions(path: Path) -> Iterator[Found]:
    """Yield what a path looks like; more than one kind if they cannot belong together."""
    if not path.is_dir():
        yield from filter(None, [_file(path)])
        return
    if whole := _lerobot(path) or _replay_buffer(path):
        yield whole
        return
    seen = _look(path)
    # Layouts of files of several kinds; what else has videos or images has them on top.
    named = _named(seen)
    packed = [*filter(None, [_archives(path)]), *_hdf5(path, seen)] if named is None else [named]
    yield from packed
    videos = None if any(each.kind in _WITH_VIDEOS for each in packed) else _videos(seen)
    if videos:
        yield videos
    elif not packed and (found := _images(seen) or _pickles(seen)):
        yield found


def _file(path: Path) -> Found | None:
    name = path.name.lower()
    if name.endswith(VIDEO_SUFFIXES):
        return Found("video", "one video file")
    if name.endswith(HDF5_SUFFIXES):
        return _inside(path)
    if name.endswith(".zip"):
        return Found("diffusion_policy", "a zip file, maybe of a Zarr group")
    if name.endswith(PICKLE_SUFFIXES):
        return Found("tapvid", "a pickle")
    return Found("video", "a file of no other known kind")


def _lerobot(path: Path) -> Found | None:
    info = path / "meta" / "info.json"
    if not info.is_file():
        return None
    try:
        version = json.loads(read_small(info, 1 << 30)).get("codebase_version", "unknown")
    except (ValueError, AttributeError, RecursionError):
        return None
    return Found("lerobot", f"meta/info.json of version {version}")


def _replay_buffer(path: Path) -> Found | None:
    if (path / ".zgroup").exists() and (path / "meta" / "episode_ends").is_dir():
        return Found("diffusion_policy", "a Zarr group with meta/episode_ends")
    return None


def _archives(path: Path) -> Found | None:
    if any(path.glob("*.zarr")) or any(path.glob("*.zarr.zip")):
        return Found("diffusion_policy", "*.zarr or *.zarr.zip in the folder")
    return None


def _pickles(seen: _Folder) -> Found | None:
    if any(name.endswith(PICKLE_SUFFIXES) for name in seen.names):
        return Found("tapvid", "pickles and neither videos nor images")
    return None


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
        return Found("droid", "folders with a trajectory.h5")
    cameras = any(_BRIDGE.fullmatch(folder.rpartition("/")[2]) for folder in seen.folders)
    if cameras and {"policy_out.pkl", "obs_dict.pkl", "lang.txt"} & seen.names:
        return Found("bridge", "folders named images0 beside pickles or lang.txt")
    labels = any(name.endswith(("train.json", "validation.json")) for name in seen.names)
    if labels and any(name.endswith(".webm") for name in seen.names):
        return Found("something_something", "WebM videos and label files")
    return None


def _hdf5(path: Path, seen: _Folder) -> list[Found]:
    files = [name for name in seen.files if name.lower().endswith(HDF5_SUFFIXES)]
    # A damaged file should not hide what the others are.
    found = filter(None, (_inside(path / name) for name in files[:5]))
    return list({each.kind: each for each in found}.values())


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


def _older(path: Path) -> bool:
    """Tell whether the first HDF5 files hold tracks without pictures: root/<view>/tracks."""
    names = _look(path).files if path.is_dir() else [""]
    for name in [each for each in names if (each or path.name).lower().endswith(HDF5_SUFFIXES)][:5]:
        with suppress(SourceError), open_hdf5(path / name, Limits()) as file:
            if any("tracks" in file.keys(f"root/{key}") for key in file.keys("root")):
                return True
    return False


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
