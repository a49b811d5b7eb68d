"""Selecting episodes, views and frames, and putting views on one clock."""

import re

import numpy as np
import pytest
import source_fixtures as fixtures
from hypothesis import given
from hypothesis import strategies as st
from source_fixtures import numbers

import builder.sources.selected as selected_module
from builder.build.backends import open_source_part
from builder.core.errors import ConfigError, DecodeError, SourceError
from builder.inputs.streams import (
    BlockStream,
    Frame,
    FrameStream,
    PickedStream,
    StreamInfo,
    even_times,
)
from builder.sources.base import Episode, EpisodeRef
from builder.sources.clock import nearest
from builder.sources.selected import Selected, select
from builder.sources.selection import Selection
from schemas.config import Limits, SourcePart


def stream(count, fps=10.0, start=0.0, seconds=None, **info):
    """Frames that can only be read one after another, as those of a video."""
    times = even_times(count, fps) + start if seconds is None else np.asarray(seconds)
    return Sequential(StreamInfo((36, 48), count, fps=fps, **info), times)


class Sequential(FrameStream):
    def __init__(self, info, seconds):
        self.info, self.seconds, self.read = info, seconds, 0

    def __iter__(self):
        for index, seconds in enumerate(self.seconds):
            self.read += 1
            yield Frame(fixtures.picture(index % 50), float(seconds))


def test_a_stream_without_its_base_is_refused_by_name():
    words = r"view main: builtins\.list must inherit from builder\.inputs\.streams\.FrameStream"
    with pytest.raises(ConfigError, match=words):
        select(episode(main=[]), Selection())


def episode(arrays=None, **views):
    return Episode(views=views, arrays=arrays or {})


def times(found):
    return [frame.seconds for frame in found]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, range(20)),
        ({"frame_step": 3}, range(0, 20, 3)),
        ({"max_frames": 4}, range(4)),
        ({"frame_step": 5, "max_frames": 3}, [0, 5, 10]),
        ({"start_seconds": 0.5}, range(5, 20)),
        ({"end_seconds": 0.5}, range(5)),
        ({"start_seconds": 0.45, "end_seconds": 1.0, "frame_step": 2}, [5, 7, 9]),
        ({"fps": 5.0}, range(0, 20, 2)),
        ({"fps": 10.0}, range(20)),
        ({"fps": 4.0}, [0, 2, 5, 7, 10, 12, 15, 17]),
        ({"fps": 2.0, "start_seconds": 0.3, "max_frames": 3}, [3, 8, 13]),
    ],
)
@pytest.mark.parametrize("indexed", [False, True])
def test_frames_and_array_rows_are_picked_alike(how, expected, indexed):
    source = stream(20)
    if indexed:
        frames = fixtures.pictures(20)
        source = BlockStream(source.info, source.seconds, lambda a, b: frames[a:b], block=3)
    found = select(episode({"actions": np.arange(20)}, main=source), Selection(**how))
    view = found.views["main"]
    assert view.info.num_frames == len(expected)
    assert numbers(view) == list(expected)
    assert times(view) == pytest.approx([k / 10 for k in expected])
    assert found.arrays["actions"].tolist() == list(expected)


def test_the_rate_follows_the_selection():
    assert select(episode(main=stream(20)), Selection(frame_step=4)).views["main"].info.fps == 2.5
    assert select(episode(main=stream(20)), Selection(fps=3.0)).views["main"].info.fps == 3.0


def test_frames_after_the_last_wanted_one_are_not_decoded():
    source = stream(40)
    assert numbers(select(episode(main=source), Selection(max_frames=5)).views["main"]) == [
        *range(5)
    ]
    assert source.read == 5


def test_a_stream_that_ends_early_is_an_error_not_a_short_view():
    source = stream(10)
    source.info = StreamInfo((36, 48), 12, fps=10.0)
    with pytest.raises(DecodeError, match="before its frame 10"):
        list(PickedStream(source, np.arange(12)))


def test_a_stream_is_read_to_its_end_so_that_it_can_check_itself():
    source = stream(10)
    list(PickedStream(source, np.array([0, 9])))
    assert source.read == 10


def test_more_frames_per_second_than_recorded_are_refused():
    with pytest.raises(SourceError, match="would repeat frames: they come at about 10"):
        select(episode(main=stream(20)), Selection(fps=25.0))


def test_a_time_range_without_frames_is_refused():
    with pytest.raises(SourceError, match=r"from 7\.0 to None; the clock goes from 0\.000 to 1\.9"):
        select(episode(main=stream(20)), Selection(start_seconds=7.0))


