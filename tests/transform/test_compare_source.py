"""Deep validation draws frames from the source again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from inline_executor import build
from source_fixtures import write_video

from builder.cli import main
from builder.dataset.opening import open_dataset
from builder.stores.base import ArraySpec
from builder.transform.compare_source import compare_source


@pytest.fixture
def place(tmp_path, inline_executor):
    for name in ("a", "b"):
        write_video(tmp_path / "videos" / f"{name}.mp4", count=5, shape=(30, 50))
    return tmp_path


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_frames_are_what_the_source_shows(place, capsys, codec):
    out = place / "out"
    assert build(place / "videos", out, f"store.frames.codec={codec}") == 0
    assert compare_source(out) == []
    shutil.move(place / "videos", place / "moved")
    (note,) = compare_source(out)
    assert note.note
    assert compare_source(out, str(place / "moved")) == []
    capsys.readouterr()
    assert main(["validate", str(out), "--deep", "--json"]) == 0
    assert "is not there" in json.loads(capsys.readouterr().out)["problems"][0]["message"]


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_other_frames_are_found(place, codec):
    """A dataset that is valid in itself, but shows something else than its source."""
    out = place / "out"
    assert build(place / "videos", out, f"store.frames.codec={codec}") == 0
    dataset = open_dataset(out)
    episode = dataset[dataset.ids[0]]
    (view,) = episode.views.values()
    layout = {
        "main": {
            name: ArraySpec(array.shape, array.dtype, array.codec)
            for name, array in view.meta.arrays.items()
            if name != "frames_offsets"
        }
    }
    with dataset.store.begin(episode.id, layout, replace=True) as writer:
        for name in layout["main"]:
            array = np.asarray(view.array(name))
            writer.write("main", name, 0, array[:, ::-1].copy() if name == "frames" else array)
        arrays = writer.digests()["main"]
        meta = episode.meta
        views = (view.meta.model_copy(update={"arrays": arrays}),)
        writer.commit(meta.resealed(views=views))
    assert main(["repair", str(out)]) == 0
    assert main(["validate", str(out)]) == 0
    problems = compare_source(out)
    assert {problem.where for problem in problems} == {"main/frames"}
    assert main(["validate", str(out), "--deep"]) == 1


def test_videos_are_read_within_the_limits_of_the_build(place, capsys):
    out, videos = place / "out", str(place / "videos")
    assert build(videos, out, "limits.max_frames=9") == 0
    (log,) = (out / "runs").glob("*.jsonl")
    text = log.read_text()
    log.write_text(text.replace('"max_frames": 9', '"max_frames": 4'))
    assert [problem.where for problem in compare_source(out)] == ["source", "source"]
    assert "more than 4 frames (limits.max_frames)" in str(compare_source(out)[0])
    argv = ["track", str(out), "--name", "lk", "--source", videos, "tracker.kind=lk"]
    assert main([*argv, "tracker.horizon=3", "queries.grid=[2, 3]", "--quiet"]) != 0
    assert "more than 4 frames" in capsys.readouterr().out
    for damaged in ("", "[]", text.replace('"max_frames": 9', '"max_frames": "many"')):
        log.write_text(damaged)
        assert compare_source(out, videos) == []


def test_a_changed_source_is_only_noted(place):
    out = place / "out"
    assert build(place / "videos", out) == 0
    (place / "videos" / "a.mp4").unlink()
    write_video(place / "videos" / "b.mp4", count=9, shape=(30, 50))
    notes = compare_source(out)
    assert len(notes) == 2
    assert all(problem.note for problem in notes)
