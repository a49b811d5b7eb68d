"""What older files say about themselves: layout, mode, length, and the size tracked in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
from pydantic import TypeAdapter, ValidationError

from builder.errors import DatasetError
from builder.ids import episode_id
from builder.legacy_hdf5 import checked_array, child, open_file
from builder.sources.listing import walk
from schemas.dataset import Name
from schemas.legacy import tracked_shape

SUFFIXES = (".hdf5", ".h5")

_NAME: TypeAdapter[str] = TypeAdapter(Name)

Layout = Literal["amplify", "atm"]
Mode = Literal["reinit", "episode"]


@dataclass(frozen=True)
class LegacyRef:
    """One older file: what reading its headers tells."""

    id: str
    path: Path
    relative: Path
    task: str | None
    layout: Layout
    mode: Mode
    length: int
    horizon: int
    points: int
    tracked: Mapping[str, tuple[int, int] | None]
    """By view: the size (H, W) its tracks are pixels of, None where it is not recorded."""


def track_files(folder: Path) -> list[Path]:
    """List HDF5 files below a folder in natural order; raises DatasetError without a folder."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    found = (folder / inner / name for inner, names in walk(folder) for name in names)
    return [path for path in found if path.suffix in SUFFIXES and path.is_file()]


def inspect_file(
    folder: Path, path: Path, layout: Layout | None, mode: Mode | None
) -> LegacyRef | None:
    """Read a file's headers; None when it holds no tracks (text embeddings, raw demos).

    Raises DatasetError naming file and view for what cannot be trusted.
    """
    with open_file(path) as file:
        if not isinstance(file.get("root", getlink=True), h5py.HardLink):
            return None
        root = file["root"]
        if not isinstance(root, h5py.Group):
            return None
        names = [name for name in root if _has_tracks(root, name)]
        if not names:
            return None
        if layout is None:
            is_atm = "task_emb_bert" in root or any("video" in root[name] for name in names)
            layout = "atm" if is_atm else "amplify"
        shapes = {name: track_shape(root[name], f"{path}, view {name}") for name in names}
        if len(set(shapes.values())) > 1:
            raise DatasetError(f"{path}: views differ in shape: {shapes}; expected equal ones")
        first, second, points, _ = shapes[names[0]]
        mode = mode or _mode(path, first)
        if mode == "episode" and first != 1:
            raise DatasetError(f"{path}: whole-episode tracks are (1, T, N, 2), got {first} first")
        return LegacyRef(
            id=episode_id(path.relative_to(folder)),
            path=path,
            relative=path.relative_to(folder),
            task=_task(path),
            layout=layout,
            mode=mode,
            length=second if mode == "episode" else first,
            horizon=second,
            points=points,
            tracked={name: _tracked(root[name], layout, f"{path}, view {name}") for name in names},
        )


def _has_tracks(root: h5py.Group, name: str) -> bool:
    link = root.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise DatasetError(f"{root.file.filename}: root/{name} is a link; links are not followed")
    if not isinstance(root[name], h5py.Group) or "tracks" not in root[name]:
        return False
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise DatasetError(
            f"{root.file.filename}: the view name {name!r} cannot be kept; rename the group, "
            f"using letters, digits, '_', '-' and '.'"
        ) from None
    return True


def track_shape(group: h5py.Group, where: str) -> tuple[int, ...]:
    """Check a view's arrays and return the shape of its tracks."""
    tracks = checked_array(child(group, "tracks", where), where, kinds="f")
    if len(tracks.shape) != 4 or tracks.shape[-1] != 2 or 0 in tracks.shape:
        raise DatasetError(
            f"{where}: tracks must be (T, horizon, N, 2) or (1, T, N, 2), got {tracks.shape}"
        )
    if "vis" in group:
        vis = checked_array(child(group, "vis", where), where)
        if vis.shape != tracks.shape[:-1]:
            raise DatasetError(f"{where}: vis {vis.shape} does not fit tracks {tracks.shape}")
    return tuple(tracks.shape)


def _mode(path: Path, leading: int) -> Mode:
    named = any(re.fullmatch(r"[a-z]+_\d+_reinit_\d+", part) for part in path.parent.parts)
    return "reinit" if leading > 1 or named else "episode"


def _task(path: Path) -> str | None:
    """AMPLIFY keeps the demos of a task in a folder of its name."""
    name = path.parent.name
    return name.removesuffix("_demo") if name.endswith("_demo") else None


def _tracked(group: h5py.Group, layout: Layout, where: str) -> tuple[int, int] | None:
    if layout == "atm":
        if "video" not in group:
            return None
        video = checked_array(child(group, "video", where), where, kinds="u")
        if len(video.shape) != 5 or video.shape[0] != 1 or video.shape[2] != 3:
            raise DatasetError(f"{where}: video must be (1, T, 3, H, W), got {video.shape}")
        return (int(video.shape[3]), int(video.shape[4]))
    try:
        return tracked_shape(group.attrs, where)
    except (ValueError, OSError) as error:
        raise DatasetError(str(error)) from None
