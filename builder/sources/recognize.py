"""Which kind of source lies at a path: every kind is asked what speaks for it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from builder.core.errors import ConfigError, MissingExtraError, SourceError
from builder.core.own_files import META_NAME, METADATA, OWN_EPISODE, is_own, own_files
from builder.core.paths import printable_path
from builder.inputs.hdf5 import SafeHdf5
from builder.inputs.listing import HDF5_SUFFIXES
from builder.sources.base import SOURCES, BaseSource
from builder.sources.contents import Contents, Evidence
from builder.sources.far import far_files
from builder.sources.seen import seen
from builder.stores.remote_folder import RemoteFolder


@dataclass(frozen=True)
class Recognized:
    """A kind of source, the settings that go with what was seen, and what that was, in words."""

    kind: str
    why: str
    settings: Mapping[str, Any]


def recognize(path: Path) -> Recognized:
    """Say which kind of source lies at a path.

    Raises SourceError when it is none, ConfigError listing the kinds when it could be several,
    and MissingExtraError when it is none that can be imported.
    """
    if not os.path.lexists(path):
        raise SourceError.at(path, "there is no such file or folder")
    if own := own_files(path):
        raise SourceError.at(path, f"not a source but {own}")
    contents = Contents(path)
    evidence, missing = _evidence(contents)
    if not evidence:
        _raise_unrecognized(contents, missing)
    strongest = max(each.strength for each in evidence.values())
    covered = {kind for each in evidence.values() for kind in each.covers}
    candidates = [
        Recognized(kind, each.why, each.settings)
        for kind, each in evidence.items()
        if each.strength == strongest and kind not in covered
    ]
    first = candidates[0].kind
    if len(candidates) > 1:
        seen = "; ".join(f"{each.kind} ({each.why})" for each in candidates)
        raise ConfigError(
            f"{printable_path(path)} looks like several kinds of source: {seen}. Say which, for "
            f"example source.kind={first} (init: --kind {first}), or give the folder of one of them"
        )
    return candidates[0]


def recognize_far(url: str) -> Recognized:
    """Say which kind of source lies at a URL, by the names of its files alone: none is fetched.

    Raises as :func:`recognize` does, and ConfigError for what is more than plain video files.
    """
    files = far_files(RemoteFolder(url))
    names = [file.relative for file in files]
    if META_NAME in names:
        raise SourceError(f"{url}: not a source but a letterset dataset")
    contents = Contents.of(Path(url), names, is_folder=bool(files[0].key))
    evidence, _ = _evidence(contents)
    told = [f"{kind} ({each.why})" for kind, each in evidence.items() if kind != "video"]
    # They tell of kinds that are known by what is in them.
    marks = {mark for kind in SOURCES.kinds() for mark in _markers(kind)} | {*HDF5_SUFFIXES}
    told += [f"it holds {mark}" for mark in sorted(marks) if any(n.endswith(mark) for n in names)]
    if "video" in evidence and not told:
        return Recognized("video", evidence["video"].why, {})
    looks = f"looks like {'; '.join(told)}" if told else "holds no video file"
    raise ConfigError(
        f"{url} {looks}; of a URL video files alone are read: give source.kind=video if they are "
        "what is meant, or copy the folder to a local disk"
    )


def _markers(kind: str) -> tuple[str, ...]:
    with suppress(ConfigError):
        return tuple(getattr(SOURCES.load(kind), "markers", ()))
    return ()


def _evidence(contents: Contents) -> tuple[dict[str, Evidence], MissingExtraError | None]:
    """Ask every kind; also return why one could not be imported, if one could not."""
    sources: dict[str, type[BaseSource[Any]]] = {}
    missing: MissingExtraError | None = None
    for kind in SOURCES.kinds():
        try:
            source: Any = SOURCES.load(kind)
        except MissingExtraError as error:
            missing = error
        except ConfigError:
            continue  # a broken plug-in is an error where its kind is asked for
        else:
            # A plug-in need not be a BaseSource; then its kind is never guessed.
            if isinstance(source, type) and issubclass(source, BaseSource):
                sources[kind] = source
    # Files that mark a folder as one source's save listing all the others.
    for kind, source in sources.items():
        marked = source.markers and all((contents.path / mark).exists() for mark in source.markers)
        if marked and (evidence := source.recognize(contents)):
            return {kind: evidence}, missing
    asked = ((kind, source.recognize(contents)) for kind, source in sources.items())
    return {kind: evidence for kind, evidence in asked if evidence}, missing


def _raise_unrecognized(contents: Contents, missing: MissingExtraError | None) -> NoReturn:
    if contents.any_hdf5(lambda file: is_own(file.attr("", METADATA))):
        raise SourceError.at(contents.path, f"not a source but {OWN_EPISODE}")
    if holds_older(contents.path):
        raise SourceError.at(
            contents.path,
            "older track files, not a source: `letterset doctor` tells what is in them, "
            "`letterset migrate` makes a dataset of them",
        )
    if missing is not None:
        raise missing
    raise SourceError.at(
        contents.path,
        f"no kind of source is recognized: {seen(contents)}. If it is one of "
        f"{', '.join(SOURCES.kinds())}, say so with source.kind",
    )


def holds_older(path: Path) -> bool:
    """Tell whether one of the first HDF5 files at a path holds tracks of the older route."""
    return Contents(path).any_hdf5(_has_tracks)


def _has_tracks(file: SafeHdf5) -> bool:
    return any("tracks" in file.keys(f"root/{view}") for view in file.keys("root"))
