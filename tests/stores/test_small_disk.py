"""Builds on a disk that is too small, at several fill levels, then grown; and on one read-only."""

from __future__ import annotations

import pytest
from conftest import mount
from source_fixtures import write_video

from builder.build.config_file import load_config
from builder.build.pipeline import build
from builder.cli import main
from builder.core.errors import OutputError
from builder.dataset.folder import read_index
from builder.dataset.validate import validate
from builder.inputs.video import VideoStream

EPISODES = 3


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for index in range(EPISODES):
        write_video(folder / f"{index}.mp4", count=6 + index, shape=(30, 50))
    return folder


def config(videos, out, kind):
    given = {"source.path": str(videos), "store.path": str(out), "store.kind": kind}
    small = ["img_shape=[24, 40]", "queries.grid=[2, 3]", "tracker.horizon=4", "executor.workers=1"]
    return load_config(None, small, given)


def outcome(wanted):
    try:
        summary = build(wanted)
    except OutputError as error:
        return str(error)
    return "complete" if summary.built + summary.skipped == EPISODES else str(summary)


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_a_disk_that_is_full_at_any_moment(small_disk, videos, tmp_path, kind):
    """The build says so, what is there is good, and on a larger disk it comes to its end."""
    build(config(videos, tmp_path / "reference", kind))
    out, filler = small_disk / "out", small_disk / "filler"
    counts = []
    for left in (0, 20, 90, 120, 200):
        filler.write_bytes(b"")
        used = sum(path.stat().st_blocks for path in out.rglob("*")) // 2
        filler.write_bytes(b"\0" * 1024 * max(0, 4096 - used - left))
        said = outcome(config(videos, out, kind))
        assert said == "complete" or "No space left on device; free some space" in said
        if (out / "dataset.json").exists():
            unlisted = "is not listed in the index"
            found = [p for p in validate(out) if not p.note and unlisted not in p.message]
            assert found == []
        counts.append(len(read_index(out)))
    assert counts == sorted(counts)
    assert counts[0] == 0
    mount(small_disk, "-o", "remount,size=16m")
    build(config(videos, out, kind))
    assert validate(out) == []
    assert dict(read_index(out)) == dict(read_index(tmp_path / "reference"))
    assert list((out / "tmp").iterdir()) == []


def test_a_read_only_output_is_refused_before_any_decode(small_disk, videos, monkeypatch, capsys):
    mount(small_disk, "-o", "remount,ro")
    decoded = []
    monkeypatch.setattr(VideoStream, "__iter__", lambda self: decoded.append(self))
    where = ["--source", str(videos), "--out", str(small_disk / "out"), "--img-shape", "24", "40"]
    assert main(["build", *where, "--quiet"]) == 4
    assert "it is read-only; choose another output folder" in capsys.readouterr().err
    assert decoded == []
