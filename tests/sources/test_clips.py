"""Episodes cut into clips: which frames each has, on which clock, and what is told of them."""

import pickle
from contextlib import nullcontext

import numpy as np
import pytest
from media import encode, moving
from source_fixtures import numbers
from test_selection import episode, stream

from builder.build.backends import open_source_part
from builder.core.errors import ConfigError, SourceError
from builder.sources.base import EpisodeRef, Source
from builder.sources.clips import clip_of, clip_refs, whole_of
from builder.sources.selected import Selected
from builder.sources.selection import Clips, Selection
from schemas.config import Limits, SourcePart

REF = EpisodeRef.at("kitchen/a b.mp4", "there", task="pour", splits=("train",))


def spans(times, steps=1, **how):
    refs = clip_refs(REF, Clips(**how), np.asarray(times, float), steps)
    return [(ref.path[-4:], clip_of(ref).first, clip_of(ref).last) for ref in refs]


@pytest.mark.parametrize(
    ("count", "steps", "how", "expected"),
    [
        (25, 1, {"frames": 10}, [("0000", 0, 10), ("0001", 10, 20), ("0002", 20, 25)]),
        (25, 4, {"frames": 10}, [("0000", 0, 13), ("0001", 10, 23), ("0002", 20, 25)]),
        # What is left after the second has no window of its own: the second has it all.
        (22, 4, {"frames": 10}, [("0000", 0, 13), ("0001", 10, 22)]),
        (21, 4, {"frames": 10, "overlap": 0}, [
            ("0000", 0, 10), ("0001", 10, 20), ("0002", 20, 21)
        ]),
        (9, 4, {"frames": 10}, [("0000", 0, 9)]),
        (25, 1, {"seconds": 1.0}, [("0000", 0, 10), ("0001", 10, 20), ("0002", 20, 25)]),
        (25, 4, {"seconds": 0.7, "overlap": 2}, [
            ("0000", 0, 9), ("0001", 7, 16), ("0002", 14, 23), ("0003", 21, 25)
        ]),
    ],
)  # fmt: skip
def test_where_clips_begin_and_end(count, steps, how, expected):
    assert spans(np.arange(count) / 10, steps, **how) == expected


@pytest.mark.parametrize("steps", [1, 5, 16])
@pytest.mark.parametrize("how", [{"frames": 7}, {"frames": 40}, {"seconds": 1.3}])
def test_every_whole_window_is_in_one_clip_alone(how, steps):
    times = np.cumsum(np.random.default_rng(3).uniform(0.01, 0.2, 211))
    found = spans(times, steps, **how)
    starts = [
        start
        for at, (_, first, last) in enumerate(found)
        for start in range(first, last - steps + 1)
        if at + 1 == len(found) or start < found[at + 1][1]
    ]
    assert starts == list(range(len(times) - steps + 1))


def test_by_seconds_a_clip_has_the_number_of_its_time():
    """A camera that paused has no clip of the pause, and later clips keep their numbers."""
    times = [*np.arange(5) / 10 + 7, *np.arange(5) / 10 + 9.5]
    assert spans(times, seconds=1.0) == [("0000", 0, 5), ("0002", 5, 10)]


def test_a_clip_is_named_after_its_episode():
    first, second, _ = clip_refs(REF, Clips(frames=10), np.arange(25) / 10, 1)
    assert second.path == "kitchen/a b.mp4/clip-0001"
    assert second.id.startswith("kitchen/a_b.mp4/clip-0001-")
    assert (second.task, second.splits) == ("pour", ("train",))
    assert whole_of(second) == REF
    assert pickle.loads(pickle.dumps(first)) == first


class Listed(Source):
    """Episodes by path; those that are an exception cannot be opened."""

    def __init__(self, **episodes):
        self.episodes, self.opened = episodes, []

    def refs(self):
        return (EpisodeRef.at(name, name) for name in self.episodes)

    def open(self, ref):
        self.opened.append(ref.path)
        found = self.episodes[ref.locator]()
        if isinstance(found, Exception):
            raise found
        return nullcontext(found)


def cut(source, steps=3, **how):
    return Selected(source, Selection(**how), steps=steps)


def two_views():
    """Two cameras on the clock of one, arrays on it, and a text that changes."""
    found = episode(
        {"actions": np.arange(30)},
        front=stream(30, 10.0),
        wrist=stream(60, 20.0),
    )
    found.texts, found.text_index = ("open", "close"), np.arange(30) // 20
    return found


