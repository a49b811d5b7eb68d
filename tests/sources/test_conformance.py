"""The conformance suite itself: a good source passes, and each check fails on a broken one."""

import tempfile
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from source_fixtures import SHAPE, pictures

from builder.inputs.streams import BlockStream, Frame, FrameStream, StreamInfo, even_times
from builder.sources.base import Episode, EpisodeRef, Source
from builder.testing.sources import CHECKS, check_source
from schemas.dataset import Fingerprint

COUNT = 6
FRAMES = pictures(COUNT)


class Good(Source):
    """Two episodes in memory."""

    def refs(self):
        for k in range(2):
            yield EpisodeRef(f"e{k}-0", f"e{k}", k)

    @contextmanager
    def open(self, ref):
        yield self.episode()

    def episode(self):
        return Episode(
            views={"main": self.stream()},
            arrays={"actions": np.zeros((COUNT, 2))},
            constants={"embedding": np.zeros(3)},
            maps={"main": {"depth": self.depth()}},
            files={"e.mp4": Fingerprint(size=3, sha256="0" * 64)},
        )

    def stream(self):
        info = StreamInfo(SHAPE, COUNT)
        return BlockStream(info, even_times(COUNT, 5.0), lambda a, b: FRAMES[a:b], block=4)

    def depth(self):
        info = StreamInfo(SHAPE, COUNT)
        return BlockStream(info, even_times(COUNT, 5.0), lambda a, b: FRAMES[a:b, ..., 0], block=4)


class OtherOrder(Good):
    turns = 0

    def refs(self):
        type(self).turns += 1
        return iter(list(super().refs())[:: 1 if self.turns % 2 else -1])


class NoEpisodes(Good):
    def refs(self):
        return iter(())


class SameIds(Good):
    def refs(self):
        return (replace(ref, id="E0" if ref.locator else "e0") for ref in super().refs())


class EscapingId(Good):
    def refs(self):
        return (replace(ref, id=f"../{ref.id}") for ref in super().refs())


class OddPath(Good):
    def refs(self):
        return (replace(ref, path=ref.path + "\n") for ref in super().refs())


class OddTask(Good):
    def refs(self):
        return (replace(ref, task="a\ud800") for ref in super().refs())


class Unpicklable(Good):
    def __init__(self):
        self.lambda_ = lambda: None


class Forgetful(Good):
    """Lists nothing once it was pickled."""

    def __getstate__(self):
        return {"empty": True}

    def refs(self):
        return iter(()) if getattr(self, "empty", False) else super().refs()


class Changed(Good):
    """Streams made by ``change(frames)``."""

    info = StreamInfo(SHAPE, COUNT)

    def stream(self):
        return PlainStream(self.info, self.change)

    def change(self, frames):
        return frames


class PlainStream(FrameStream):
    def __init__(self, info, change):
        self.info, self._change = info, change

    def __iter__(self):
        return iter(self._change([Frame(FRAMES[k].copy(), k / 5) for k in range(len(FRAMES))]))


class Short(Changed):
    def change(self, frames):
        return frames[:-1]


class OtherShape(Changed):
    info = StreamInfo(SHAPE[::-1], COUNT)


class Floats(Changed):
    def change(self, frames):
        return [Frame(frame.image / 255, frame.seconds) for frame in frames]


class Backwards(Changed):
    def change(self, frames):
        return [Frame(frame.image, -frame.seconds) for frame in frames]


class NotFinite(Changed):
    def change(self, frames):
        return [Frame(frame.image, float("nan")) for frame in frames]


class NoView(Good):
    def episode(self):
        return replace(super().episode(), views={})


class OddViewName(Good):
    def episode(self):
        return replace(super().episode(), views={"my view": self.stream()}, maps={})


class Once(Good):
    """A stream that goes on where it stopped."""

    def stream(self):
        stream = super().stream()
        rest = iter(list(stream))

        class Rest(FrameStream):
            info = stream.info

            def __iter__(self):
                return rest

        return Rest()


