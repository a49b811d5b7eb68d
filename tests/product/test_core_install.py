"""What the core install alone can do: read, validate and decode a dataset of format version 1."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from golden_examples import FOLDER

from builder import open_dataset
from builder.cli import main
from builder.cli.main import VERBS
from builder.core.records import stored_form
from schemas import swap_xy
from schemas.base import json_sha256

pytestmark = pytest.mark.core

GOLDEN = FOLDER / "dataset"
# Release 0.1 under Python 3.10 wrote optional fields of later records although they were null.
WRITTEN = [GOLDEN, FOLDER / "dataset-python3.10"]
IDS = ("nested/tall-24278e53", "wide-d5208b5e")
HEAVY = ("av", "cv2", "hdf5plugin", "rich", "scipy", "torch", "zarr")


@pytest.fixture(scope="module", params=WRITTEN, ids=lambda path: path.name)
def dataset(request):
    return open_dataset(request.param)


def test_every_golden_dataset_is_tried():
    assert sorted(FOLDER.glob("dataset*")) == WRITTEN
    assert all(len(open_dataset(path)) == len(IDS) for path in WRITTEN)


def test_the_golden_dataset_is_read(dataset):
    assert dataset.ids == IDS
    for episode in dataset:
        (view,) = episode.views.values()
        assert view.geometry.img_shape == dataset.meta.img_shape == (24, 40)
        assert view.frames.shape == (7, 24, 40, 3)
        assert view.tracks.shape == (7, 4, 6, 2)
        assert view.vis.shape == (7, 4, 6)
        assert view.starts.tolist() == [*range(7)]
        assert np.diff(view.timestamps) == pytest.approx([0.1] * 6)
        np.testing.assert_array_equal(view.tracks[:, 0], view.queries[None].repeat(7, axis=0))
    wide, tall = (dataset[episode_id].views["main"] for episode_id in reversed(IDS))
    assert wide.geometry.content_shape == (20, 40)
    assert tall.geometry.content_shape == (24, 12)
    assert (wide.frames[:, :2] == 0).all()
    assert (wide.frames[:, 2:22] != 0).any()


def test_the_golden_dataset_validates(dataset, capsys):
    assert main(["validate", str(dataset.path), "--deep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "problems": []}


def test_what_is_written_here_has_the_digests_it_has_everywhere(tmp_path):
    """The golden episodes written again, by this Python and these libraries."""
    assert main(["convert", str(GOLDEN), str(tmp_path / "out"), "kind=hdf5"]) == 0
    assert main(["validate", str(tmp_path / "out"), "--deep"]) == 0
    stated, written = open_dataset(GOLDEN), open_dataset(tmp_path / "out")
    assert {id: line.digest for id, line in written.index.items()} == {
        id: line.digest for id, line in stated.index.items()
    }
    for episode_id in IDS:
        text = stored_form(written[episode_id].meta)
        assert text == stored_form(stated[episode_id].meta)
        assert f'"digest":"{json_sha256(without_digest(text))}"' in text


def without_digest(text):
    return {key: value for key, value in json.loads(text).items() if key != "digest"}


def test_a_dataset_of_another_python_is_not_damaged_to_repair(tmp_path):
    shutil.copytree(WRITTEN[1], tmp_path / "dataset")
    assert main(["repair", str(tmp_path / "dataset")]) == 0
    assert tuple(open_dataset(tmp_path / "dataset").ids) == IDS


def test_known_motion_is_decoded_to_source_pixels(dataset, capsys, tmp_path):
    # The clip drifts left by one source pixel per frame.
    view = dataset["wide-d5208b5e"].views["main"]
    moved = view.geometry.to_source(view.tracks[0].astype("float64"))
    steps = np.diff(moved, axis=0)
    np.testing.assert_allclose(np.median(steps, axis=(0, 1)), [-1.0, 0.0], atol=0.15)
    # The command gives what the library gives, from AMPLIFY's (row, col) in [-1, 1].
    rc = swap_xy(view.geometry.encode(moved))
    np.save(tmp_path / "prediction.npy", rc)
    argv = ["decode", str(tmp_path / "prediction.npy"), "--geometry", str(GOLDEN)]
    argv += ["--episode", "wide-d5208b5e", "--order", "rc", "--space", "norm"]
    assert main([*argv, "--out", str(tmp_path / "pixels.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "pixels.npy"), moved, atol=1e-9)


def test_inspect_and_schema_work(capsys):
    assert main(["inspect", str(GOLDEN), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
    assert main(["schema", "EpisodeMeta"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "EpisodeMeta"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_without_extras(verb):
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    code = f"{blocked}; from builder.cli import main; main([{verb!r}, '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout


def test_a_missing_extra_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    argv = ["build", "--source", str(tmp_path), "--out", str(tmp_path / "out")]
    argv += ["--img-shape", "24", "40"]
    code = f"{blocked}; from builder.cli import main; sys.exit(main({argv!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'letterset[build]'" in done.stderr
