"""The headers of older files: layout, mode, length and tracked size."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from builder.core.errors import ConfigError, DatasetError, SourceError
from builder.core.own_files import METADATA, OWN_EPISODE, is_own
from builder.core.paths import episode_id, printable_path
from builder.dataset.episodes import TrackedSize
from builder.inputs.hdf5 import SafeHdf5, open_hdf5
from builder.inputs.listing import HDF5_SUFFIXES, has_suffix, read_small, walk
from schemas.base import MAX_SIDE
from schemas.config import Limits
from schemas.dataset import Name
from schemas.legacy import tracked_shape

_NAME: TypeAdapter[str] = TypeAdapter(Name)

CONFIG_NAME = "config.yaml"
"""Where the older preprocessing writes what it was told, beside its files."""
CONFIG_BYTES = 1 << 20

Layout = Literal["amplify", "atm"]
Mode = Literal["reinit", "episode"]


@dataclass(frozen=True)
class LegacyRef:
    """One older file, by its headers."""

    id: str
    path: Path
    relative: Path
    task: str | None
    layout: Layout
    mode: Mode
    length: int
    horizon: int
    points: int
    sizes: Mapping[str, TrackedSize]
    """By view: the size its tracks are pixels of, and how it is known."""

    def setting(self, name: str) -> float | None:
        """Return a number above 0 that the nearest ``config.yaml`` says; None where none does.

        Looked for from the file's folder up to the folder that was opened.
        """
        for folder in list(self.path.parents)[: len(self.relative.parents)]:
            path = folder / CONFIG_NAME
            if not path.is_file():
                continue
            try:
                config = yaml.safe_load(read_small(path, CONFIG_BYTES))
            except (SourceError, yaml.YAMLError, ValueError, RecursionError):
                continue  # another program's
            parts = [config, *config.values()] if isinstance(config, dict) else []
            said = [part.get(name) for part in parts if isinstance(part, dict)]
            numbers = {n for n in said if isinstance(n, int | float) and n is not True}
            numbers = {n for n in numbers if 0 < n <= MAX_SIDE}
            if len(numbers) == 1:
                return numbers.pop()
        return None

    @property
    def short_side(self) -> int | None:
        """To how many pixels the short side was resized, where a ``config.yaml`` says it."""
        side = self.setting("resize_shorter")
        return int(side) if side is not None and side == int(side) else None

    @property
    def tracked(self) -> dict[str, tuple[int, int] | None]:
        """By view: the size (H, W) its tracks are pixels of, None where it is not known."""
        return {name: size.shape for name, size in self.sizes.items()}


@contextmanager
def open_older(path: Path) -> Iterator[SafeHdf5]:
    """Open an untrusted file for reading; errors are DatasetErrors that name it."""
    try:
        with open_hdf5(path, Limits()) as file:
            yield file
    except SourceError as error:
        raise DatasetError(str(error)) from None


def checked_choice(what: str, given: object, choices: tuple[object, ...]) -> None:
    """Raise ConfigError, calling the option ``what``, for anything but one of the choices."""
    if given not in choices:
        known = ", ".join(map(repr, choices))
        raise ConfigError(f"{what} must be one of {known}, got {given!r}")


def track_files(folder: Path) -> list[Path]:
    """List HDF5 files below a folder in natural order; raises DatasetError without a folder.

    Broken links, pipes and unreadable folders are listed too: opening them names them.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; give the folder of the older files")
    return [
        folder / inner / name
        for inner, names in walk(folder)
        for name in names
        if has_suffix(name, HDF5_SUFFIXES)
    ]


