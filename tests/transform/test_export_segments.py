"""Track files of the older route, read back by the rules of its loader."""

import h5py
import numpy as np
import pytest
import yaml
from media import encode, moving

from builder.cli import main
from builder.dataset.opening import open_dataset
from builder.training.normalize import clip_traj, normalize_traj
from builder.transform.export.common import only

pytest.importorskip("torch")
from builder.training.windows import WindowDataset

WIDE, HIGH = (48, 80), (64, 44)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "kitchen" / "left 1").mkdir(parents=True)
    encode(folder / "kitchen" / "left 1" / "take 2.mp4", moving(8, WIDE), rate=20)
    encode(folder / "high.mp4", moving(7, HIGH), rate=20)
    return folder


def exported(videos, folder, *settings, options=()):
    argv = ["build", "--source", str(videos), "--out", str(folder / "out"), "--quiet"]
    own = ["queries.grid=[3, 3]", "tracker.horizon=4", "tracker.preset=fast"]
    assert main([*argv, "--img-shape", "40", "56", *own, *settings]) == 0
    target = ["export", str(folder / "out"), str(folder / "old"), "--to", "segments"]
    assert main([*target, *options]) == 0
    return folder / "old"


def load(path, img_shape):
    """Return what the older route's loader gives: (row, col) in [-1, 1], by window."""
    with h5py.File(path) as file:
        group = file["root/default"]
        height, width = group.attrs["height"], group.attrs["width"]
        traj = group["tracks"][...][..., ::-1].copy()
    traj *= np.array(img_shape, np.float32) / np.array((height, width), np.float32)
    return clip_traj(normalize_traj(traj, img_shape))


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["queries.order=columns_fastest"],
        ["geometry=resize_shorter", "short_side=36"],
    ],
)
def test_a_loader_that_finds_files_by_stem_reads_what_training_reads(videos, tmp_path, settings):
    old = exported(videos, tmp_path, *settings)
    found = sorted(path.relative_to(old).as_posix() for path in old.glob("**/*.hdf5"))
    assert found == ["high.hdf5", "kitchen/left 1/take 2.hdf5"]
    for path in found:
        assert (videos / path).with_suffix(".mp4").exists()
    config = yaml.safe_load((old / "config.yaml").read_text())
    shape = tuple(config["img_shape"])
    assert (shape, config["horizon"], config["n_tracks"], config["fps"]) == ((40, 56), 4, 9, 20)
    dataset = open_dataset(tmp_path / "out")
    order = np.arange(9).reshape(3, 3).T.ravel() if "columns" in str(settings) else np.arange(9)
    for path in found:
        traj = load(old / path, shape)
        [key] = [key for key in dataset.ids if dataset[key].meta.source.path == path[:-4] + "mp4"]
        windows = WindowDataset(only(dataset, [key]), tail="include")
        assert len(windows) == len(traj)
        for sample, window in zip(windows, traj, strict=True):
            wanted = sample["traj"][0].numpy()[:, order].clip(-1, 1)
            np.testing.assert_allclose(window, wanted, atol=1e-5)


def test_what_a_user_should_know_is_told(videos, tmp_path, capsys):
    old = exported(videos, tmp_path, options=["--view-name", "agentview"])
    assert "note: tracks lie on the letterboxed canvas" in capsys.readouterr().out
    with h5py.File(old / "high.hdf5") as file:
        assert list(file["root"]) == ["agentview"]
    encode(videos / "high.avi", moving(5, HIGH), codec="mpeg4", rate=20)
    argv = ["build", "--source", str(videos), "--out", str(tmp_path / "two"), "--quiet"]
    assert main([*argv, "--img-shape", "40", "56", "tracker.preset=fast"]) == 0
    assert main(["export", str(tmp_path / "two"), str(tmp_path / "x"), "--to", "segments"]) == 2
    assert "differ in their ending alone" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
