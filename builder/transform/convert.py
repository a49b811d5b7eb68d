"""Converts a dataset to another kind of store or other codecs, and compares every number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ValidationError

from builder.core.errors import ConfigError, DatasetError, StoreError, UnreadableError
from builder.core.explain import explain
from builder.core.records import record_data
from builder.dataset.episodes import Dataset
from builder.dataset.folder import DatasetWriter, index_line, store_at
from builder.dataset.validate import Problem, check_episode
from builder.stores.base import (
    STORES,
    ArraySpec,
    Encoded,
    EpisodeReader,
    EpisodeWriter,
    Store,
    arrays_by_view,
)
from builder.stores.reading import blocks
from builder.transform.merge import Gathered, carry_along, gather
from schemas.config import StorePart
from schemas.dataset import ArrayMeta, DatasetMeta, EpisodeMeta, IndexLine

_TRACK_CODECS = {"f32": "raw", "u16": "u16"}
_U16_ERROR_PX = 1 / 128


@dataclass
class Conversion(Gathered):
    """How a conversion ended; ``episodes`` is how many were converted."""

    done_word: ClassVar[str] = "converted"

    errors: dict[str, float] = field(default_factory=dict)
    """By array name: the largest difference from what was stored before."""

    def lines(self) -> list[str]:
        """Name the arrays that lost something, then list failures and notes."""
        lossy = [
            f"LOSSY {name}: off by at most {error:.4g} {'levels' if name == 'frames' else 'px'}"
            for name, error in sorted(self.errors.items())
        ]
        return [*lossy, *super().lines()]

    def as_json(self) -> dict[str, Any]:
        """Return all fields as JSON data."""
        return {
            "out": self.out,
            "converted": self.episodes,
            "there": self.there,
            "errors": self.errors,
            "failures": self.failures,
            "notes": self.notes,
        }


def convert(path: Path | str, out: Path | str, part: Mapping[str, Any]) -> Conversion:
    """Write the dataset at ``path`` to ``out``, stored as ``part`` says.

    ``part`` are keys of ``store``: kind, frames.codec, tracks.dtype; what it leaves out stays as
    it is.  Each episode is read back: what is lossless must be equal, the error of the rest is
    reported.  Episodes that fail are listed, in ``failures/`` too; running it again continues, and
    tries them again.  Raises ConfigError, DatasetError, OutputError.
    """
    dataset, out = Dataset(Path(path), max_open=1), Path(out)
    if out.resolve() == dataset.path.resolve():
        raise ConfigError(f"{out} is the dataset itself; convert into another folder")
    meta, store_part = _converted_meta(dataset.meta, part, str(out))
    make_store, _ = STORES.configure(store_part)
    store = make_store(out)
    result = Conversion(str(out))

    def convert_one(episode_id: str) -> IndexLine:
        with closing(dataset[episode_id].reader) as reader:
            if damage := check_episode(dataset.store, episode_id, dataset.meta).problems:
                _refuse_unread(damage)
                told = (": ".join(filter(None, (each.where, each.message))) for each in damage)
                raise DatasetError(f"{reader.path} is damaged: {'; '.join(told)}")
            return index_line(_convert(reader, store, catalog.meta, store_part, part, result))

    with DatasetWriter.create(out, meta) as catalog:
        if (out / store_at(out).place).is_dir() and store_at(out).place != store.place:
            raise ConfigError(f"{out} keeps its episodes in {store_at(out).place} already")
        gather(catalog, dataset.ids, convert_one, result)
    if result.any_done:  # else the failures tell why there is nothing
        result.notes += carry_along([dataset.path], out, result.failures)
    return result


def _converted_meta(
    meta: DatasetMeta, part: Mapping[str, Any], out: str
) -> tuple[DatasetMeta, StorePart]:
    """Lay ``part`` over the recorded settings of the store."""
    known: Any = meta.config.get("store")
    kept = known if isinstance(known, dict) else {}
    merged = {"kind": "hdf5", **kept, "path": out}
    for key, value in part.items():
        old = merged.get(key)
        merged[key] = (
            {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        )
    try:
        store_part = StorePart.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, StorePart, "store")) from None
    settings = record_data(store_part)
    changed = {key: value for key, value in settings.items() if key not in ("kind", "path")}
    if changed == kept or not part.keys() - {"kind"}:
        return meta, store_part
    return meta.resealed(config={**meta.config, "store": changed}, parts=()), store_part


def _convert(
    reader: EpisodeReader,
    store: Store,
    dataset: DatasetMeta,
    part: StorePart,
    asked: Mapping[str, Any],
    result: Conversion,
) -> EpisodeMeta:
    """Copy one episode into ``dataset``, and compare it.

    Raises StoreError when it cannot be or is not equal.
    """
    meta = reader.meta
    bare = [view.name for view in meta.views if "frames" not in view.arrays]
    if bare and part.frames.codec != "none" and "frames" in asked:
        raise StoreError(f"there are no frames of {bare} to store as {part.frames.codec}")
    arrays = list(_arrays(reader, part, asked))
    if not store.has(meta.id):
        layout: dict[str | None, dict[str, ArraySpec]] = {view: {} for view in arrays_by_view(meta)}
        for array in arrays:
            layout[array.view][array.name] = array.spec
        with store.begin(meta.id, layout) as writer:
            for array in arrays:
                array.copy(writer)
            digests = writer.digests()
            views = (
                view.model_copy(update={"arrays": dict(digests[view.name])}) for view in meta.views
            )
            described = {} if dataset.describes(meta) else {"dataset": dataset.digest}
            made = {"arrays": dict(digests[None]), "views": tuple(views), **described}
            writer.commit(meta.resealed(**made))
    found = check_episode(store, meta.id).problems
    _refuse_unread(found)  # it is there, and is verified by the next attempt
    problems = [str(problem) for problem in found]
    with closing(store.open(meta.id)) as written:
        for array in arrays:
            problems += array.compare(written, result.errors)
        if not problems:
            return written.meta
    # Out of the way of the next attempt: what is wrong is the copy.
    raise StoreError(f"{'; '.join(problems)}; the copy is now {store.set_aside(meta.id)}")


def _refuse_unread(problems: Iterable[Problem]) -> None:
    for problem in problems:
        if problem.unread:
            raise UnreadableError(problem.message)


def _arrays(reader: EpisodeReader, part: StorePart, asked: Mapping[str, Any]) -> Iterator[_Array]:
    """Yield the arrays that are written, with the codecs that are asked for."""
    keeps_jpeg = "quality" not in asked.get("frames", {})
    for view, arrays in arrays_by_view(reader.meta).items():
        for name, array in arrays.items():
            codec = array.codec
            if name == "frames" and "frames" in asked:
                codec = part.frames.codec
            if name == "tracks" and "tracks" in asked:
                codec = _TRACK_CODECS[part.tracks.dtype]
            # JPEG files bring their offsets along.
            if codec == "none" or (name.endswith("_offsets") and name[:-8] in arrays):
                continue
            spec = ArraySpec(array.shape, array.dtype, codec, part.frames.quality, array.per_frame)
            yield _Array(reader, view, name, array, spec, keeps_jpeg)


@dataclass(frozen=True)
class _Array:
    """One array of an episode: where it is read, and how it is stored next."""

    reader: EpisodeReader
    view: str | None
    name: str
    was: ArrayMeta
    spec: ArraySpec
    keeps_jpeg: bool

    @property
    def unpacks_tracks(self) -> bool:
        """Whether u16 tracks become f32: their step 0 is rounded, f32's is the query points."""
        return self.name == "tracks" and (self.was.codec, self.spec.codec) == ("u16", "raw")

    def copy(self, writer: EpisodeWriter) -> None:
        if self.spec.codec == self.was.codec == "jpeg" and self.keeps_jpeg:
            # Decoding and encoding again would lose a little each time.
            ends = np.asarray(self.reader.array(self.view, f"{self.name}_offsets"))
            files = _cut(self.reader.stored_bytes(self.view, self.name), np.diff(ends))
            for at, data in enumerate(files):
                writer.write(self.view, self.name, at, Encoded(data))
            return
        for at, block in blocks(self.reader.array(self.view, self.name)):
            if self.unpacks_tracks:
                block[:, 0] = self.reader.array(self.view, "queries")
            writer.write(self.view, self.name, at, block)

    def compare(self, written: EpisodeReader, errors: dict[str, float]) -> Iterator[str]:
        """Say whether it is not what it was; note the error of what is lossy."""
        if self.was.sha256 == arrays_by_view(written.meta)[self.view][self.name].sha256:
            return
        before, after = (
            blocks(each.array(self.view, self.name)) for each in (self.reader, written)
        )
        worst = 0.0
        for (_, was), (_, now) in zip(before, after, strict=True):
            if self.unpacks_tracks:  # step 0 was rounded and is not any more
                was, now = was[:, 1:], now[:, 1:]
            off = np.abs(was.astype(np.float64) - now.astype(np.float64))
            worst = max(worst, float(off.max(initial=0)))
        # u16 and JPEG lose a little when they are written, never when they are read.
        allowed = {"u16": _U16_ERROR_PX, "jpeg": 255.0}.get(self.spec.codec, 0.0)
        if worst > allowed:
            yield (
                f"{self.view}/{self.name} is off by {worst:g} after conversion, at most "
                f"{allowed:g} is right"
            )
        if worst:
            errors[self.name] = max(worst, errors.get(self.name, 0.0))


def _cut(pieces: Iterator[bytes], sizes: np.ndarray) -> Iterator[bytes]:
    rest = b""
    for size in sizes.tolist():
        while len(rest) < size:
            rest += next(pieces)
        yield rest[:size]
        rest = rest[size:]
