"""LeRobot datasets, versions 3.0 and 2.1, read by the path templates in their ``meta`` folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from builder.core.errors import AbsentError, SourceError
from builder.core.lazy import Lazy
from builder.core.messages import count
from builder.core.paths import printable_path, safe_names, safe_text
from builder.inputs.fingerprint import fingerprints
from builder.inputs.images import encoded_stream
from builder.inputs.listing import (
    HDF5_SUFFIXES,
    VIDEO_SUFFIXES,
    natural_key,
    read_small,
    walk,
)
from builder.inputs.streams import FrameStream
from builder.inputs.video import VideoStream
from builder.inputs.video_span import VideoSpan
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.contents import Contents, Evidence
from builder.sources.lerobot_meta import INFO, JSON_BYTES, EpisodeRow, LeRobotMeta
from builder.sources.selection import Selection

if TYPE_CHECKING:
    from builder.inputs.parquet import SelectedRows

_LICENCE = re.compile(r"^license:\s*(\S[^\n]*)$", re.MULTILINE)


class LeRobotConfig(Selection):
    """Settings of the ``lerobot`` source."""


class LeRobot(BaseSource[LeRobotConfig]):
    """Episodes of one dataset, or of all below a folder.

    Cameras are features of dtype ``video`` or ``image``.  Texts are what ``task_index`` says of
    each frame.  The clock is the ``timestamp`` column.  An episode that shares its video file
    with others is reached by seeking.  Depth maps kept as video are left out.
    """

    Config: ClassVar = LeRobotConfig
    packages: ClassVar = ("pyarrow",)
    markers: ClassVar = (INFO,)

    @classmethod
    def recognize(cls, contents: Contents) -> Evidence | None:
        """Look for the metadata, which state a version, here or below."""
        if (version := _version(contents.path)) is not None:
            return Evidence(f"{INFO} of version {version}", 3)
        roots = _roots(contents.folders.items())
        if not any(_version(contents.path / root) for root in roots):
            return None
        # What else lies beside the datasets makes it a question which is meant.
        found = {**contents.having(VIDEO_SUFFIXES), **contents.having(HDF5_SUFFIXES)}
        others = [each for each in found if not any(_is_below(each, root) for root in roots)]
        shown = ", ".join(map(printable_path, roots[:5])) + (", ..." if len(roots) > 5 else "")
        why = f"{count(len(roots), 'LeRobot dataset')} below it: {shown}"
        return Evidence(why, 2 if others else 3)

    def refs(self) -> Iterator[EpisodeRef]:
        """List the episodes.  Raises SourceError when there is no LeRobot dataset."""
        roots = [""]
        if self.path.is_dir() and not (self.path / INFO).exists():
            roots = _roots(walk(self.path)) or roots
        for root in roots:
            place = f"{root}/" if root else ""
            try:
                yield from self._refs(root, place)
            except SourceError as error:
                if len(roots) == 1:
                    raise
                # One bad dataset among others is one failure.
                yield EpisodeRef.at(f"{place}{INFO}", str(error))

    def _refs(self, root: str, place: str) -> Iterator[EpisodeRef]:
        meta = LeRobotMeta(self.path / root, self._limits, root)
        listed = 0
        for row in meta.episodes():
            listed += 1
            name = f"{place}episode_{row.index:06d}"
            task = safe_text("; ".join(row.tasks))
            task = printable_path(task) if task else None
            group = printable_path(root) or None
            splits = meta.splits(row.index)
            yield EpisodeRef.at(name, row, task=task, group=group, splits=splits)
        if not listed:
            raise meta.error("the dataset lists no episode")
        if lost := meta.unlisted(listed):
            # Those that are not there are one failure.
            yield EpisodeRef.at(f"{place}{INFO}", str(meta.error(lost)))

    @contextmanager
    def open(self, ref: EpisodeRef) -> Iterator[Episode]:
        """Open one episode.  Raises SourceError naming the file that is wrong."""
        from builder.inputs.parquet import select_rows

        if isinstance(ref.locator, str):
            raise SourceError(ref.locator)
        row: EpisodeRow = ref.locator
        meta = LeRobotMeta(self.path / row.root, self._limits, row.root)
        path = self.path / row.data
        with select_rows(path, "episode_index", row.index, self._limits) as rows:
            if len(rows) != row.length or not row.length:
                raise SourceError.at(
                    path,
                    f"{len(rows)} rows of episode {row.index}, its metadata declare {row.length}",
                )
            clock = _clock(rows, meta.fps)
            words, index, notes = _words(rows, row, meta)
            images, numeric = meta.keys("image"), safe_names(meta.numeric())
            names = safe_names([*row.videos, *images])
            if not names:
                raise meta.error(f"no feature of dtype video or image in {sorted(meta.features)}")
            views: dict[str, Callable[[], FrameStream]] = {
                names[key]: partial(self._video, row, key, names[key], clock) for key in row.videos
            }
            for key in images:
                views[names[key]] = partial(self._images, rows, row, key, clock, meta.fps)
            yield Episode(
                views=Lazy(views),
                arrays=Lazy.of(
                    partial(_array, rows, meta), {name: key for key, name in numeric.items()}
                ),
                array_names=numeric,
                files=fingerprints(self.path, [row.data]),
                view_files=self.files_of_views(
                    {names[key]: place[0] for key, place in row.videos.items() if place}
                ),
                task=printable_path("; ".join(words)) or None,
                text=words[0] if words and index is None else None,
                texts=() if index is None else words,
                text_index=index,
                licence=self._licence(row.root),
                clock=clock,
                notes=(*meta.depth_notes(), *notes),
            )

    def weight(self, ref: EpisodeRef) -> float:
        """Return the frames of one view."""
        return float(getattr(ref.locator, "length", 0))

    def _video(self, row: EpisodeRow, key: str, view: str, clock: np.ndarray) -> FrameStream:
        place, turn = row.videos[key], self._config.turned_by_hand(view)
        if place is None:
            raise AbsentError.at(self.path, f"episode {row.index} has no video of {key}")
        path, start = self.path / place[0], place[1]
        if start is None:
            return VideoStream(path, limits=self._limits, orientation=turn)
        return VideoSpan(path, start, clock, limits=self._limits, orientation=turn)

    def _images(
        self, rows: SelectedRows, row: EpisodeRow, key: str, clock: np.ndarray, fps: float
    ) -> FrameStream:
        column, what = rows.column(key), f"{row.data}: {key}"

        def data_of(index: int) -> bytes:
            value = column[index].as_py()
            data = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(data, bytes):
                raise SourceError(f"{what}: row {index} holds no image bytes")
            return data

        return encoded_stream(data_of, Path(what), clock, fps, self._limits)

    def _licence(self, root: str) -> str | None:
        readme = self.path / root / "README.md"
        if not readme.is_file():
            return None
        with readme.open("rb") as file:
            licence = _LICENCE.search(file.read(4096).decode("utf-8", "replace"))
        return safe_text(licence[1].strip("'\" "), 100) if licence else None


def _clock(rows: SelectedRows, fps: float) -> np.ndarray:
    if "timestamp" not in rows.names:
        return np.arange(len(rows)) / fps
    seconds = rows.array("timestamp", ()).astype(np.float64)
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        raise SourceError("the timestamp column does not ascend")
    return seconds


def _words(
    rows: SelectedRows, row: EpisodeRow, meta: LeRobotMeta
) -> tuple[tuple[str, ...], np.ndarray | None, tuple[str, ...]]:
    """Return the texts of an episode, which of several is that of each frame, and notes.

    What ``task_index`` says of the frames goes before the list of the episode.
    """
    listed = tuple(filter(None, map(safe_text, row.tasks)))
    try:
        column = rows.array("task_index", ()) if "task_index" in rows.names else None
        if column is None:
            raise SourceError("there is no column task_index")
        known, note = meta.tasks()
        numbers = list(dict.fromkeys(column.tolist()))
        words = [safe_text(known.get(number)) for number in numbers]
        if None in words:
            raise SourceError(f"meta/tasks has no text of task_index {numbers[words.index(None)]}")
    except SourceError as error:
        if len(listed) < 2:
            said = f"the text is that of the whole episode: {error.reason}"
            return listed, None, (said,) if listed and "task_index" in rows.names else ()
        told = f"which frames have which of {len(listed)} tasks is not known: {error.reason}"
        return ("; ".join(listed),), None, (told,)
    texts = tuple(dict.fromkeys(word for word in words if word))
    notes = (note,) if note and len(known) > 1 else ()
    if len(texts) == 1:
        return texts, None, notes
    place = {number: texts.index(str(word)) for number, word in zip(numbers, words, strict=True)}
    return texts, np.array([place[number] for number in column.tolist()]), notes


def _version(root: Path) -> str | None:
    """Return the version that a dataset states; None where there is none."""
    try:
        info = json.loads(read_small(root / INFO, JSON_BYTES))
        return str(info.get("codebase_version", "unknown"))
    except (SourceError, ValueError, AttributeError, RecursionError):
        return None


def _roots(folders: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Return the folders of datasets among listed ones; none inside of another."""
    marked = [
        os.path.dirname(folder)
        for folder, names in folders
        if os.path.basename(folder) == "meta" and "info.json" in names
    ]
    roots = [
        each for each in marked if not any(_is_below(each, root) for root in marked if root != each)
    ]
    return sorted(roots, key=natural_key)


def _is_below(folder: str, root: str) -> bool:
    return not root or folder == root or folder.startswith(f"{root}/")


def _array(rows: SelectedRows, meta: LeRobotMeta, key: str) -> np.ndarray:
    return rows.array(key, _shape(meta, key))


def _shape(meta: LeRobotMeta, key: str) -> tuple[int, ...]:
    shape = meta.features.get(key, {}).get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise meta.error(f"the feature {key} has no usable shape, got {shape!r}")
    return tuple(shape)