class Different(Changed):
    turn = 0

    def change(self, frames):
        self.turn += 1
        return [Frame(frame.image + np.uint8(self.turn), frame.seconds) for frame in frames]


class OneBuffer(Changed):
    def change(self, frames):
        buffer = np.empty_like(frames[0].image)
        for frame in frames:
            buffer[:] = frame.image
            yield Frame(buffer, frame.seconds)


class WrongTimes(Good):
    def stream(self):
        stream = super().stream()
        stream.times = lambda: even_times(COUNT, 6.0)
        return stream


class WrongTake(Good):
    def stream(self):
        stream = super().stream()
        stream.take = lambda indices: iter(Frame(FRAMES[k], k / 5) for k in sorted(set(indices)))
        return stream


class RowsMissing(Good):
    def episode(self):
        return replace(super().episode(), arrays={"actions": np.zeros((COUNT - 1, 2))})


class Objects(Good):
    def episode(self):
        return replace(super().episode(), constants={"x": np.array([{}], object)})


class BigEndian(Good):
    def episode(self):
        return replace(super().episode(), constants={"x": np.zeros(3, ">f4")})


class OddArrayName(Good):
    def episode(self):
        return replace(super().episode(), arrays={"obs/x": np.zeros(COUNT)})


class MapOfOtherShape(Good):
    def depth(self):
        info = StreamInfo(SHAPE, COUNT)
        return BlockStream(info, even_times(COUNT, 5.0), lambda a, b: FRAMES[a:b, 1:, :, 0])


class NoFiles(Good):
    def episode(self):
        return replace(super().episode(), files={})


class AbsoluteFile(Good):
    def episode(self):
        return replace(super().episode(), files={"/e": Fingerprint(size=3, sha256="0" * 64)})


class Leaking(Good):
    kept = []  # noqa: RUF012

    def episode(self):
        self.kept.append(tempfile.TemporaryFile())
        return super().episode()


BROKEN = {
    "listing_is_stable": {
        OtherOrder: "listing again",
        NoEpisodes: "no episode",
        SameIds: "ids collide",
        EscapingId: "cannot be stored",
        OddPath: "not printable",
        OddTask: "not plain text",
    },
    "source_and_refs_are_picklable": {
        Unpicklable: "cannot be pickled",
        Forgetful: "a pickled source",
    },
    "frames_are_what_was_promised": {
        Short: "5 frames came, info promised 6",
        OtherShape: "expected a frame of",
        Floats: "uint8 RGB",
        Backwards: "times go back",
        NotFinite: "not finite",
        NoView: "no view",
        OddViewName: "name cannot be stored",
    },
    "iterating_again_starts_again": {Once: "a second pass", Different: "other frames"},
    "frames_can_be_kept": {OneBuffer: "changed when later ones"},
    "shortcuts_agree": {WrongTimes: "times", WrongTake: "take"},
    "arrays_fit_the_frames": {
        RowsMissing: "expected 6 rows",
        Objects: "plain numbers",
        BigEndian: "little endian",
        OddArrayName: "name cannot be stored",
    },
    "maps_fit_the_frames": {MapOfOtherShape: "expected 6 arrays"},
    "files_are_fingerprinted": {NoFiles: "no file is named", AbsoluteFile: "not a relative"},
    "nothing_stays_open": {Leaking: "stayed open"},
}


def test_a_good_source_passes():
    check_source(Good)
    check_source(Changed)


def test_every_check_has_a_source_that_breaks_it():
    assert [check.__name__ for check in CHECKS] == list(BROKEN)


@pytest.mark.parametrize(
    ("name", "broken", "match"),
    [(name, kind, match) for name, cases in BROKEN.items() for kind, match in cases.items()],
)
def test_a_broken_source_fails_its_check(name, broken, match):
    [check] = [check for check in CHECKS if check.__name__ == name]
    with pytest.raises(AssertionError, match=match):
        check(broken)
    for kept in Leaking.kept:
        kept.close()
