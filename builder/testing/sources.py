"""Conformance of sources: what every one of them must do, whatever it reads.

Call :func:`check_source` in a source's tests, or run the single ``CHECKS`` as cases.
"""

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.inputs.streams import Frame
from builder.sources.base import Source
from builder.testing.checks import require
from schemas.dataset import EpisodeId, Fingerprint, Name

MakeSource = Callable[[], Source]
"""``make_source()`` gives a source with at least one episode; small ones keep checks fast."""


def check_source(make_source: MakeSource) -> None:
    """Run all checks on every episode.  Raises AssertionError that says what is wrong."""
    for check in CHECKS:
        check(make_source)


def listing_is_stable(make_source: MakeSource) -> None:
    """Check that listing twice gives the same refs, with ids that differ and can be stored."""
    source = make_source()
    refs = list(source.refs())
    require(refs, "the source lists no episode")
    require(refs == list(source.refs()), "listing again gives other refs, or another order")
    require(refs == list(make_source().refs()), "a second source on the same data differs")
    ids = [ref.id.casefold() for ref in refs]
    require(len(set(ids)) == len(ids), f"ids collide (case folded): {sorted(ids)}")
    for ref in refs:
        _valid(EpisodeId, ref.id, "an id")
        require(_plain(ref.path), f"{ref.path!r} is not printable; use builder.core.paths")
        for text in (ref.task, ref.group, *ref.splits):
            require(text is None or _plain(text), f"{ref.path}: {text!r} is not plain text")


def source_and_refs_are_picklable(make_source: MakeSource) -> None:
    """Check that a child process can be handed the source and its refs."""
    source = make_source()
    refs = list(source.refs())
    require(_pickled(refs) == refs, "refs change by pickling")
    copy = _pickled(source)
    require(list(copy.refs()) == refs, "a pickled source lists other refs")


def frames_are_what_was_promised(make_source: MakeSource) -> None:
    """Check number, shape, type and times of the frames against ``info``."""
    for ref, episode in _episodes(make_source()):
        require(episode.views, f"{ref.path}: no view")
        for name, stream in episode.views.items():
            _valid(Name, name, f"{ref.path}: a view's name")
            frames = list(stream)
            info = stream.info
            what = f"{ref.path}, view {name}"
            require(info.num_frames >= 1, f"{what}: num_frames is {info.num_frames}")
            require(
                len(frames) == info.num_frames,
                f"{what}: {len(frames)} frames came, info promised {info.num_frames}",
            )
            for frame in frames:
                _check_frame(what, frame, info.coded_shape)
            seconds = np.array([frame.seconds for frame in frames])
            require(np.isfinite(seconds).all(), f"{what}: a time is not finite")
            require((np.diff(seconds) >= 0).all(), f"{what}: times go back")


def iterating_again_starts_again(make_source: MakeSource) -> None:
    """Check that frames repeat, also after a pass that was broken off."""
    for ref, stream in _streams(make_source()):
        first = [_pixels(frame) for frame in stream]
        next(iter(stream), None)
        again = [_pixels(frame) for frame in stream]
        same = len(first) == len(again) and all(map(np.array_equal, first, again))
        require(same, f"{ref.path}: a second pass gives other frames")


def frames_can_be_kept(make_source: MakeSource) -> None:
    """Check that a frame keeps its pixels while later frames come."""
    for ref, stream in _streams(make_source()):
        kept = [(frame, _pixels(frame).copy()) for frame in stream]
        same = all(np.array_equal(_pixels(frame), pixels) for frame, pixels in kept)
        require(same, f"{ref.path}: a frame changed when later ones were read")