def inspect_file(
    folder: Path, path: Path, layout: Layout | None, mode: Mode | None
) -> LegacyRef | None:
    """Read a file's headers; None when it holds no tracks (text embeddings, raw demos).

    Raises DatasetError naming file and view for what cannot be trusted.
    """
    with open_older(path) as file:
        if is_own(file.attr("", METADATA)):
            raise DatasetError(f"{path}: not an older file but {OWN_EPISODE}")
        members = {name: file.keys(f"root/{name}") for name in file.keys("root")}
        names = [name for name, inner in members.items() if "tracks" in inner]
        # Arrays that only a view has.
        kept = [name for name, inner in members.items() if {"vis", "video"} & {*inner}]
        if halves := [name for name in kept if name not in names]:
            raise DatasetError(
                f"{path}: the views {halves} have no tracks; track the file again, "
                f"or remove what is left of these views from it"
            )
        if not names:
            return None
        for name in names:
            try:
                _NAME.validate_python(name)
            except ValidationError:
                raise DatasetError(
                    f"{path}: the view name {name!r} cannot be kept; rename the group, using "
                    f"letters, digits, '_', '-' and '.'"
                ) from None
        if layout is None:
            is_atm = "task_emb_bert" in members or any("video" in members[n] for n in names)
            layout = "atm" if is_atm else "amplify"
        shapes = {name: track_shape(file, path, name) for name in names}
        if len(set(shapes.values())) > 1:
            raise DatasetError(f"{path}: views differ in shape: {shapes}; expected equal ones")
        first, second, points, _ = shapes[names[0]]
        if mode is None:
            # (1, 16, N, 2) is one window where the folder says so, else a whole episode.
            named = any(part.endswith(f"_reinit_{second}") for part in path.parent.parts)
            mode = "reinit" if first > 1 or named else "episode"
        if mode == "episode" and first != 1:
            raise DatasetError(f"{path}: whole-episode tracks are (1, T, N, 2), got {first} first")
        folder_name = path.parent.name
        return LegacyRef(
            id=episode_id(path.relative_to(folder)),
            path=path,
            relative=path.relative_to(folder),
            # AMPLIFY keeps the demos of a task in a folder of its name.
            task=folder_name.removesuffix("_demo") if folder_name.endswith("_demo") else None,
            layout=layout,
            mode=mode,
            length=second if mode == "episode" else first,
            horizon=second,
            points=points,
            sizes={name: _size(file, layout, path, name) for name in names},
        )


def mixture_of(refs: Iterable[LegacyRef]) -> str | None:
    """Describe files that do not fit into one dataset; None when all do."""
    kinds: dict[str, LegacyRef] = {}
    for ref in refs:
        horizon = f" of {ref.horizon} steps" if ref.mode == "reinit" else ""
        kinds.setdefault(f"{ref.mode}{horizon}, {ref.points} points", ref)
    if len(kinds) < 2:
        return None
    found = "; ".join(f"{kind} in {printable_path(ref.relative)}" for kind, ref in kinds.items())
    return f"a dataset has one mode, horizon and number of points, got {found}"


def track_shape(file: SafeHdf5, path: Path, view: str) -> tuple[int, ...]:
    """Check a view's arrays; return the shape of its tracks, (T, horizon, N, 2) or (1, T, N, 2).

    Raises DatasetError naming file and view.
    """
    where = f"{path}, view {view}"
    tracks = file.dataset(f"root/{view}/tracks")
    if tracks.dtype.kind != "f":
        raise DatasetError(f"{where}: tracks must be floating-point numbers, got {tracks.dtype}")
    if len(tracks.shape) != 4 or tracks.shape[-1] != 2 or 0 in tracks.shape:
        raise DatasetError(
            f"{where}: tracks must be (T, horizon, N, 2) or (1, T, N, 2), got {tracks.shape}"
        )
    if "vis" in file.keys(f"root/{view}"):
        vis = file.dataset(f"root/{view}/vis")
        if vis.shape != tracks.shape[:-1]:
            raise DatasetError(f"{where}: vis {vis.shape} does not fit tracks {tracks.shape}")
    return tuple(tracks.shape)


def _size(file: SafeHdf5, layout: Layout, path: Path, view: str) -> TrackedSize:
    group, where = f"root/{view}", f"{path}, view {view}"
    if layout == "atm":
        if "video" not in file.keys(group):
            return TrackedSize(None, "relative")
        shape = file.dataset(f"{group}/video").shape
        if len(shape) != 5 or shape[0] != 1 or shape[2] != 3:
            raise DatasetError(f"{where}: video must be (1, T, 3, H, W), got {shape}")
        return TrackedSize((int(shape[3]), int(shape[4])), "relative")
    elsewhere = {f"{group}/tracks": f"{group}/tracks", "root": "root", "": "the file itself"}
    basis = ""
    for place, said in {group: "", **elsewhere}.items():
        values = {name: file.attr(place, name) for name in ("height", "width")}
        try:
            shape = tracked_shape({k: v for k, v in values.items() if v is not None}, where)
        except ValueError as error:
            if place == group:
                raise DatasetError(str(error)) from None
            basis = f"height and width of {said} are no size: {values['height']}, {values['width']}"
            continue  # such an attribute may mean something else
        if shape is not None:
            basis = f"height and width are attributes of {said}, not of {group}" if said else ""
            return TrackedSize(shape, "recorded", basis)
    return TrackedSize(None, "unknown", basis)