def test_all_that_belongs_to_a_frame_is_cut_alike():
    source = cut(Listed(a=two_views), clip=Clips(frames=12), reference_view="front")
    refs = list(source.refs())
    assert [clip_of(ref).first for ref in refs] == [0, 12, 24]
    with source.open(refs[1]) as found:
        frames = list(range(12, 26))
        assert numbers(found.views["front"]) == frames
        assert numbers(found.views["wrist"]) == [2 * frame % 50 for frame in frames]
        assert found.arrays["actions"].tolist() == frames
        assert found.texts == ("open", "close")
        assert found.arrays["text_index"].tolist() == [frame // 20 for frame in frames]
        # In the source's own clock.
        assert [f.seconds for f in found.views["front"]] == [frame / 10 for frame in frames]
        assert found.clock.tolist() == [frame / 10 for frame in frames]
    with source.open(refs[2]) as found:
        assert (found.text, found.texts) == ("close", ())


def test_clips_are_cut_of_the_frames_that_are_selected():
    source = cut(
        Listed(a=lambda: episode(main=stream(40))),
        clip=Clips(seconds=1.0),
        fps=5.0,
        start_seconds=0.5,
    )
    found = []
    for ref in source.refs():
        with source.open(ref) as opened:
            found.append(numbers(opened.views["main"]))
    assert found == [list(range(5, 18, 2)), list(range(15, 28, 2)), list(range(25, 38, 2)),
                     list(range(35, 40, 2))]  # fmt: skip
    assert [source.weight(ref) for ref in source.refs()] == [7, 7, 7, 3]


def test_an_episode_that_cannot_be_cut_fails_alone():
    source = cut(
        Listed(a=lambda: episode(main=stream(20)), b=lambda: SourceError("it is torn")),
        clip=Clips(frames=10),
    )
    refs = pickle.loads(pickle.dumps(list(source.refs())))
    assert [ref.path for ref in refs] == ["a/clip-0000", "a/clip-0001", "b"]
    with pytest.raises(SourceError, match="it is torn"), source.open(refs[-1]):
        pass


def test_an_episode_of_another_length_than_when_it_was_listed_is_refused():
    length = 20
    source = cut(Listed(a=lambda: episode(main=stream(length))), clip=Clips(frames=10))
    refs = list(source.refs())
    length = 19
    with pytest.raises(SourceError, match="19 frames, and had 20 when"), source.open(refs[0]):
        pass


def test_clips_and_whole_episodes_can_be_named():
    def names(*episodes):
        given = {name: lambda: episode(main=stream(25)) for name in ("a.mp4", "b.mp4", "c.mp4")}
        source = Listed(**given)
        how = cut(source, clip=Clips(frames=10), episodes=episodes)
        return [ref.path[0] + ref.path[-1] for ref in how.refs()], source.opened

    assert names("1")[0] == ["b0", "b1", "b2"]
    assert names("b.mp4")[0] == ["b0", "b1", "b2"]
    found, opened = names("b.mp4/clip-0001")
    assert (found, opened) == (["b1"], ["b.mp4"])
    an_id = next(iter(clip_refs(EpisodeRef.at("c.mp4", ""), Clips(frames=10), np.arange(25), 1))).id
    assert names(an_id, "0:1") == (["a0", "a1", "a2", "c0"], ["a.mp4", "c.mp4"])
    with pytest.raises(SourceError, match=r"no episode \['b\.mp4/clip-0009'\]"):
        names("b.mp4/clip-0009")


def test_how_long_a_clip_is_has_to_be_said_once():
    for wrong in ({}, {"seconds": 1, "frames": 2}, {"seconds": 0}, {"frames": 3, "overlap": -1}):
        part = SourcePart(path="videos", clip=wrong)
        with pytest.raises(ConfigError, match="clip"):
            open_source_part(part, Limits())


def test_what_cannot_be_sought_is_decoded_from_its_start_and_told(tmp_path):
    images = moving(30, (48, 80))
    encode(tmp_path / "a.mp4", images, options={"x264-params": "keyint=5"})
    encode(tmp_path / "b.gif", images, "gif", "rgb8")
    source = open_source_part(SourcePart(path=str(tmp_path), clip={"frames": 10}), Limits())
    notes = {}
    for ref in source.refs():
        with source.open(ref) as found:
            notes[ref.path] = found.notes
    assert not any(notes[f"a.mp4/clip-000{k}"] for k in range(3))
    for k in range(3):
        (note,) = notes[f"b.gif/clip-000{k}"]
        assert note.startswith("view main: gif has no keyframes that stand for themselves, so each")
