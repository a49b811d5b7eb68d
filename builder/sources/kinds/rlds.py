"""RLDS: episodes in TensorFlow Datasets, as those of Open X; read without TensorFlow.

A dataset is a folder ``<name>/<version>`` with ``dataset_info.json`` (splits, shards and their
lengths), ``features.json`` (what a record holds) and files
``<name>-<split>.tfrecord-00000-of-00010``.  A record is an episode; its feature ``steps`` has,
under names such as ``steps/observation/image``, the values of all steps end to end (features
Dataset, Image, Tensor and Text of TFDS).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from builder.core.errors import SourceError
from builder.core.lazy import Lazy
from builder.core.paths import printable_path, safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.foreign import foreign
from builder.inputs.images import encoded_stream
from builder.inputs.listing import walk
from builder.inputs.sidecars import read_json
from builder.inputs.streams import FrameStream, even_times
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.selection import Selection

_INFO, _FEATURES, _STEPS = "dataset_info.json", "features.json", "steps"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class RldsConfig(Selection):
    """Settings of the ``rlds`` source."""

    recorded_fps: float = Field(
        default=10.0, gt=0, description="the data say nothing of time: see the dataset's own page"
    )


@dataclass(frozen=True)
class Feature:
    """What a record holds under one name: ``kind`` is image, tensor, text or another of TFDS."""

    kind: str
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def is_picture(self) -> bool:
        """Whether its values are colour pictures."""
        return self.kind == "image" and self.dtype == "uint8" and self.shape[-1:] == (3,)

    @property
    def is_text(self) -> bool:
        """Whether its values are texts."""
        return self.kind == "text" or (self.kind == "tensor" and self.dtype in ("string", "object"))


class Rlds(BaseSource[RldsConfig]):
    """Episodes of one TFDS folder, or of all below a folder, shard by shard.

    Colour images of ``steps`` are views, numbers pass through under the names that
    ``features.json`` gives them, slashes as dots; texts of steps are the text, step by step where
    they differ.
    """

    Config: ClassVar = RldsConfig
    packages: ClassVar = ("google_crc32c",)
    markers: ClassVar = (_INFO, _FEATURES)

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for the metadata of TFDS."""
        marked = all((contents.path / mark).exists() for mark in cls.markers)
        if marked or any({_INFO, _FEATURES} <= {*names} for names in contents.folders.values()):
            return Evidence(f"{_INFO} and {_FEATURES} of TensorFlow Datasets: RLDS", strength=3)
        return None

    def refs(self) -> Iterator[EpisodeRef]:
        """List the episodes.  Raises SourceError when there is no dataset of episodes."""
        from builder.inputs.tfrecord import record_places

        found = False
        for folder, names in walk(self.path):
            if not {_INFO, _FEATURES} <= {*names}:
                continue
            found = True
            for shard in _shards(self.path / folder):
                relative = os.path.join(folder, shard.name)
                make = {"group": printable_path(folder) or None, "splits": (shard.split,)}
                try:
                    places = record_places(self.path / relative)
                except SourceError:
                    # One bad file is one failure: opening it is going to say what is wrong.
                    yield EpisodeRef.inside(relative, None, (relative, None, shard.count), **make)
                    continue
                for index, place in enumerate(places):
                    where = (relative, tuple(place), shard.count)
                    yield EpisodeRef.inside(relative, f"episode_{index}", where, **make)
                if shard.count not in (None, len(places)):
                    # Those that are not there, or that nobody told of, are one failure.
                    yield EpisodeRef.inside(relative, None, (relative, None, shard.count), **make)
        if not found:
            raise SourceError.at(self.path, f"no folder with {_INFO} and {_FEATURES} found")

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode; its record is read whole.  Raises SourceError."""
        from builder.inputs.tfrecord import Place, read_example, record_places

        relative, place, count = ref.locator
        path = self.path / relative
        if place is None:
            there = len(record_places(path))
            raise SourceError.at(
                path,
                f"it holds {there} episodes, {_INFO} says {count}; get the file again, or correct "
                f"the number",
            )
        features = _features(path.parent)
        record = read_example(path, Place(*place), self._limits)
        steps = {
            name: (feature, record.get(f"{_STEPS}/{name}", []))
            for name, feature in features.items()
        }
        views, length = self._views(path, steps)
        arrays, left_out = _arrays(steps, length)
        info = os.path.join(os.path.dirname(relative), _INFO)
        texts, index = _texts(steps, length)
        yield Episode(
            views=views,
            arrays=arrays,
            files=fingerprints(self.path, [relative, info]),
            text=texts[0] if texts and index is None else None,
            texts=() if index is None else texts,
            text_index=index,
            notes=(f"left out of the steps: {', '.join(left_out)}",) if left_out else (),
        )

    def _views(
        self, path: Path, steps: Mapping[str, tuple[Feature, Any]]
    ) -> tuple[Lazy[FrameStream], int]:
        """Return the cameras, of which nothing is read yet, and the steps of the longest."""
        pictures = {name: values for name, (each, values) in steps.items() if each.is_picture}
        if not pictures:
            raise SourceError.at(path, f"no colour images among the steps' {sorted(steps)}")
        short = {name: name.removeprefix("observation/").replace("/", ".") for name in pictures}
        names = safe_names(short.values())
        views = Lazy.of(
            lambda name: self._view(path / name, pictures[name]),
            {names[short[name]]: name for name in pictures},
        )
        return views, max(map(len, pictures.values()))

    def _view(self, place: Path, images: Any) -> FrameStream:
        if not len(images) or not isinstance(images, list):
            raise SourceError.at(place, "there are no images in it")
        fps = self._config.recorded_fps
        times = even_times(len(images), fps)
        return encoded_stream(images.__getitem__, place, times, fps, self._limits)


@dataclass(frozen=True)
class _Shard:
    """A file of a split, and how many episodes it is said to hold."""

    name: str
    split: str
    count: int | None


def _shards(folder: Path) -> Iterator[_Shard]:
    """Yield the files that ``dataset_info.json`` tells of.  Raises SourceError."""
    path = folder / _INFO
    info = read_json(path)
    with foreign(path, what="not the dataset_info.json of TensorFlow Datasets"):
        kind, dataset = str(info.get("fileFormat", "tfrecord")), str(info["name"])
        splits = [dict(split) for split in info["splits"]]
    if kind != "tfrecord":
        raise SourceError.at(
            path, f"its fileFormat is {kind!r}; only tfrecord is read, write it again as that"
        )
    for split in splits:
        with foreign(path, what="not a split of TensorFlow Datasets"):
            name = printable_path(str(split["name"]))
            lengths = [int(each) for each in split.get("shardLengths", ())]
            if not lengths:
                raise ValueError("no shardLengths")
            template = str(split.get("filepathTemplate") or _TEMPLATE)
            for index, length in enumerate(lengths):
                numbers = f"{index:05d}-of-{len(lengths):05d}"
                values = {"DATASET": dataset, "SPLIT": name, "FILEFORMAT": kind}
                values |= {"SHARD_X_OF_Y": numbers, "SHARD_INDEX": f"{index:05d}"}
                file = template
                for key, value in values.items():
                    file = file.replace(f"{{{key}}}", value)
                if "/" in file or "{" in file or file.startswith("."):
                    raise ValueError(f"filepathTemplate {template!r}")
                yield _Shard(file, name, length)


def _features(folder: Path) -> dict[str, Feature]:
    """Return the features of the steps by name, slashes between levels.  Raises SourceError."""
    path = folder / _FEATURES
    described = read_json(path)
    with foreign(path, what="not the features.json of TensorFlow Datasets"):
        steps = described["featuresDict"]["features"].get(_STEPS)
        if steps is None:
            raise SourceError.at(path, f"no feature {_STEPS!r}: these are no episodes (RLDS)")
        return dict(_flat("", steps["sequence"]["feature"]))


def _flat(name: str, feature: Mapping[str, Any]) -> Iterator[tuple[str, Feature]]:
    if "featuresDict" in feature:
        for key, inner in feature["featuresDict"]["features"].items():
            yield from _flat(f"{name}/{key}" if name else str(key), inner)
        return
    for kind in ("image", "tensor", "text"):
        if kind in feature:
            own = feature[kind]
            sizes = (own.get("shape") or {}).get("dimensions", ())
            shape = tuple(int(each) if int(each) >= 0 else None for each in sizes)
            encoding = str(own.get("encoding", "none"))
            yield name, Feature(kind, shape, str(own.get("dtype", "")), encoding)
            return
    yield name, Feature(str(feature.get("pythonClassName", "unknown")).rpartition(".")[2])


def _arrays(
    steps: Mapping[str, tuple[Feature, Any]], length: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the numbers with a value per step, and the names of what is left out, with why."""
    arrays: dict[str, np.ndarray] = {}
    left_out: list[str] = []
    for name, (feature, values) in steps.items():
        if feature.is_picture or feature.is_text:
            continue
        array = _array(feature, values, length)
        if array is None:
            left_out.append(f"{printable_path(name)} ({feature.kind} {feature.dtype})".strip())
        else:
            arrays[name.replace("/", ".")] = array
    names = safe_names(arrays)
    return {names[name]: array for name, array in arrays.items()}, left_out


