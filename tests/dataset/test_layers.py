"""Layers: track sets and arrays that are added later, pinned to what they were made for."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inline_executor import Inline
from source_fixtures import write_video

from builder.cli import main
from builder.core.errors import ConfigError, DatasetError, HostError
from builder.core.registry import BUILTIN
from builder.dataset.folder import DatasetWriter, index_line
from builder.dataset.layers import LayerWriter, layer_names
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.dataset.window_table import read_columns
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.stores.kinds.zarr import ZarrStore
from builder.testing.samples import Sample, sample_dataset
from builder.transform.convert import convert
from builder.transform.embed import embed
from builder.transform.merge import merge
from schemas.dataset import EpisodeMeta

IDS = ("a/1", "b")


pytestmark = pytest.mark.usefixtures("inline_executor")


@pytest.fixture(params=[Hdf5Store, ZarrStore])
def dataset(request, tmp_path):
    sample_dataset(tmp_path, request.param(tmp_path), [Sample(key, length=5) for key in IDS])
    return tmp_path


def files(folder: Path) -> dict[Path, bytes]:
    parts = ("episodes", "episodes.zarr", "index", "dataset.json")
    found = [path for part in parts for path in [folder / part, *(folder / part).rglob("*")]]
    return {path: path.read_bytes() for path in found if path.is_file()}


def first_token(text: str) -> np.ndarray:
    """An encoder."""
    return np.arange(6, dtype=np.float32) + len(text)


def test_embeddings_become_arrays_of_the_episode(dataset, capsys):
    before = files(dataset)
    argv = ["embed", str(dataset), "--encoder", "test_layers:first_token"]
    assert main(argv) == 0
    assert "2 episodes embedded, 0 already there" in capsys.readouterr().out
    assert main(argv) == 0
    assert "0 episodes embedded, 2 already there" in capsys.readouterr().out
    assert files(dataset) == before
    assert layer_names(dataset) == ["text_emb"]
    opened = pickle.loads(pickle.dumps(open_dataset(dataset, layers=["text_emb"])))
    for episode in opened:
        np.testing.assert_array_equal(episode.arrays["text_emb"], first_token("pick up the bowl"))
        assert set(episode.arrays) == {"actions", "done", "nothing", "success", "text_emb"}
    assert "text_emb" not in open_dataset(dataset)["b"].arrays
    assert validate(dataset, deep=True) == []


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ("no_such_module:f", "no_such_module"),
        ("json:nothing", "no attribute 'nothing'"),
        ("json", "write module:function, got 'json'"),
        ("json:__doc__", "cannot be called"),
        ("builtins:str", "expected finite numbers"),
    ],
)
def test_encoders_that_are_none(dataset, encoder, says):
    with pytest.raises(ConfigError, match=says):
        embed(dataset, encoder)


ENCODERS = """
raise_now = {raise_now}
if raise_now:
    raise RuntimeError("no GPU")

def bad(text):
    raise RuntimeError("boom")

def good(text):
    return [len(text), 2.5]
