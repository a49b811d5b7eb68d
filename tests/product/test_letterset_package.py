"""``import letterset``: the public names, and packages of others that are named like ours."""

import subprocess
import sys

import pytest
from places import ROOT

import letterset
from builder.dataset.opening import open_dataset
from builder.testing.samples import Sample, sample_dataset
from letterset import plugins

pytestmark = pytest.mark.core

FOREIGN = {
    "folder": {"schemas/__init__.py": "MINE = 1", "builder/__init__.py": "MINE = 1"},
    "file": {"schemas.py": "MINE = 1", "builder.py": "MINE = 1"},
    "no package": {"schemas/notes.txt": "", "builder/notes.txt": ""},
}


def python(folder, code, *path):
    """Run code in a folder as ``python -c`` does: the folder comes first on sys.path."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=folder,
        env={"PYTHONPATH": ":".join(map(str, [*path, ROOT])), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def write(folder, kind):
    for name, text in FOREIGN[kind].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize(
    "code",
    [
        "import letterset; box = letterset.Letterbox.fit((48, 80), (64, 64))",
        "from letterset import Letterbox, open_dataset; box = Letterbox.fit((48, 80), (64, 64))",
        "import letterset.plugins; import schemas; box = schemas.Letterbox.fit((48, 80), (64, 64))",
        "import sys; from letterset.__main__ import main; sys.argv[1:] = []; box = main()",
    ],
)
def test_a_foreign_package_beside_the_script_is_no_obstacle(tmp_path, kind, code):
    write(tmp_path, kind)
    done = python(tmp_path, f"{code}; print(box)")
    assert done.returncode == 0, done.stderr
    assert "MINE" not in done.stdout
    if kind == "no package":
        assert done.stderr == ""
    else:  # said once per name, with its file and what to do
        assert done.stderr.count("hides") == 2
        assert str(tmp_path / "schemas") in done.stderr
        assert "rename yours" in done.stderr


def test_a_foreign_package_that_came_first_is_named(tmp_path):
    write(tmp_path, "folder")
    done = python(tmp_path, "import schemas; import letterset")
    assert done.returncode == 1
    assert f"{tmp_path / 'schemas' / '__init__.py'} was imported by that name" in done.stderr
    assert "rename yours" in done.stderr


def test_our_own_packages_may_come_first(tmp_path):
    code = "import {}; import letterset; print(letterset.Letterbox.__module__)"
    for name in ("schemas", "builder", "builder.trackers"):
        done = python(tmp_path, code.format(name))
        assert (done.stdout, done.stderr) == ("schemas.geometry\n", "")


def test_files_of_another_package_in_the_place_of_ours_are_told(tmp_path):
    for name in ("letterset", "builder", "schemas"):
        (tmp_path / "site" / name).mkdir(parents=True)
    for path in (ROOT / "letterset").glob("*.py"):
        (tmp_path / "site" / "letterset" / path.name).write_bytes(path.read_bytes())
    foreign = tmp_path / "site" / "schemas" / "__init__.py"
    foreign.write_text("MINE = 1", encoding="utf-8")
    done = python(tmp_path, "import letterset", tmp_path / "site")
    assert f"{foreign}: it is not letterset's" in done.stderr
    assert "install letterset again" in done.stderr


def test_a_build_from_python_has_workers_that_find_ours(tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    from legacy_fixtures import write_video

    write(tmp_path, "folder")
    write_video(tmp_path / "videos" / "one.mp4", shape=(48, 80), length=18)
    code = """
import warnings; warnings.simplefilter("ignore")
from letterset import BuildConfig, build, open_dataset
build(BuildConfig.model_validate({
    "img_shape": [32, 48], "source": {"path": "videos"}, "store": {"path": "out"},
    "executor": {"kind": "processes", "workers": 2},
}))
print(open_dataset("out"))
"""
    done = python(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert "Dataset('out': 1 episodes, img_shape=(32, 48)" in done.stdout


@pytest.mark.parametrize("door", [letterset, plugins])
def test_every_name_is_listed_and_is_there(door):
    assert {*door.__all__} <= {*dir(door)}
    assert len(door.__all__) >= 40
    for name in door.__all__:
        try:
            assert getattr(door, name) is not None
        except letterset.MissingExtraError:  # the core install has the names alone
            pass
    with pytest.raises(AttributeError, match="no attribute 'open_datset'"):
        door.open_datset  # noqa: B018


def test_what_is_opened_tells_what_it_holds(tmp_path):
    pytest.importorskip("h5py")
    from builder.stores.base import STORES

    sample_dataset(tmp_path / "data", STORES.load("hdf5")(tmp_path / "data"), [Sample("a/one")])
    dataset = open_dataset(tmp_path / "data")
    episode = dataset["a/one"]
    (view, *_) = episode.views.values()
    assert repr(dataset).startswith(f"Dataset('{tmp_path / 'data'}': 1 episodes, img_shape=")
    assert repr(episode).startswith(f"EpisodeData('a/one': {episode.meta.length} frames, views=")
    assert f"tracks {view.tracks.shape}" in repr(view)
    assert f"source_shape={view.geometry.source_shape}" in repr(view)
