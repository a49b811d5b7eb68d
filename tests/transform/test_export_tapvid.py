"""TAP-Vid clips: all of them can be scored."""

import logging
import pickle

import numpy as np
import pytest

from builder.cli import main
from builder.core.errors import SourceError
from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import HORIZON, Sample, sample_dataset
from builder.training.tapvid_metrics import tapvid_scores
from builder.transform.export.tapvid import export_tapvid


def clips_of(path):
    return pickle.loads(path.read_bytes())  # our own file


def dataset_of(folder, lengths, vis=None):
    episodes = [Sample(f"e-{length}", length=length) for length in lengths]
    for episode in episodes:
        for view in ("front", "wrist"):
            array = episode.arrays[view, "vis"]
            array[:] = 1 if vis is None else vis(array)
    sample_dataset(folder, Hdf5Store(folder), episodes)
    return folder


def self_score(clip):
    """Score a clip's own tracks as TAP-Vid does: from each point's first visible frame on."""
    seen = ~clip["occluded"]
    later = np.arange(seen.shape[1]) > np.argmax(seen, axis=1)[:, None]
    counted = later & seen.any(axis=1)[:, None]
    shape = clip["video"].shape[1:3]
    return tapvid_scores(clip["points"], seen, clip["points"], seen, shape, counted)


def test_clips_of_one_frame_are_left_out_and_told(tmp_path, capsys):
    folder = dataset_of(tmp_path / "ds", [2 * HORIZON, HORIZON + 1, 1])
    assert main(["export", str(folder), str(tmp_path / "clips.pkl"), "--to", "tapvid"]) == 0
    clips = clips_of(tmp_path / "clips.pkl")
    said = capsys.readouterr().out
    assert "note: left out 4 clips of one frame" in said
    for view in ("front", "wrist"):
        assert f"e-5/{view}/000004" in said
        assert f"e-1/{view}/000000" in said
    assert {name: len(clip["video"]) for name, clip in clips.items()} == {
        f"{episode}/{view}/{start:06d}": HORIZON
        for episode, start in (("e-5", 0), ("e-8", 0), ("e-8", HORIZON))
        for view in ("front", "wrist")
    }
    assert all(self_score(clip) == (1, 1, 1) for clip in clips.values())


def test_clips_in_which_no_point_is_seen_again_are_left_out(tmp_path, caplog):
    def only_the_query(vis):
        return (np.arange(HORIZON) == 0)[None, :, None]

    folder = dataset_of(tmp_path / "ds", [HORIZON], only_the_query)
    with pytest.raises(SourceError, match="no clip in which a point is seen twice"):
        export_tapvid(open_dataset(folder), tmp_path / "clips.pkl")
    assert not (tmp_path / "clips.pkl").exists()

    def one_point_twice(vis):
        seen = np.zeros(vis.shape, np.uint8)
        seen[0, :2, 1] = 1
        return seen

    folder = dataset_of(tmp_path / "other", [2 * HORIZON], one_point_twice)
    with caplog.at_level(logging.WARNING, "letterset"):
        names = export_tapvid(open_dataset(folder), tmp_path / "clips.pkl")
    assert names == ["e-8/front/000000", "e-8/wrist/000000"]
    assert "left out 2 clips" in caplog.text
    assert all(
        np.isfinite(self_score(clip)).all() for clip in clips_of(tmp_path / "clips.pkl").values()
    )
