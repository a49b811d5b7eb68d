"""ATM's files as its own preprocessing writes them: one rule, wherever they are read."""

import h5py
import numpy as np
import pytest
from real_writers import ATM_VIEWS, write_atm_suite
from source_fixtures import selected

from builder.cli import main
from builder.core.errors import DatasetError, SourceError
from builder.dataset.opening import open_dataset
from builder.dataset.validate import validate
from builder.sources.kinds.atm import Atm
from builder.transform.migrate import migrate

SHAPE, IMG = (96, 128), (72, 96)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The folder, and the tracks in it by demo and view."""
    folder = tmp_path_factory.mktemp("atm")
    written = write_atm_suite(folder, shape=SHAPE)
    starts = np.concatenate(
        [t[0] / SHAPE[::-1] for demo in written.values() for t in demo.values()]
    )
    assert starts.min() < -0.05
    assert starts.max() > 1.05
    return folder, written


def test_the_source_reads_them(suite):
    folder, written = suite
    source = Atm(folder)
    for ref, tracks in zip(source.refs(), written.values(), strict=True):
        with source.open(ref) as episode:
            for view in ATM_VIEWS:
                got = episode.arrays[f"{view}.points_xy"]
                np.testing.assert_allclose(got, tracks[view], atol=1e-4)


def test_an_older_folder_of_them_opens(suite):
    folder, written = suite
    dataset = open_dataset(folder, IMG)
    for episode, tracks in zip(dataset, written.values(), strict=True):
        for view in ATM_VIEWS:
            got = np.asarray(episode.views[view].tracks[0])
            np.testing.assert_allclose(got, tracks[view] * np.float32(0.75), atol=1e-4)
            assert np.asarray(episode.views[view].vis).any()


def test_they_migrate_and_train(suite, tmp_path):
    pytest.importorskip("torch")
    from builder.training import WindowDataset

    folder, written = suite
    report = migrate(folder, tmp_path / "new", fps=20.0, pixel_origin="center")
    assert (report.exit_code, report.failures, len(report.moves)) == (0, {}, 3)
    assert validate(tmp_path / "new", deep=True) == []
    dataset = open_dataset(tmp_path / "new")
    assert dataset.meta.queries.region == "stored"
    for episode in dataset:
        number = int(episode.meta.source.path.rpartition("_")[2].removesuffix(".hdf5"))
        for name, view in episode.views.items():
            want = written[number][name] + 0.5
            np.testing.assert_allclose(view.geometry.to_source(view.tracks[0]), want, atol=1e-2)
            assert any("shares of a picture of 96 x 128" in note for note in view.meta.notes)
            assert any("frames drawn at random" in note for note in view.meta.notes)
    assert WindowDataset(dataset, horizon=8)[3]["traj"].isfinite().all()


@pytest.mark.parametrize("verb", ["doctor", "inspect", "stats", "report"])
def test_verbs_take_them(suite, tmp_path, capsys, monkeypatch, verb):
    folder, _ = suite
    monkeypatch.chdir(tmp_path)
    if verb in ("stats", "report"):
        migrate(folder, tmp_path / "new", fps=20.0, pixel_origin="center")
        folder = tmp_path / "new"
    shape = ["--img-shape", *map(str, IMG)] if verb == "doctor" else []
    assert main([verb, str(folder), *shape]) in (0, 1)
    out = capsys.readouterr().out
    assert "cannot be read" not in out
    assert "must be normalized" not in out


def test_precomputed_tracks_take_them(suite, tmp_path, capsys):
    folder, written = suite
    count = next(iter(written[0].values())).shape[1]
    argv = ["build", "--source", str(folder), "--out", str(tmp_path / "out")]
    argv += ["--img-shape", *map(str, IMG), "source.kind=atm"]
    argv += ["queries.region=stored", f"queries.grid=[{count},1]", "tracker.mode=episode"]
    argv += ["tracker.kind=precomputed", f"tracker.folder={folder}"]
    argv += ['tracker.file="{path}.hdf5"', "tracker.coordinates=normalized"]
    assert main(argv) == 0, capsys.readouterr()
    dataset = open_dataset(tmp_path / "out")
    for episode in dataset:
        for view in episode.views.values():
            inside = view.geometry.inside(view.queries)
            assert 0 < (~inside).sum() < count / 2
            assert not np.asarray(view.vis)[0][:, ~inside].any()
            assert any("start outside the picture" in note for note in view.meta.notes)


def test_pixels_in_their_layout_are_refused_everywhere(tmp_path):
    write_atm_suite(tmp_path, demos=(0,), shape=SHAPE)
    (path,) = tmp_path.rglob("*.hdf5")
    with h5py.File(path, "r+") as file:
        for view in ATM_VIEWS:
            file[f"root/{view}/tracks"][...] *= np.float32(SHAPE[::-1])
    source = Atm(tmp_path)
    with pytest.raises(SourceError, match="points must be normalized"):
        selected(source)
    dataset = open_dataset(tmp_path, IMG)
    with pytest.raises(DatasetError, match=r"points must be normalized.*or give layout amplify"):
        dataset[dataset.ids[0]]