"""


def test_encoders_of_the_current_folder(dataset, tmp_path, monkeypatch, capsys):
    for name, raise_now in (("my_enc", False), ("my_broken_enc", True)):
        (tmp_path / f"{name}.py").write_text(ENCODERS.format(raise_now=raise_now))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    argv = ["embed", str(dataset), "--encoder"]
    assert main([*argv, "my_broken_enc:good"]) == 2
    assert "RuntimeError: no GPU" in capsys.readouterr().err
    assert main([*argv, "my_enc:bad"]) == 2
    first = open_dataset(dataset).ids[0]
    message = f"your encoder my_enc:bad failed for episode {first}: RuntimeError: boom\n"
    assert capsys.readouterr().err.endswith(message)
    assert not (dataset / "layers").exists()
    assert main([*argv, "my_enc:good"]) == 0
    assert str(tmp_path) not in sys.path[:-1], "it stands before what was there"
    assert layer_names(dataset) == ["text_emb"]


class Wordless(Sample):
    """A sample without a text."""

    def meta(self, digests, episode_id=None):
        meta = super().meta(digests, episode_id)
        fields = {name: getattr(meta, name) for name in EpisodeMeta.model_fields}
        del fields["digest"]
        return EpisodeMeta.seal(**{**fields, "text": None})


def test_no_texts_leave_no_layer(tmp_path, capsys):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Wordless("a", length=5)])
    assert main(["embed", str(tmp_path), "--encoder", "test_layers:first_token"]) == 1
    assert "1 without text" in capsys.readouterr().out
    assert not (tmp_path / "layers").exists()


def test_arrays_per_frame_and_view(dataset):
    depth = np.random.default_rng(0).random((5, 24, 40)).astype("f4")
    with LayerWriter(dataset, "extra", {"by": "hand"}) as layer:
        for episode in open_dataset(dataset):
            layer.write(episode.meta, {"front": {"depth": depth}, None: {"flag": np.int32(3)}})
    episode = open_dataset(dataset, layers=("extra",))["b"]
    np.testing.assert_array_equal(episode.views["front"].array("depth"), depth)
    assert int(np.asarray(episode.arrays["flag"])) == 3
    assert "depth" not in episode.views["wrist"].meta.arrays
    assert validate(dataset, deep=True) == []


def test_layers_add_and_never_replace(dataset):
    meta = open_dataset(dataset)["b"].meta
    with LayerWriter(dataset, "x") as layer:
        for arrays, says in (
            ({None: {"actions": np.zeros(3)}}, r"\['actions'\] already"),
            ({"front": {"tracks": np.zeros(3)}}, r"\['tracks'\] already"),
            ({"back": {"depth": np.zeros(3)}}, "no view 'back'"),
        ):
            with pytest.raises(ConfigError, match=says):
                layer.write(meta, arrays)
    with pytest.raises(ConfigError, match=r"made in another way: made_by differ"):
        LayerWriter(dataset, "x", {"by": "me"}).__enter__()
    with pytest.raises(ConfigError, match="name has letters"):
        LayerWriter(dataset, "../x")
    with pytest.raises(DatasetError, match=r"no layer 'y'; it has \['x'\]"):
        open_dataset(dataset, layers=("y",))
    with pytest.raises(ConfigError, match="has no tracks"):
        open_dataset(dataset, tracks="x")


def test_stale_and_damaged_layers_are_named(dataset):
    embed(dataset, f"{__name__}:first_token")
    store = open_dataset(dataset).store
    changed = Sample("b", seed=5, length=5).build(store, replace=True)
    with DatasetWriter.create(dataset, open_dataset(dataset).meta) as catalog:
        catalog.add(index_line(changed))
    (problem,) = validate(dataset)
    assert (problem.episode, problem.where) == ("b", "layers/text_emb")
    assert "is stale" in problem.message
    opened = open_dataset(dataset, layers=("text_emb",))
    assert opened["a/1"].arrays["text_emb"].shape == (6,)
    with pytest.raises(DatasetError, match="layer 'text_emb' of 'b' is stale"):
        opened["b"]
    assert embed(dataset, f"{__name__}:first_token").embedded == 1
    assert validate(dataset) == []
    path = dataset / "layers" / "text_emb" / "b.hdf5"
    data = bytearray(path.read_bytes())
    data[data.index(first_token("pick up the bowl").tobytes()) + 5] ^= 1
    path.write_bytes(data)
    assert "bytes changed" in str(validate(dataset)[0])
    path.unlink()
    (note,) = validate(dataset)
    assert note.note
    assert "it lacks 1 of 2 episodes" in note.message


def test_a_layer_is_sealed(dataset):
    embed(dataset, f"{__name__}:first_token")
    path = dataset / "layers" / "text_emb" / "layer.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "made_by": {}}))
    assert "changed after it was written" in str(validate(dataset)[0])


def test_layers_go_with_their_episodes(dataset, tmp_path):
    embed(dataset, f"{__name__}:first_token")
    out = tmp_path / "gathered"
    assert main(["subset", str(dataset), str(out / "one"), "--id", "a/*"]) == 0
    assert main(["subset", str(dataset), str(out / "two"), "--id", "b"]) == 0
    assert main(["merge", str(out / "one"), str(out / "two"), str(out / "both")]) == 0
    opened = open_dataset(out / "both", layers=("text_emb",))
    assert [episode.arrays["text_emb"].shape for episode in opened] == [(6,), (6,)]
    assert validate(out / "both") == []
    # Other codecs make other episodes: what was made for the old ones does not fit.
    done = convert(dataset, out / "u16", {"tracks": {"dtype": "u16"}})
    assert done.notes == [
        "layer text_emb: 2 episodes left out, made for an episode of another digest; to make them "
        f"again: letterset embed {out / 'u16'} --name text_emb ..."
    ]
    assert embed(out / "two", "builtins:hash", "other").embedded == 1
    embed(out / "one", f"{__name__}:first_token", "other")
    (note,) = merge([out / "one", out / "two"], out / "third").notes
    assert "other is left out" in note


# Track sets.

OPTIONS = ["executor.kind=inline", "queries.grid=[2, 3]", "tracker.horizon=4", "--quiet"]
SETTINGS = ["executor.kind=inline", "--quiet"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked")
    for name in ("a", "b"):
        write_video(folder / "videos" / f"{name}.mp4", count=7, shape=(36, 50))
    shape = ["--img-shape", "40", "64"]
    argv = ["build", *OPTIONS, "--source", str(folder / "videos"), "--out", str(folder / "out")]
    assert main([*argv, *shape]) == 0
    return folder


def tracked(built, name, *more):
    return main(["track", str(built / "out"), *more, "--name", name, *SETTINGS[1:]])


def test_the_same_tracker_gives_the_same_tracks_again(built):
    before = files(built / "out")
    again = ("executor.kind=inline",)
    assert tracked(built, "stored", *again) == 0
    assert tracked(built, "decoded", *again, "--source", str(built / "videos")) == 0
    assert files(built / "out") == before
    base = open_dataset(built / "out")
    for name in ("stored", "decoded"):
        layer = open_dataset(built / "out", tracks=name)
        for episode in base:
            other = layer[episode.id].views["main"]
            for array in ("tracks", "vis", "starts", "queries"):
                np.testing.assert_array_equal(
                    other.array(array), episode.views["main"].array(array)
                )
    assert validate(built / "out", deep=True) == []


def test_another_tracker_takes_the_place_of_the_first(built, capsys):
    argv = ("executor.kind=inline", "tracker.kind=lk", "tracker.horizon=3", "queries.grid=[4, 2]")
    assert tracked(built, "lk3", *argv, "tracker.start_every=2") == 0
    assert tracked(built, "lk3", *argv, "tracker.start_every=2") == 0
    assert "0 episodes tracked, 2 already there" in capsys.readouterr().out
    layer = open_dataset(built / "out", tracks="lk3")
    assert layer.meta.tracker.kind == "lk"
    assert (layer.meta.horizon, layer.meta.start_every) == (3, 2)
    episode = layer[layer.ids[0]]
    view = episode.views["main"]
    assert view.tracks.shape == (4, 3, 8, 2)
    assert view.starts.tolist() == [0, 2, 4, 6]
    assert episode.meta.horizon == 3
    assert view.frames.shape == (7, 40, 64, 3)
    assert view.conf is None
    assert validate(built / "out", deep=True) == []
    assert open_dataset(built / "out").meta.horizon == 4
    # The table of its windows came with it, and goes with it.
    table = read_columns(layer, ["motion"], ["main"])
    assert table.start[:4].tolist() == [0, 2, 4, 6]
    (built / "out/stats/windows-lk3.hdf5").unlink()
    with pytest.raises(DatasetError, match=r"run letterset stats --tracks lk3 first"):
        read_columns(layer, ["motion"], ["main"])
    assert tracked(built, "lk3", *argv, "tracker.start_every=2") == 0
    assert len(read_columns(layer, ["motion"], ["main"]).start) == len(table.start)


def test_workers_in_another_folder_know_relative_paths(built, tmp_path, monkeypatch):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    argv = ["track", "out", "executor.kind=elsewhere", "tracker.kind=lk", "--quiet"]
    assert main([*argv, "--name", "near"]) == 0
    assert main([*argv, "--name", "far", "--source", "videos"]) == 0
    assert validate(tmp_path / "out", deep=True) == []


class Unshared(Inline):
    """Runs tasks as a node that has another disk at the same path."""

    def run(self, function, tasks):
        return super().run(function, (replace(task, dataset=Path("other")) for task in tasks))


def test_a_worker_that_does_not_share_the_layer_writes_nothing(
    built, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("builder.dataset.locks.SHARED_SECONDS", 0.0)
    monkeypatch.setitem(BUILTIN["executors"], "unshared", f"{__name__}:Unshared")
    monkeypatch.chdir(tmp_path)
    for there in (tmp_path / "out", tmp_path / "other"):
        shutil.copytree(built / "out", there)
    before = sorted((tmp_path / "other").rglob("*"))
    with pytest.raises(HostError, match="does not share the output: other/layers/lk there is not"):
        main_raising(tmp_path, "lk", "executor.kind=unshared")
    assert sorted((tmp_path / "other").rglob("*")) == before


def test_tracking_refuses_what_it_cannot_do(built, tmp_path, capsys):
    assert tracked(built, "fine", "tracker.input=source") == 2
    assert "give --source" in capsys.readouterr().err
    assert tracked(built, "fine", "tracker.horizont=3") == 2
    assert "did you mean 'tracker.horizon'" in capsys.readouterr().err
    assert tracked(built, "fine", "tracker.kind=none") == 2
    assert "makes no tracks" in capsys.readouterr().err
    assert "fine" not in layer_names(built / "out")
    write_video(tmp_path / "a.mp4", count=9, shape=(36, 50))
    more = ("executor.kind=inline", "--source", str(tmp_path))
    with pytest.raises(Exception, match="not what the dataset was built from"):
        # The executor of these tests does not catch errors; the others list them.
        main_raising(built, "fine", *more)


def main_raising(built, name, *more):
    from builder.build.config_file import read_parts
    from builder.transform.track_layer import track

    parts = read_parts(built / "out", [more[0]])
    source = more[2] if len(more) > 2 else None
    track(built / "out", name, parts.tracker, source=source, executor=parts.executor)


def test_episodes_that_are_gone_are_listed(built, tmp_path, capsys):
    (tmp_path / "b.mp4").write_bytes((built / "videos" / "b.mp4").read_bytes())
    more = ("executor.kind=inline", "tracker.kind=lk", "tracker.input=source")
    assert tracked(built, "half", *more, "--source", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "the source has no such episode any more" in out
    assert "1 episode tracked" in out
    notes = [problem for problem in validate(built / "out") if "half" in problem.where]
    assert [problem.note for problem in notes] == [True]


def test_an_episode_that_cannot_be_opened_keeps_no_other_from_its_text(dataset, capsys):
    store = open_dataset(dataset).store
    path = store.open("a/1").path
    kept = path.read_bytes()
    argv = ["embed", str(dataset), "--encoder", f"{__name__}:first_token"]
    path.write_bytes(b"")
    assert main(argv) == 1
    said = capsys.readouterr().out
    assert "FAILED a/1: " in said
    assert "1 episode embedded, 0 already there, 0 without text, 1 failed" in said
    path.write_bytes(kept)
    assert main(argv) == 0
    assert embed(dataset, argv[-1]).there == 2


def test_an_episode_that_cannot_be_opened_keeps_no_other_from_its_tracks(built, tmp_path, capsys):
    shutil.copytree(built / "out", tmp_path / "out")
    first, second = open_dataset(tmp_path / "out").ids
    path = Hdf5Store(tmp_path / "out").path(first)
    path.write_bytes(b"")
    argv = ("executor.kind=inline", "tracker.kind=lk", "tracker.horizon=3")
    assert tracked(tmp_path, "x", *argv) == 1
    said = capsys.readouterr().out
    assert f"FAILED {first}: " in said
    assert "1 episode tracked, 0 already there, 1 failed" in said
    shutil.copy(Hdf5Store(built / "out").path(first), path)
    assert tracked(tmp_path, "x", *argv) == 0
    assert [*open_dataset(tmp_path / "out", tracks="x")[second].views] == ["main"]