def shortcuts_agree(make_source: MakeSource) -> None:
    """Check ``times`` and ``take`` against the frames of a stream."""
    for ref, stream in _streams(make_source()):
        frames = list(stream)
        seconds = [frame.seconds for frame in frames]
        same = np.array_equal(stream.times(), seconds)
        require(same, f"{ref.path}: times() are not the seconds of the frames")
        wanted = np.array([0, 0, len(frames) // 2, len(frames) - 1])
        taken = list(stream.take(wanted))
        same = len(taken) == len(wanted) and all(
            np.array_equal(_pixels(one), _pixels(frames[k])) and one.seconds == frames[k].seconds
            for one, k in zip(taken, wanted, strict=True)
        )
        require(same, f"{ref.path}: take() gives other frames than iterating")


def arrays_fit_the_frames(make_source: MakeSource) -> None:
    """Check that arrays are plain numbers with one row per tick, under storable names."""
    for ref, episode in _episodes(make_source()):
        first = next(iter(episode.views.values()))
        ticks = first.info.num_frames if episode.clock is None else len(episode.clock)
        for name, array in {**episode.arrays, **episode.constants}.items():
            what = f"{ref.path}, array {name}"
            _valid(Name, name, f"{ref.path}: an array's name")
            plain = isinstance(array, np.ndarray) and array.dtype.kind in "biuf"
            require(plain, f"{what}: not an array of plain numbers")
            require(array.dtype.str[0] in "<|", f"{what}: not little endian")
        for name, array in episode.arrays.items():
            require(
                array.ndim > 0 and len(array) == ticks,
                f"{ref.path}, array {name}: shape {array.shape}, expected {ticks} rows; what has "
                f"no time axis goes into constants",
            )


def maps_fit_the_frames(make_source: MakeSource) -> None:
    """Check depth and labels: arrays (H, W) of the view's shape, as many as it has frames."""
    for ref, episode in _episodes(make_source()):
        for view, maps in episode.maps.items():
            info = episode.views[view].info
            for name, stream in maps.items():
                images = [frame.image for frame in stream]
                require(
                    len(images) == info.num_frames
                    and all(np.shape(image) == tuple(info.coded_shape) for image in images),
                    f"{ref.path}, {name} of view {view}: expected {info.num_frames} arrays of "
                    f"{info.coded_shape}",
                )


def files_are_fingerprinted(make_source: MakeSource) -> None:
    """Check that an episode names the files it came from, relative to the source."""
    for ref, episode in _episodes(make_source()):
        require(episode.files, f"{ref.path}: no file is named; see builder.inputs.fingerprint")
        for path, mark in episode.files.items():
            good = _plain(path) and not path.startswith("/") and isinstance(mark, Fingerprint)
            require(good, f"{ref.path}: {path!r} is not a relative printable path, or no mark")


def nothing_stays_open(make_source: MakeSource) -> None:
    """Check that leaving an episode closes its files."""
    source = make_source()
    _read_all(source)
    before = _open_files()
    _read_all(source)
    left = _open_files() - before
    require(left <= 0, f"{left} files stayed open")


CHECKS = (
    listing_is_stable,
    source_and_refs_are_picklable,
    frames_are_what_was_promised,
    iterating_again_starts_again,
    frames_can_be_kept,
    shortcuts_agree,
    arrays_fit_the_frames,
    maps_fit_the_frames,
    files_are_fingerprinted,
    nothing_stays_open,
)


def _valid(kind: Any, value: Any, what: str) -> None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise AssertionError(f"{what} cannot be stored: {value!r} ({error})") from None


def _pickled(value: Any) -> Any:
    try:
        return pickle.loads(pickle.dumps(value))
    except Exception as error:
        # Whatever stops pickle is the finding.
        raise AssertionError(f"{type(value).__name__} cannot be pickled: {error}") from None


def _plain(text: str) -> bool:
    return bool(text) and text.isprintable()


def _episodes(source: Source) -> Any:
    for ref in source.refs():
        with source.open(ref) as episode:
            yield ref, episode


def _streams(source: Source) -> Any:
    for ref, episode in _episodes(source):
        for stream in episode.views.values():
            yield ref, stream


def _read_all(source: Source) -> None:
    for _, stream in _streams(source):
        for _ in stream:
            pass


def _open_files() -> int:
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0


def _pixels(frame: Frame) -> np.ndarray:
    image: Any = frame.image
    return image if isinstance(image, np.ndarray) else image.to_ndarray(format="rgb24")


def _check_frame(what: str, frame: Frame, coded_shape: tuple[int, int]) -> None:
    image: Any = frame.image
    if isinstance(image, np.ndarray):
        good = image.dtype == np.uint8 and image.shape == (*coded_shape, 3)
        got = f"{image.dtype} {image.shape}"
    else:
        good = (image.height, image.width) == tuple(coded_shape)
        got = f"(H, W) = {(image.height, image.width)}"
    require(good, f"{what}: expected a frame of {tuple(coded_shape)} uint8 RGB, got {got}")