def _array(feature: Feature, values: Any, length: int) -> np.ndarray | None:
    if feature.kind != "tensor" or feature.encoding != "none" or isinstance(values, list):
        return None
    try:
        dtype = np.dtype(feature.dtype)
    except TypeError:  # bfloat16 and the like
        return None
    unknown = sum(size is None for size in feature.shape)
    known = length * math.prod(size for size in feature.shape if size is not None)
    fits = len(values) % known == 0 if unknown == 1 and known else len(values) == known
    if unknown > 1 or not known or not fits or dtype.kind not in "biuf":
        return None
    shape = [-1 if size is None else size for size in feature.shape]
    # Records hold float32 and int64 alone: a float64 was rounded when it was written.
    return values.reshape(length, *shape).astype("<f4" if dtype.kind == "f" else dtype)


def _texts(
    steps: Mapping[str, tuple[Feature, Any]], length: int
) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Return the texts of the steps in their order, and which of several is that of each step.

    A step without one has that of the step before, or of the first that has one.
    """
    for name, (feature, values) in steps.items():
        if feature.is_text and "language" in name and isinstance(values, list):
            said = [safe_text(value.decode("utf-8", "replace")) for value in values]
            texts = tuple(dict.fromkeys(each for each in said if each))
            if len(texts) < 2:
                return texts, None
            if len(said) != length:
                return ("\n".join(texts),), None
            places = [texts.index(each) if each else -1 for each in said]
            known = np.maximum.accumulate(
                np.where(np.array(places) >= 0, np.arange(length), places.index(0))
            )
            return texts, np.array(places)[known]
    return (), None
