"""The README's promises, each with a test of that name, through the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from places import FIXTURES
from source_fixtures import is_upright, write_video

from builder.cli import main
from builder.dataset.opening import open_dataset

IMG_SHAPE = (48, 100)
SMALL = ["queries.grid=[3, 4]", "tracker.horizon=4"]


def argv(source, out, *more):
    shape = ["--img-shape", *map(str, IMG_SHAPE)]
    return ["build", *SMALL, *more, "--source", str(source), "--out", str(out), "--quiet", *shape]


def digests(out):
    return {key: line.digest for key, line in open_dataset(out).index.items()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("promises") / "videos"
    for index in range(4):
        write_video(folder / f"clip {index}.mp4", count=12 + index, shape=(60, 90 + 10 * index))
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos):
    out = videos.parent / "undisturbed"
    assert main(argv(videos, out, "executor.workers=1")) == 0
    return digests(out)


BUILDS = ("build", "build_in_workers", "overwrite", "anew", "append")
VERBS = (*BUILDS, "finalize", "convert", "merge", "subset", "track", "embed")
WRITERS = [(store, verb) for store in ("hdf5", "zarr") for verb in VERBS] + [("hdf5", "migrate")]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What was seen where a command was killed, by store and verb."""
    runs = {}
    for store in ("hdf5", "zarr"):
        verbs = [verb for kind, verb in WRITERS if kind == store]
        folder = tmp_path_factory.mktemp(store)
        command = [sys.executable, FIXTURES / "killed_runs.py", folder, store, *verbs]
        runs[store] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return {store: json.loads(run.communicate(timeout=550)[0]) for store, run in runs.items()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("store", "verb"), WRITERS)