def test_views_of_one_clock_pass_unchanged():
    a, b = stream(12), stream(12)
    found = select(episode(a=a, b=b), Selection())
    assert found.views == {"a": a, "b": b}


def test_a_faster_view_gives_the_frames_nearest_to_the_clock():
    found = select(episode(slow=stream(10, 10.0), fast=stream(39, 40.0)), Selection())
    assert numbers(found.views["fast"]) == list(range(0, 39, 4))
    assert found.views["fast"].info.num_frames == 10
    [note] = found.views["fast"].info.notes
    assert "10 of 39 frames, 0 repeated" in note
    assert found.views["slow"].info.notes == ()


def test_a_slower_view_repeats_frames_and_says_so():
    found = select(
        episode(fast=stream(10, 20.0), slow=stream(5, 10.0)), Selection(tolerance_seconds=0.05)
    )
    assert numbers(found.views["slow"]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert "5 repeated, at most 0.0500 s" in found.views["slow"].info.notes[0]


def test_the_reference_view_can_be_chosen():
    found = select(
        episode({"actions": np.arange(39)}, fast=stream(39, 40.0), slow=stream(10, 10.0)),
        Selection(reference_view="slow"),
    )
    assert found.views["fast"].info.num_frames == found.views["slow"].info.num_frames == 10
    assert found.arrays["actions"].tolist() == list(range(0, 39, 4))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (dict(count=19), r"no frame within 0\.05\d+ s of 1\.900 s on the reference clock"),
        (dict(count=21), r"goes from 0\.000 to 2\.000 s, the reference clock from 0\.000 to 1\.9"),
        (dict(count=20, start=0.2), "no frame within|goes from 0.200"),
        (dict(count=20, start=-0.2), "goes from -0.200"),
        (dict(count=20, fps=5.0), "goes from 0.000 to 3.800"),
    ],
)
def test_a_view_that_does_not_fit_is_refused_and_never_cut(other, match):
    with pytest.raises(SourceError, match=match):
        select(episode(front=stream(20), wrist=stream(**other)), Selection())


@pytest.mark.parametrize("count", [19, 21])
def test_a_stated_tolerance_accepts_a_frame_more_or_less(count):
    found = select(episode(front=stream(20), wrist=stream(count)), Selection(tolerance_seconds=0.1))
    assert numbers(found.views["wrist"]) == [min(k, count - 1) for k in range(20)]


@pytest.mark.parametrize("how", [{"end_seconds": 1.5}, {"max_frames": 15}])
def test_what_was_asked_to_be_cut_may_be_cut(how):
    for count in (16, 30):
        found = select(episode(front=stream(20), wrist=stream(count)), Selection(**how))
        assert numbers(found.views["wrist"]) == list(range(15))
    early = stream(25, start=-0.5)
    found = select(episode(front=stream(20), wrist=early), Selection(start_seconds=0.0))
    assert numbers(found.views["wrist"]) == list(range(5, 25))


def test_views_are_chosen_and_missing_ones_named():
    both = episode(front=stream(5), wrist=stream(5))
    assert list(select(both, Selection(views=("wrist",))).views) == ["wrist"]
    with pytest.raises(SourceError, match=r"\['top'\] are missing.*'front', 'wrist'"):
        select(both, Selection(views=("wrist", "top")))
    skip = Selection(views=("wrist", "top"), missing_views="skip")
    assert list(select(both, skip).views) == ["wrist"]
    with pytest.raises(SourceError, match="none of the views"):
        select(both, Selection(views=("top",), missing_views="skip"))


def test_a_view_that_is_not_wanted_need_not_fit():
    both = episode(front=stream(5), wrist=stream(99))
    assert select(both, Selection(views=("wrist",))).views["wrist"].info.num_frames == 99


def test_arrays_keep_the_view_they_belong_to_as_clock():
    both = episode({"actions": np.arange(5)}, front=stream(5), wrist=stream(99))
    with pytest.raises(SourceError, match="wrist goes"):
        select(both, Selection(views=("wrist",)))


