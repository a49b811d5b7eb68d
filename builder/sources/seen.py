"""What lies at a path that is no source: in words, why it is not taken, and what to do."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from builder.core.errors import SourceError
from builder.core.messages import count
from builder.core.paths import printable_path
from builder.inputs.foreign import foreign
from builder.inputs.listing import HDF5_SUFFIXES, PICKLE_SUFFIXES, ZARR_ARRAYS, regular_file
from builder.sources.contents import Contents

if TYPE_CHECKING:
    from builder.inputs.hdf5 import SafeHdf5

MAX_TOLD = 3
"""Files that are looked into, and kinds of file that are named."""

_MAX_NODES, _MAX_DEPTH = 200, 5
_OWN_LAYOUT = "write it as videos or images in a folder per episode, or add a source for it"
_UNPACK = "unpack it, and give the folder"
# What is known by the end of a name, and not read: what it is, and what to do.
_UNREAD = {
    (".tar", ".tgz", ".tar.gz", ".tar.zst", ".7z", ".rar", ".gz"): ("an archive", _UNPACK),
    (".bag", ".db3", ".mcap"): (
        "a ROS recording",
        "export its image topics as videos or images, a folder per episode",
    ),
    (".parquet", ".arrow"): (
        "a table without the meta/info.json of LeRobot",
        "give the folder above meta and data",
    ),
    (".array_record", ".riegeli"): ("records of another format than TFRecord", _OWN_LAYOUT),
    (".npz", ".npy", ".mat"): ("arrays", _OWN_LAYOUT),
    (".mxf", ".y4m", ".ivf", ".nut", ".dv", ".rm", ".rmvb", ".h264", ".264", ".h265", ".hevc"): (
        "a video in a container that is not read",
        "remux it: ffmpeg -i in -c copy out.mp4, or out.mkv",
    ),
    (".svo", ".svo2"): ("a recording of ZED's own format", "export it as MP4"),
}


def is_unread(name: str) -> bool:
    """Tell whether a file is of a known kind that is no video, and no source by itself."""
    known = (*HDF5_SUFFIXES, ".zip", *chain.from_iterable(_UNREAD))
    return name.lower().endswith(known) or ".tfrecord" in name


def seen(contents: Contents) -> str:
    """Say what lies at a path, why no kind of source takes it, and what to do."""
    told = [*_hdf5(contents), *_zips(contents), *_zarr(contents), *_others(contents)]
    if told:
        return "; ".join(told)
    suffixes = Counter(PurePosixPath(name).suffix or "no ending" for name in contents.names)
    if not suffixes:
        return "there is no file in it"
    kinds = ", ".join(f"{printable_path(kind)} ({n})" for kind, n in suffixes.most_common(MAX_TOLD))
    number = count(len(contents.names), "file")
    return f"{number} of kinds that no source reads: {kinds}; {_OWN_LAYOUT}"


def _first(contents: Contents, suffixes: tuple[str, ...]) -> tuple[int, list[tuple[str, Path]]]:
    """Return how many files end so, and the first of them by relative path."""
    folders = contents.having(suffixes).items()
    names = [f"{folder}/{name}".lstrip("/") for folder, names in folders for name in names]
    place = contents.path if contents.is_folder else contents.path.parent
    return len(names), [(printable_path(name), place / name) for name in names[:MAX_TOLD]]


def _hdf5(contents: Contents) -> Iterator[str]:
    number, first = _first(contents, HDF5_SUFFIXES)
    if not number:
        return
    looks = "; ".join(f"{name}: {_inside_hdf5(path)}" for name, path in first)
    yield (
        f"{count(number, 'HDF5 file')} of no layout that is known ({looks}); get damaged files "
        f"again; else {_OWN_LAYOUT}"
    )


def _inside_hdf5(path: Path) -> str:
    """Name the datasets of a file, pictures first, or say why they cannot be read."""
    from builder.inputs.hdf5 import open_hdf5
    from schemas.config import Limits

    def datasets(file: SafeHdf5, group: str, depth: int) -> Iterator[tuple[str, int]]:
        for key in file.keys(group):
            inner = f"{group}/{key}"
            if file.is_group(inner):
                if depth < _MAX_DEPTH:
                    yield from datasets(file, inner, depth + 1)
                continue
            shape, dtype = file.described(inner) or ((), None)
            yield f"{inner} {shape} {dtype}", len(shape)

    try:
        with open_hdf5(path, Limits()) as file:
            found = list(islice(datasets(file, "", 0), _MAX_NODES))
            lacking = _lacking(file)
    except SourceError as error:
        return str(error).removeprefix(f"{printable_path(path)}: ")
    if not found:
        return "nothing in it"
    found.sort(key=lambda each: -each[1])
    more = len(found) - MAX_TOLD
    return ", ".join(each[0] for each in found[:MAX_TOLD]) + (
        (f" and {more} more" if more > 0 else "") + lacking
    )


def _lacking(file: SafeHdf5) -> str:
    """Say of a file in a known layout that it is one, and has no pictures; "" of any other."""
    demo = next(iter(file.keys("data")), None)
    if demo is not None and "actions" in file.keys(f"data/{demo}"):
        return (
            ": demonstrations as robomimic and LIBERO keep them, without pictures (T, H, W, 3) in "
            "obs; render them first, as robomimic's dataset_states_to_obs.py does"
        )
    if "qpos" in file.keys("observations"):
        return ": an episode of ALOHA / ACT, without pictures in observations/images"
    return ""


def _zips(contents: Contents) -> Iterator[str]:
    number, first = _first(contents, (".zip",))
    for name, path in first:
        try:
            regular_file(path)
            with foreign(path, what="not a whole zip file; get it again"):
                with zipfile.ZipFile(path) as archive:
                    names = [each for each in archive.namelist() if not each.endswith("/")]
        except SourceError as error:
            yield str(error)
            continue
        kinds = Counter(PurePosixPath(each).suffix for each in names).most_common(MAX_TOLD)
        inside = ", ".join(f"{printable_path(kind) or 'no ending'} ({n})" for kind, n in kinds)
        yield f"{name} is a zip of {count(len(names), 'file')}: {inside}; {_UNPACK}"
    if number > len(first):
        yield f"and {count(number - len(first), 'zip file')} more"


def _zarr(contents: Contents) -> Iterator[str]:
    """Tell of Zarr groups that are no replay buffers."""
    places = [contents.path, *(contents.path.glob("*.zarr") if contents.is_folder else ())]
    for place in places[: 1 + MAX_TOLD]:
        if any((place / mark).exists() for mark in (".zgroup", *ZARR_ARRAYS)):
            yield (
                f"{printable_path(place.name)} is Zarr without meta/episode_ends, which says where "
                f"the episodes of a replay buffer end; add it, or {_OWN_LAYOUT}"
            )


def _others(contents: Contents) -> Iterator[str]:
    records = [name for name in contents.names if ".tfrecord" in name]
    if records:
        yield (
            f"{count(len(records), 'TFRecord file')} without dataset_info.json and features.json "
            f"of TensorFlow Datasets beside them, which say what is in them; get these as well"
        )
    for suffixes, (what, todo) in _UNREAD.items():
        number, first = _first(contents, suffixes)
        if number:
            more = f" and {number - 1} more" if number > 1 else ""
            yield f"{first[0][0]}{more}: {what}, which no source reads; {todo}"
    number, first = _first(contents, PICKLE_SUFFIXES)
    if number:
        yield f"{count(number, 'pickle')} of no known layout; {_OWN_LAYOUT}"
