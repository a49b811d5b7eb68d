"""What the command says and returns when things are not as they should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from source_fixtures import write_images, write_libero, write_video

from builder.cli import main
from builder.cli.inspect import _read_episode
from builder.cli.main import VERBS, parser
from builder.core.lazy import Lazy
from builder.dataset.folder import DatasetWriter, index_line, read_failures
from builder.dataset.opening import open_dataset
from builder.sources.base import BaseSource, Episode, EpisodeRef
from builder.sources.selected import Selected
from builder.sources.selection import Selection
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset, sample_meta

SHAPE = ["--img-shape", "60", "100"]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "good.mp4", shape=(48, 90), count=6)
    return folder


def build(source, out, *more):
    return main(["build", "--source", str(source), "--out", str(out), "--quiet", *SHAPE, *more])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_its_defaults(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    of_verb = next(each for each in parser()._actions if each.dest == "verb").choices[verb]
    for action in of_verb._actions:
        if action.option_strings and action.nargs != 0 and action.default not in (None, [], ()):
            assert f"(default: {action.default})" in shown or "default" in action.help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"letterset {verb}" in text.split("example:")[1]


def test_no_arguments_teach(capsys):
    assert main([]) == 0
    assert "letterset build" in capsys.readouterr().out


def test_examples_in_help_parse(monkeypatch):
    for verb in VERBS:
        module = __import__(f"builder.cli.{verb}", fromlist=["EXAMPLE"])
        for line in module.EXAMPLE.replace("\\\n", " ").splitlines():
            words = line.split(">")[0].split("|")[-1].split()
            if words:
                assert words[0] == "letterset"
                assert parser().parse_args(words[1:]).verb == verb


@pytest.mark.parametrize("argv", [["bild"], ["build", "--nope"], ["validate"]])
def test_bad_usage_is_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "hint"), [("biuld", "did you mean 'build'?"), ("xyz", "'xyz'\n")])
def test_a_misspelled_verb_is_guessed(verb, hint, capsys):
    with pytest.raises(SystemExit):
        main([verb])
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["build", "--epsiodes", "3"], "letterset build: there is no option --epsiodes (did you"),
        (["doctor", "set", "--wndows=3"], "no option --wndows (did you mean '--windows'?)"),
        (["validate", "my", "set"], "letterset validate: there is no place for 'set': a name with"),
        (
            ["build", "--views", "tracker.kind=lk"],
            "letterset build: --views: expected at least one argument",
        ),
    ],
)
def test_a_misspelled_option_is_guessed(argv, told, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert f"Try: letterset {argv[0]} --help" in said


@pytest.mark.parametrize(
    ("shape", "words"),
    [(("0", "5"), "got 0"), (("-4", "5"), "-4"), (("2.5", "5"), "2.5"), (("big", "5"), "big")],
)
def test_bad_img_shape_is_2(videos, tmp_path, capsys, shape, words):
    argv = ["build", "--source", str(videos), "--out", str(tmp_path / "out"), "--img-shape", *shape]
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_said_is_2(capsys):
    assert main(["build"]) == 2
    assert "--img-shape" in capsys.readouterr().err


def test_a_missing_and_an_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, code in (("missing", 2), ("empty", 3)):
        assert build(tmp_path / name, tmp_path / "out") == code
        assert name in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_broken_video_costs_itself_alone(videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"this is no video")
    assert build(videos, tmp_path / "out") == 1
    text = capsys.readouterr().out
    assert "FAILED broken.mp4" in text
    assert "1 episode built" in text
    assert main(["validate", str(tmp_path / "out")]) == 0
    # Listed again the next time, and tried again when asked.
    assert build(videos, tmp_path / "out") == 1
    assert "FAILED broken.mp4" in capsys.readouterr().out
    shutil.copy(videos / "good.mp4", videos / "broken.mp4")
    assert build(videos, tmp_path / "out", "--retry-failed") == 0
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0


def test_a_failure_whose_source_is_gone_is_forgotten_when_asked(videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"this is no video")
    (videos / "worse.mp4").write_bytes(b"nor is this")
    out = tmp_path / "out"
    assert build(videos, out) == 1
    (videos / "broken.mp4").unlink()
    # Only a look at all of the source tells what is gone.
    assert build(videos, out, "--retry-failed", "source.exclude=[w*]") == 0
    assert len(read_failures(out)) == 2
    assert build(videos, out, "--retry-failed") == 1
    assert [line.path for line in read_failures(out).values()] == ["worse.mp4"]
    (videos / "worse.mp4").unlink()
    assert build(videos, out, "--retry-failed") == 0
    capsys.readouterr()
    assert main(["finalize", str(out)]) == 0
    assert main(["validate", str(out)]) == 0
    assert "failed:" not in capsys.readouterr().out


def test_a_file_that_was_mended_is_forgotten_as_a_failure(tmp_path, capsys):
    """A file that cannot be listed is one failure; mended, its demonstrations take its place."""
    folder = write_libero(tmp_path / "libero", lengths=(5,))
    (bad,) = sorted(folder.rglob("*stove*.hdf5"))
    whole = bad.read_bytes()
    bad.write_bytes(whole[:100])
    options = [f"store.path={tmp_path / 'out'}", "source.kind=libero", f"source.path={folder}"]
    argv = ["build", *options, "img_shape=[60, 100]", "tracker.kind=none", "--retry-failed"]
    assert main(argv) == 1
    bad.write_bytes(whole)
    assert main(argv) == 0
    assert "no longer listed as failed: 1 source" in capsys.readouterr().err
    assert not read_failures(tmp_path / "out")


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_failure_is_told_once_where_all_goes_to_one_place(videos, tmp_path, quiet):
    (videos / "broken.mp4").write_bytes(b"this is no video")
    out = ["--source", str(videos), "--out", str(tmp_path / "out"), *SHAPE, *quiet]
    command = [sys.executable, "-m", "builder.cli", "build", *out]
    both = {"stdout": subprocess.PIPE, "text": True}
    done = subprocess.run(command, stderr=subprocess.STDOUT, **both, check=False)
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("FAILED broken.mp4") == 1
    assert done.stdout.count("broken.mp4") == 1
    # What failed in an earlier run is no progress of this one.
    done = subprocess.run(command, stderr=subprocess.PIPE, **both, check=False)
    assert done.stdout.count("FAILED broken.mp4 (") == 1
    assert "FAILED" not in done.stderr


@pytest.mark.parametrize("verb", ["inspect", "finalize"])
def test_a_failure_names_its_file_once(verb, videos, tmp_path, capsys):
    (videos / "broken.mp4").write_bytes(b"this is no video")
    assert build(videos, tmp_path / "out") == 1
    capsys.readouterr()
    assert main([verb, str(tmp_path / "out")]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "broken" in line]
    assert line.startswith("FAILED broken.mp4 (decode): not a whole video")


def test_only_broken_videos_is_3(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"\0" * 100)
    assert build(tmp_path / "videos", tmp_path / "out") == 3
    assert "broken.mp4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "build --source NOPE --out OUT --img-shape 48 64",
        "build source.path=NOPE source.kind=libero store.path=OUT img_shape=[48,64]",
        "init NOPE --kind video --out OUT",
        "preview NOPE --out OUT",
        "plan NOPE img_shape=[48,64] store.path=OUT",
        "inspect NOPE",
        *(f"{verb} NOPE" for verb in ("status", "finalize", "validate", "repair", "doctor")),
        *(f"{verb} NOPE" for verb in ("stats", "report")),
        "decode NOPE --geometry NOPE --order xy --space norm",
        "decode - --geometry NOPE --order xy --space norm",
        "parity NOPE",
        "parity HERE --source NOPE",
        "track NOPE --name a",
        "track HERE --name a --source NOPE",
        "validate HERE --source NOPE",
        "embed NOPE --encoder json:dumps",
        "convert NOPE OUT kind=zarr",
        "merge HERE NOPE OUT",
        "subset NOPE OUT --id x",
        "split NOPE --shares a=1",
        "migrate NOPE OUT",
        "migrate HERE OUT --videos NOPE",
        "export NOPE OUT --to card",
        "render NOPE OUT.png --to contact-sheet",
    ],
)
def test_an_input_that_is_not_there_is_2_for_every_verb(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "HERE").mkdir()
    assert main(words.split()) == 2
    assert ": NOPE: there is no such file or folder\n" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["HERE"]


def test_no_verb_is_forgotten_by_the_check_of_inputs():
    (mark,) = test_an_input_that_is_not_there_is_2_for_every_verb.pytestmark
    assert {words.split()[0] for words in mark.args[1]} == set(VERBS) - {"schema", "env"}


def test_an_output_that_cannot_be_written_is_4(videos, tmp_path, capsys):
    (tmp_path / "out").write_text("a file where the folder should be")
    assert build(videos, tmp_path / "out") == 4
    assert "out" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "a file where the folder should be"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_4(videos, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert build(videos, tmp_path / "locked" / "out") == 4


@pytest.mark.parametrize("shown", ["content", "source", "{short_side: 60}"])
def test_a_dry_run_writes_nothing(videos, tmp_path, capsys, shown):
    dry = ["--dry-run", "--json", f"tracker.input={shown}"]
    assert build(videos, tmp_path / "out", *dry) == 0
    plan = json.loads(capsys.readouterr().out)["costs"]
    assert plan["episodes"] == 1
    assert plan["frames"] == 6
    assert plan["bytes_by_codec"]["raw"] > plan["bytes_by_codec"]["jpeg"] > 0
    assert plan["free_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_inspect_a_source(videos, capsys):
    (videos / "broken.mp4").write_bytes(b"no")
    assert main(["inspect", str(videos), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 2
    assert found["views"][0]["source"] == "48 x 90"
    assert found["failures"][0]["path"] == "broken.mp4"


def test_inspect_shows_the_notes_of_a_source(tmp_path, capsys):
    shutil.copy(Path(__file__).parents[1] / "inputs" / "field_pictures.ts", tmp_path / "fields.ts")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "note: view main: 8 packets hold 4 frames (1 episode)\n" in capsys.readouterr().out


def test_inspect_honours_the_selection(tmp_path, capsys):
    for index in range(4):
        for view in ("front", "wrist"):
            write_video(tmp_path / f"take_{index}" / f"{view}.mp4", count=12)
    argv = ["inspect", str(tmp_path), "--json", "--include", "take_*", "--exclude", "*_2"]
    argv += ["--views", "wrist", "--episodes", "1:", "source.frame_step=2", "source.max_frames=4"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["episodes"]) == ("episodes", 2)
    shown = [(row["episode"], row["view"], row["frames"]) for row in found["views"]]
    assert shown == [("take_1", "wrist", 4), ("take_3", "wrist", 4)]


def test_inspect_says_that_there_is_more(tmp_path, capsys):
    for index in range(3):
        write_video(tmp_path / f"{index}.mp4", count=3)
    assert main(["inspect", str(tmp_path), "--limit", "2"]) == 0
    assert "shown: 2 of 3 episodes; --limit N shows more" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--limit", "3"]) == 0
    assert "shown:" not in capsys.readouterr().out


def test_inspect_shows_an_episode_of_which_the_selection_is_refused(tmp_path, capsys):
    write_video(tmp_path / "take" / "front.mp4", count=12)
    write_video(tmp_path / "take" / "wrist.mp4", count=30)
    assert main(["inspect", str(tmp_path / "take"), "--kind", "episodes", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["frames"] for row in found["views"]] == [12, 30]
    assert "reference clock" in found["failures"][0]["reason"]
    assert main(["inspect", str(tmp_path), "--views", "top", "--limit", "1"]) == 1
    assert "the views ['top'] are missing" in capsys.readouterr().out


class Broken(BaseSource):
    """A source whose view raises what is no error of ours."""

    def refs(self):
        yield EpisodeRef.at("one", None)

    @contextmanager
    def open(self, ref):
        yield Episode(views=Lazy({"top": lambda: {}["gone"]}))


def test_inspect_goes_on_when_an_episode_raises_what_is_no_error_of_ours(tmp_path):
    source = Selected(Broken(tmp_path, Selection()), Selection())
    rows, notes, failure = _read_episode(source, next(source.refs()))
    assert (rows, notes) == ([], [])
    assert "KeyError: 'gone'" in failure["reason"]


def test_settings_after_an_option_with_many_values_are_settings(tmp_path):
    argv = [
        "build",
        "--views",
        "front",
        "a=b",
        "tracker.kind=none",
        "--source",
        "x",
        "img_shape=[1,2]",
    ]
    found = parser().parse_args(argv)
    assert found.views == ["front", "a=b"]
    assert found.given == ["img_shape=[1,2]", "tracker.kind=none"]
    with pytest.raises(SystemExit):
        parser().parse_args(["build", "--views", "source.kind=video"])


def test_the_selection_is_for_sources(videos, tmp_path, capsys):
    assert build(videos, tmp_path / "out") == 0
    assert main(["inspect", str(tmp_path / "out"), "--views", "main"]) == 2
    assert "is a dataset" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["build", "preview", "plan"])
def test_the_kind_is_guessed(verb, tmp_path, capsys):
    root = write_images(tmp_path / "in", count=20)
    settings = ["tracker.kind=none", "img_shape=[32, 40]", f"store.path={tmp_path / 'out'}"]
    first = {
        "build": ["build", "--dry-run", f"source.path={root}"],
        "preview": ["preview", str(root), "--out", str(tmp_path / "p.png")],
        "plan": ["plan", str(root)],
    }
    assert main([*first[verb], *settings]) == 0
    if verb != "plan":
        assert "source.kind=images, because" in capsys.readouterr().out


def test_a_guessed_kind_is_built_and_built_on(tmp_path):
    root, out = write_images(tmp_path / "in" / "a"), tmp_path / "out"
    assert build(root, out, "tracker.kind=none") == 0
    assert open_dataset(out).meta.config["source"] == {"kind": "images"}
    assert build(root, out, "tracker.kind=none", "source.kind=images") == 0


@pytest.mark.parametrize("verb", ["build", "preview", "inspect", "init", "plan"])
def test_kinds_that_could_both_be_meant_are_listed(verb, tmp_path, capsys):
    root = tmp_path / "in"
    write_video(root / "rollouts" / "a.mp4")
    write_libero(root)
    argv = {
        "build": ["--source", str(root), "--out", str(tmp_path / "out"), *SHAPE],
        "plan": [str(root), "img_shape=[32, 40]", "store.path=x"],
    }
    assert main([verb, *argv.get(verb, [str(root)])]) == 2
    text = capsys.readouterr().err
    assert "LIBERO (problem_info) in HDF5 files); video (1 video file)" in text
    assert "source.kind=libero" in text


def test_schema_prints_json_schema(capsys):
    assert main(["schema", "EpisodeMeta"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "EpisodeMeta"
    assert main(["schema"]) == 0
    assert "``" not in capsys.readouterr().out
    assert main(["schema", "EpisodMeta"]) == 2
    assert "did you mean 'EpisodeMeta'" in capsys.readouterr().err


def test_preview_draws_a_page(videos, tmp_path):
    page = tmp_path / "preview.html"
    assert main(["preview", str(videos), "--out", str(page), "--img-shape", "60", "100"]) == 0
    assert "good.mp4" in page.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.html", "videos"]


def test_init_writes_a_config_that_builds(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", str(videos), "--out", "build.yaml"]) == 0
    assert "48 x 90" in capsys.readouterr().out
    assert main(["init", str(videos), "--out", "build.yaml"]) == 2  # never overwritten
    assert main(["build", "build.yaml", "img_shape=[60, 100]", "--quiet"]) == 0
    assert main(["validate", "dataset"]) == 0


def test_split_by_hash_is_read_back(videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert build(videos, out) == 0
    assert main(["split", str(out), "--shares", "train=1"]) == 0
    assert "train 1" in capsys.readouterr().out
    assert main(["split", str(out), "--shares", "train=much"]) == 2
    assert "train=0.9" in capsys.readouterr().err


def test_another_split_of_that_name_is_refused(tmp_path, capsys):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample(name) for name in "ab"])
    path, argv = tmp_path / "splits" / "default.json", ["split", str(tmp_path), "--shares"]
    half = [*argv, "train=0.5", "val=0.5", "--salt", "x"]
    assert main(half) == 0
    before = path.read_bytes()
    # The same of a dataset that has grown.
    with DatasetWriter.create(tmp_path, sample_meta()) as catalog:
        catalog.add(index_line(Sample("c").build(Hdf5Store(tmp_path))))
    assert main(half) == main(half[:-2]) == 0
    assert path.read_bytes() != before
    before = path.read_bytes()
    assert main([*argv, "train=0.9", "val=0.1", "--salt", "y"]) == 2
    said = capsys.readouterr().err
    assert "shares was 'train=0.5 val=0.5', now 'train=0.9 val=0.1'; salt was 'x', now 'y'" in said
    assert path.read_bytes() == before
    edited = json.loads(before)
    edited["splits"] = {"train": edited["splits"]["val"], "val": edited["splits"]["train"]}
    path.write_text(json.dumps(edited))
    assert main(half) == 2
    assert "edited by hand" in capsys.readouterr().err
    assert main([*half, "--overwrite"]) == 0
    assert path.read_bytes() == before


def test_a_split_with_an_empty_part_may_be_drawn_again(tmp_path, capsys):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample(name) for name in "ab"])
    path, argv = tmp_path / "splits" / "default.json", ["split", str(tmp_path), "--shares"]
    scarce = [*argv, "train=0.999", "val=0.001", "--salt", ""]
    assert main(scarce) == 0
    assert "the part val is empty" in capsys.readouterr().out
    edited = json.loads(path.read_text())
    edited["splits"]["train"] = ["a"]
    path.write_text(json.dumps(edited))
    assert main([*argv, "train=0.5", "val=0.5"]) == 2  # it is somebody's
    assert main([*scarce, "--overwrite"]) == 0
    capsys.readouterr()
    assert main([*argv, "train=0.5", "val=0.5"]) == 0
    told = capsys.readouterr().out
    assert "default.json: train 1, val 1\nnote: drawn with --salt 2, as few episodes" in told
    assert f"next: WindowDataset('{tmp_path}', split='default/train')" in told
    # Later episodes are drawn alike, and those that are there stay.
    before = json.loads(path.read_text())["splits"]
    with DatasetWriter.create(tmp_path, sample_meta()) as catalog:
        catalog.add(index_line(Sample("c").build(Hdf5Store(tmp_path))))
    assert main([*argv, "train=0.5", "val=0.5"]) == 0
    after = json.loads(path.read_text())["splits"]
    assert all({*before[part]} < {*after[part]} or before[part] == after[part] for part in before)


def test_chosen_episodes_alone_are_built(videos, tmp_path, capsys):
    shutil.copy(videos / "good.mp4", videos / "other.mp4")
    assert build(videos, tmp_path / "out", "--json", "--episodes", "other.mp4") == 0
    assert json.loads(capsys.readouterr().out)["built"] == 1


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("plan", "--probe=0"),
        ("plan", "--episodes=-1"),
        ("plan", "--hours=nan"),
        ("preview", "--count=-1"),
        ("inspect", "--limit=-1"),
        ("report", "--budget-mb=nan"),
        ("report", "--episodes=0"),
    ],
)
def test_numbers_that_are_not_above_zero_are_2(verb, option, videos, capsys):
    more = ["img_shape=[24, 40]", "store.path=out"] if verb == "plan" else []
    assert main([verb, str(videos), *more, option]) == 2
    name, _, number = option.partition("=")
    assert f"{name} takes a number above 0, got {number}" in capsys.readouterr().err


def test_a_plan_is_made_for_local_outputs_that_a_build_takes(videos, tmp_path, capsys):
    argv = ["plan", str(videos), "img_shape=[24, 40]"]
    assert main([*argv, "store.path=s3://bucket/out"]) == 2
    assert "s3://bucket/out: what a build costs is told for local" in capsys.readouterr().err
    (tmp_path / "mine.txt").touch()
    assert main([*argv, f"store.path={tmp_path}"]) == 2
    assert "is not empty and holds no dataset" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["preview", "report"])
def test_a_page_is_not_written_under_the_name_of_another_kind(verb, videos, capsys):
    before = (videos / "good.mp4").read_bytes()
    assert main([verb, str(videos), "--out", str(videos / "good.mp4")]) == 2
    assert "good.mp4: expected a name that ends in .html or .htm" in capsys.readouterr().err
    assert (videos / "good.mp4").read_bytes() == before


def test_a_source_that_would_not_be_looked_at_is_refused(videos, capsys):
    assert main(["validate", str(videos), "--source", str(videos)]) == 2
    assert "give --deep as well" in capsys.readouterr().err


def test_files_of_other_endings_are_counted_and_named_by_all_who_look(videos, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(videos, folder)
    for name in ("a.insv", "b.INSV", "c.LRV", "notes.txt"):
        (folder / name).write_bytes(b"x")
    said = "left out: 3 files of other endings (2 .insv, 1 .lrv)"
    page = ["--out", str(tmp_path / "p.html"), "--count", "1"]
    for argv in (["inspect", str(folder)], ["preview", str(folder), *page]):
        main(argv)
        assert capsys.readouterr().out.count(said) == 1
    argv = ["build", "--source", str(folder), "--out", str(tmp_path / "out")]
    assert main([*argv, "--img-shape", "24", "40"]) == 0
    told = capsys.readouterr()
    assert (told.out + told.err).count(said) == 1