def test_the_episodes_own_clock_rules():
    found = Episode(
        views={"main": stream(30, 30.0)},
        arrays={"actions": np.arange(10)},
        constants={"embedding": np.ones(4)},
        clock=even_times(10, 10.0),
    )
    chosen = select(found, Selection(frame_step=2))
    assert numbers(chosen.views["main"]) == [0, 6, 12, 18, 24]
    assert chosen.arrays["actions"].tolist() == [0, 2, 4, 6, 8]
    assert chosen.constants["embedding"].shape == (4,)
    assert chosen.clock.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_arrays_of_another_length_are_left_out_unless_they_are_asked_for():
    arrays = {"actions": np.zeros((7, 2)), "state": np.zeros((8, 3)), "success": np.array(True)}
    said = "actions has shape (7, 2), but the episode has 8 frames"
    found = select(episode(arrays, main=stream(8)), Selection())
    assert (list(found.arrays), list(found.constants)) == (["state"], ["success"])
    assert found.notes == (f"array {said.replace(' has', ' is left out: it has', 1)}",)
    with pytest.raises(SourceError, match=re.escape(said)):
        select(episode(arrays, main=stream(8)), Selection(arrays=("actions",)))
    assert select(episode(arrays, main=stream(8)), Selection(arrays=("state",))).notes == ()


def test_maps_follow_their_view():
    depth = BlockStream(
        StreamInfo((36, 48), 10),
        even_times(10, 10.0),
        lambda a, b: [np.full((36, 48), a)] * (b - a),
    )
    found = Episode(views={"main": stream(10)}, maps={"main": {"depth": depth}})
    chosen = select(found, Selection(frame_step=4, orientation="rot90"))
    assert [int(f.image[0, 0]) for f in chosen.maps["main"]["depth"]] == [0, 4, 8]
    assert chosen.maps["main"]["depth"].info.source_shape == (48, 36)


@pytest.mark.parametrize(
    ("said", "set_to", "aspect"),
    [("none", "rot90", (2, 3)), ("rot90", "none", (2, 3)), ("vflip", "rot180", (3, 2))],
)
def test_an_orientation_set_by_hand_replaces_what_the_source_says(said, set_to, aspect):
    source = stream(4, orientation=said, sample_aspect_ratio=(3, 2))
    for how in (set_to, {"main": set_to}):
        info = select(episode(main=source), Selection(orientation=how)).views["main"].info
        assert (info.orientation, info.sample_aspect_ratio) == (set_to, aspect)
    how = Selection(orientation={"wrist": set_to}, views=("main", "wrist"), missing_views="skip")
    assert select(episode(main=source), how).views["main"].info.orientation == said


def test_an_orientation_of_a_view_that_is_not_there_is_refused():
    with pytest.raises(SourceError, match=r"orientation names \['wirst'\], .* \['main', 'wrist'\]"):
        select(episode(main=stream(4), wrist=stream(4)), Selection(orientation={"wirst": "rot180"}))


class Listing:
    """A source of nothing but refs."""

    def refs(self):
        for k in range(12):
            yield EpisodeRef(f"suite/demo_{k}-0", f"suite/demo_{k}", k)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, range(12)),
        ({"episodes": ("0:3",)}, range(3)),
        ({"episodes": ("10:", 2, "4")}, [2, 4, 10, 11]),
        ({"episodes": ("suite/demo_7", "suite/demo_3-0")}, [3, 7]),
        ({"include": ("*_1*",)}, [1, 10, 11]),
        ({"include": ("suite/*",), "exclude": ("*_?",)}, [10, 11]),
        ({"include": ("*_1*",), "episodes": (":2",)}, [1, 10]),
    ],
)
def test_episodes_are_chosen_by_glob_name_and_position(how, expected):
    refs = Selected(Listing(), Selection(**how)).refs()
    assert [ref.locator for ref in refs] == list(expected)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"episodes": ("suite/demo_99", "0:2")}, r"no episode \['suite/demo_99'\]"),
        ({"exclude": ("*",)}, "no episode is left"),
        ({"episodes": ("40:50",)}, "no episode is left"),
    ],
)
def test_episodes_that_are_not_there_are_named(how, match):
    with pytest.raises(SourceError, match=match):
        list(Selected(Listing(), Selection(**how)).refs())


def test_a_number_that_is_one_episode_and_names_another_is_refused():
    class Numbered:
        def refs(self):
            for k in range(1, 4):
                yield EpisodeRef(f"{k}-0", str(k), k)

    def chosen(*episodes):
        return [ref.locator for ref in Selected(Numbered(), Selection(episodes=episodes)).refs()]

    with pytest.raises(SourceError, match=r"2 is the position of one.*the path.*at 1; .*2:3.*2-0"):
        chosen("2")
    assert chosen("2-0") == [2]
    assert chosen("2:3") == chosen(2) == [3]


@given(
    have=st.lists(st.integers(0, 200), min_size=1, max_size=20).map(sorted),
    wanted=st.lists(st.integers(-20, 220), max_size=20),
)
def test_nearest_is_nearest(have, wanted):
    found = nearest(np.array(have, float), np.array(wanted, float))
    for value, index in zip(wanted, found, strict=True):
        assert abs(have[index] - value) == min(abs(each - value) for each in have)