def test_an_episode_is_there_whole_or_not_at_all(killed, store, verb):
    """Killed right after a step on the disk: what is listed is whole, and nothing is in the way.

    The same command then finishes the job, with the same bytes as a run that was not killed.
    """
    found = killed[store][verb]
    assert found["bad"] == []
    states = [set(seen) for seen in found["killed"].values()]
    # Each state was really met: written and not renamed, renamed and not listed, listed.
    assert {"staged"} in states
    assert verb == "finalize" or any("placed" in seen and "listed" not in seen for seen in states)
    assert verb in ("track", "embed") or any("listed" in seen for seen in states)  # no index


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_episode_that_is_named_before_it_is_whole_is_found(tmp_path):
    """What the test above would say of a store that does not stage."""
    script = FIXTURES / "killed_runs.py"
    command = [sys.executable, script, tmp_path, "hdf5", "build_carelessly"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    bad = json.loads(done.stdout)["build_carelessly"]["bad"]
    assert any(f"placed episodes, number 1: {name}" in line for line in bad for name in "ab"), bad


@pytest.mark.parametrize("workers", [1, 2])
def test_running_the_same_command_again_finishes_the_job_with_the_same_bytes(
    videos, undisturbed, tmp_path, workers
):
    out = tmp_path / "out"
    for path in sorted(videos.iterdir())[:2]:
        (tmp_path / "part").mkdir(exist_ok=True)
        os.link(path, tmp_path / "part" / path.name)
    assert main(argv(tmp_path / "part", out, f"executor.workers={workers}")) == 0
    assert len(digests(out)) == 2
    assert main(argv(videos, out, f"executor.workers={workers}")) == 0
    assert digests(out) == undisturbed
    files = {path: path.read_bytes() for path in (out / "episodes").rglob("*.hdf5")}
    again = tmp_path / "again"
    assert main(argv(videos, again, f"executor.workers={workers}")) == 0
    for path, data in files.items():
        assert (again / path.relative_to(out)).read_bytes() == data


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_never_silently_short(tmp_path, capsys, suffix):
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    whole = write_video(tmp_path / "videos" / f"whole{suffix}", count=40, codec=codec).read_bytes()
    (tmp_path / "videos" / f"cut{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    assert main(argv(tmp_path / "videos", tmp_path / "out")) == 1
    assert f"FAILED cut{suffix}" in capsys.readouterr().out
    (line,) = open_dataset(tmp_path / "out").index.values()
    assert line.length == 40


def test_what_you_see_is_what_is_tracked(tmp_path):
    """An upside-down video is turned, its tracks with it, and both say so."""
    write_video(tmp_path / "videos" / "upright.mp4", shape=(60, 90))
    assert main(argv(tmp_path / "videos", tmp_path / "a")) == 0
    assert main(argv(tmp_path / "videos", tmp_path / "b", "source.orientation=rot180")) == 0
    for out, orientation in (("a", "none"), ("b", "rot180")):
        dataset = open_dataset(tmp_path / out)
        view = next(iter(dataset[dataset.ids[0]].views.values()))
        left, top, right, bottom = view.geometry.content_box
        assert view.meta.orientation == orientation
        assert is_upright(view.frames[0][top:bottom, left:right]) == (orientation == "none")


def test_one_bad_file_never_stops_the_batch(videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in videos.iterdir():
        os.link(path, folder / path.name)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("ffconcat version 1.0\nfile 'clip 0.mp4'\n")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    assert main(argv(folder, tmp_path / "out", "--json")) == 1
    summary = json.loads(capsys.readouterr().out)
    failed = {failure["path"] for failure in summary["failures"]}
    assert {"empty.mp4", "text.mp4", "dangling.mp4", "pipe.mp4"} <= failed
    assert summary["built"] == 4


def test_inputs_are_data(videos, tmp_path, capsys):
    """No path out of the output folder, no other protocol, no YAML tag."""
    folder = tmp_path / "videos"
    folder.mkdir()
    data = next(iter(videos.iterdir())).read_bytes()
    for name in ("concat:a.mp4", "%03d.png.mp4", "-x.mp4", "a..mp4", "new\nline.mp4"):
        (folder / name).write_bytes(data)
    (folder / os.fsdecode(b"\xff\xfe.mp4")).write_bytes(data)
    assert main(argv(folder, tmp_path / "out")) == 0
    assert len(open_dataset(tmp_path / "out")) == 6
    episodes = tmp_path / "out" / "episodes"
    found = {path.parent for path in tmp_path.rglob("*.hdf5")}
    assert found == {episodes, episodes.with_name("stats")}
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"img_shape: !!python/object/apply:os.mkdir ['{tmp_path / 'hacked'}']\n")
    assert main(["build", str(evil)]) == 2
    assert "refused" in capsys.readouterr().err
    assert not (tmp_path / "hacked").exists()


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """Peak memory of the worker that builds a clip, and of one ten times as long."""
    code = (
        "import sys, resource; from builder.cli.build import read_config;"
        "from builder.cli.main import parser;"
        "config = read_config(parser().parse_args(sys.argv[1:]));"
        "from builder.build.backends import open_source;"
        "from builder.build.episode import Job, build_episode;"
        "[build_episode(Job(config, ref), lambda *_: None) for ref in open_source(config).refs()];"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (40, 400):
        source = write_video(tmp_path / str(count) / "clip.mp4", count=count, shape=(120, 160))
        command = [sys.executable, "-c", code, *argv(source.parent, tmp_path / f"out{count}")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    # 360 more frames of 256x256 would be 70 MB; pages of the written file come and go.
    assert peaks[1] < peaks[0] + 16_000


def test_validate_proves_a_dataset(videos, tmp_path, capsys):
    """A flipped byte anywhere in the data is found, and the episode is named."""
    out = tmp_path / "out"
    assert main(argv(videos, out)) == 0
    path = sorted((out / "episodes").iterdir())[0]
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    dataset = open_dataset(out)
    view = next(iter(dataset[path.stem].views.values()))
    for name in ("frames", "tracks", "vis", "timestamps"):
        stored = np.ascontiguousarray(view.array(name)).tobytes()
        at = data.find(stored) + int(rng.integers(len(stored)))
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert main(["validate", str(out)]) == 1
        text = capsys.readouterr().out
        assert path.stem in text
        assert name in text
    path.write_bytes(data)
    assert main(["validate", str(out)]) == 0
