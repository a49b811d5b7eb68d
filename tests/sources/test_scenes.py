"""Clips at shot changes: found where they are, kept for the next time, crossed by no window."""

import json

import numpy as np
import pytest
from media import encode, moving

pytest.importorskip("scenedetect")

from builder.build.backends import open_source_part
from builder.core.errors import ConfigError, DecodeError, MissingExtraError
from builder.inputs.streams import BlockStream, StreamInfo, even_times
from builder.sources import scenes as scenes_module
from builder.sources.base import Episode
from builder.sources.clips import clip_of
from builder.sources.scenes import scene_starts
from builder.sources.selection import Scenes
from schemas.config import Limits, SourcePart

LENGTHS = (30, 21, 44)
CUTS = [0, 30, 51]
COUNT = sum(LENGTHS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "letterset" / "scenes"


@pytest.fixture
def video(tmp_path):
    """Three shots, in each of which everything moves."""
    (tmp_path / "videos").mkdir()
    shots = [moving(length, (72, 128), seed) for seed, length in enumerate(LENGTHS)]
    images = [image for shot in shots for image in shot]
    return encode(tmp_path / "videos" / "three.mp4", images, rate=25)


def spans(video, steps=1, **how):
    part = SourcePart(path=str(video), **{"clip": {"scenes": "adaptive"}, **how})
    refs = list(open_source_part(part, Limits(), steps).refs())
    clips = [clip_of(ref) for ref in refs]
    return [(ref.path[-4:], clip.first, clip.last) for ref, clip in zip(refs, clips, strict=True)]


@pytest.mark.parametrize("detector", ["adaptive", {"detector": "content", "threshold": 40.0}])
def test_clips_end_where_shots_end(video, detector):
    found = spans(video, steps=16, clip={"scenes": detector})
    assert found == [("0000", 0, 30), ("0001", 30, 51), ("0002", 51, COUNT)]


def test_long_shots_are_cut_again_but_never_across_a_cut(video):
    found = spans(video, steps=6, clip={"scenes": "adaptive", "frames": 20})
    assert found == [
        ("0000", 0, 25), ("0001", 20, 30), ("0002", 30, 51), ("0003", 51, 76), ("0004", 71, 95)
    ]  # fmt: skip


def test_cuts_are_those_of_the_frames_that_are_selected(video):
    assert spans(video, frame_step=3) == [("0000", 0, 10), ("0001", 10, 17), ("0002", 17, 32)]


def test_what_was_found_is_kept(video, cache, monkeypatch):
    first = spans(video)
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text()) == CUTS
    found = scenes_module._found
    monkeypatch.setattr(scenes_module, "_found", None)
    assert spans(video) == first
    # Of other frames, or of other content under the same name, it is looked for again.
    monkeypatch.setattr(scenes_module, "_found", found)
    spans(video, start_seconds=1.0)
    encode(video, moving(40, (72, 128)), rate=25)
    assert spans(video) == [("0000", 0, 40)]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("text", ["", "[", "{}", "[0, 99999]", "[3, 2]", "[1, 2]", '["x"]', "[]"])
def test_what_was_kept_and_does_not_fit_is_looked_for_again(text, video, cache):
    first = spans(video)
    (kept,) = cache.iterdir()
    kept.write_text(text)
    assert spans(video) == first
    assert json.loads(kept.read_text()) == CUTS


def test_a_cache_that_cannot_be_written_costs_the_time_alone(video, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(spans(video)) == 3


def test_damage_is_one_failure_of_the_whole(video):
    data = bytearray(video.read_bytes())
    at = len(data) // 2
    data[at : at + 400] = b"\xff" * 400
    video.write_bytes(data)
    source = open_source_part(SourcePart(path=str(video), clip={"scenes": "adaptive"}), Limits())
    (ref,) = source.refs()
    with pytest.raises(DecodeError), source.open(ref):
        pass


def test_without_the_package_it_says_which_extra(video, monkeypatch):
    def missing(name):
        raise MissingExtraError("scenedetect", "scenes")

    monkeypatch.setattr(scenes_module, "import_extra", missing)
    with pytest.raises(MissingExtraError, match=r"letterset\[scenes\]"):
        spans(video)


def test_settings_of_scenes(video):
    for wrong in ({"scenes": "best"}, {"scenes": {"threshold": 0}}, {"overlap": 0}):
        with pytest.raises(ConfigError, match="clip"):
            spans(video, clip=wrong)


def test_pictures_as_arrays_are_compared_alike():
    shots = [moving(length, (72, 128), seed) for seed, length in enumerate(LENGTHS)]
    images = np.array([image for shot in shots for image in shot])
    info = StreamInfo((72, 128), COUNT)
    stream = BlockStream(info, even_times(COUNT, 10.0), lambda a, b: images[a:b])
    assert scene_starts(Episode({"main": stream}), "a", Scenes()).tolist() == CUTS