def test_a_long_list_of_wishes_is_read_once_not_for_every_episode(monkeypatch):
    read = []
    monkeypatch.setattr(selected_module, "_range_of", lambda item: read.append(item))
    how = Selection(episodes=tuple(f"suite/demo_{k}" for k in range(12)))
    assert len(list(Selected(Listing(), how).refs())) == 12
    assert len(read) == 12


def test_one_file_of_many_is_turned_by_a_glob_of_its_path(tmp_path):
    for name in ("kitchen/a.mp4", "kitchen/b.mp4", "c.mp4"):
        fixtures.write_video(tmp_path / name, 4)

    def turns(orientation):
        part = SourcePart(path=str(tmp_path), orientation=orientation)
        return {
            ref.path: next(iter(episode.views.values())).info.orientation
            for ref, episode in fixtures.episodes(open_source_part(part, Limits()))
        }

    assert turns({"kitchen/a.*": "rot180", "main": "vflip"}) == {
        "c.mp4": "vflip",
        "kitchen/a.mp4": "rot180",
        "kitchen/b.mp4": "vflip",
    }
    assert turns({"c.mp4": "hflip"}) == {
        "c.mp4": "hflip",
        "kitchen/a.mp4": "none",
        "kitchen/b.mp4": "none",
    }
    with pytest.raises(SourceError, match=r"names \['kichen/\*'\], which no episode's path fits"):
        turns({"kichen/*": "rot180"})
    with pytest.raises(SourceError, match=r"orientation names \['front'\]"):
        turns({"front": "rot180"})


def turns_of(root, orientation):
    part = SourcePart(path=str(root), orientation=orientation)
    return {
        ref.path: next(iter(episode.views.values())).info.orientation
        for ref, episode in fixtures.episodes(open_source_part(part, Limits()))
    }


def test_a_path_turns_its_own_file_whatever_signs_are_in_it(tmp_path):
    for name in ("a.mp4", "kitchen/take [1].mp4", "kitchen/b.mp4"):
        fixtures.write_video(tmp_path / name, 4)
    assert turns_of(tmp_path, {"kitchen/take [1].mp4": "rot180", "kitchen/*": "hflip"}) == {
        "a.mp4": "none",
        "kitchen/b.mp4": "hflip",
        "kitchen/take [1].mp4": "rot180",
    }
    assert {*turns_of(tmp_path, {"**/*.mp4": "vflip"}).values()} == {"vflip"}
    fixtures.write_video(tmp_path / "kitchen/take 1.mp4", 4)
    with pytest.raises(SourceError, match=r"is a path and, as a glob, fits 'kitchen/take 1\.mp4'"):
        turns_of(tmp_path, {"kitchen/take [1].mp4": "rot180"})
    found = turns_of(tmp_path, {"kitchen/take [[]1].mp4": "rot180"})
    assert [path for path, turn in found.items() if turn == "rot180"] == ["kitchen/take [1].mp4"]


def test_globs_that_say_different_turns_of_one_file_are_refused(tmp_path):
    for name in ("kitchen/a.mp4", "kitchen/b.mp4"):
        fixtures.write_video(tmp_path / name, 4)
    both = {"kitchen/*": "rot180", "*a.mp4": "hflip"}
    with pytest.raises(SourceError, match=r"kitchen/\*: rot180, \*a.mp4: hflip of kitchen/a\.mp4"):
        turns_of(tmp_path, both)
    assert turns_of(tmp_path, {**both, "kitchen/a.mp4": "none"})["kitchen/a.mp4"] == "none"
    assert {*turns_of(tmp_path, {"kitchen/*": "hflip", "*a.mp4": "hflip"}).values()} == {"hflip"}


def test_a_file_of_any_name_is_included_by_the_path_that_is_shown(tmp_path):
    fixtures.write_video(tmp_path / "100%.mp4", 4)
    fixtures.write_video(tmp_path / "b.mp4", 4)
    part = SourcePart(path=str(tmp_path), include=["100%25.mp4"])
    assert [ref.path for ref in open_source_part(part, Limits()).refs()] == ["100%25.mp4"]


def test_the_recorded_rate_is_that_of_the_frames_kept():
    found = select(episode(a=stream(40, fps=30.0)), Selection(fps=15.0, frame_step=3))
    assert found.views["a"].info.fps == 5.0
    assert np.diff(found.views["a"].times()) == pytest.approx(0.2)
