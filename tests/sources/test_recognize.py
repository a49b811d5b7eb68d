"""Which kind of source lies at a path; that every example is recognized is tested with init."""

import zipfile

import h5py
import numpy as np
import pytest
import robot_fixtures as robots
import source_fixtures as fixtures
from legacy_fixtures import amplify_folder

from builder.core import registry
from builder.core.errors import ConfigError, MissingExtraError, SourceError
from builder.sources import BaseSource
from builder.sources.base import SOURCES
from builder.sources.contents import Evidence
from builder.sources.kinds.diffusion_policy import DiffusionPolicy
from builder.sources.recognize import recognize
from builder.sources.selection import Selection


@pytest.mark.parametrize(
    ("write", "kind", "settings"),
    [
        (lambda root: fixtures.write_video(root / "a.mp4"), "video", {}),
        (lambda root: fixtures.write_images(root / "e1"), "images", {"folder": "episode"}),
        (lambda root: fixtures.write_images(root), "images", {"folder": "episode"}),
    ],
)
def test_small_folders_are_recognized(tmp_path, write, kind, settings):
    write(tmp_path)
    found = recognize(tmp_path)
    assert (found.kind, found.settings) == (kind, settings)


@pytest.mark.parametrize("name", ["a.mp4", "demo.hdf5", "x.zarr.zip", "x.pkl"])
def test_single_files_are_recognized(tmp_path, name):
    if name == "demo.hdf5":
        root = fixtures.write_robomimic(tmp_path)
        assert recognize(next(root.rglob("*.hdf5"))).kind == "robomimic"
        return
    (tmp_path / name).touch()
    expected = {"a.mp4": "video", "x.zarr.zip": "diffusion_policy", "x.pkl": "tapvid"}
    assert recognize(tmp_path / name).kind == expected[name]


def test_older_track_files_are_told_from_sources(tmp_path):
    amplify_folder(tmp_path, demos=1)
    with pytest.raises(SourceError, match=r"older track files, not a source.*letterset migrate"):
        recognize(tmp_path)


def test_several_kinds_are_listed_and_none_is_chosen(tmp_path):
    fixtures.write_libero(tmp_path / "demos")
    fixtures.write_video(tmp_path / "more" / "a.mp4")
    seen = r"libero \(demonstrations of LIBERO .* in HDF5 files\); video \(1 video file\)"
    with pytest.raises(ConfigError, match=rf"several kinds of source: {seen}.*source.kind=libero"):
        recognize(tmp_path)


def test_videos_beside_atm_files_are_no_second_kind(tmp_path):
    root = robots.write_atm(tmp_path)
    fixtures.write_video(root / "a.mp4")
    assert recognize(root).kind == "atm"


def test_pickles_beside_images_belong_to_them(tmp_path):
    fixtures.write_images(tmp_path / "e1")
    (tmp_path / "e1" / "notes.pkl").touch()
    assert recognize(tmp_path).kind == "images"


def test_a_file_of_no_known_kind_may_be_a_video_but_no_damaged_hdf5(tmp_path):
    for name in ("a.xyz", "im_0.png"):
        (tmp_path / name).write_bytes(b"?")
        assert recognize(tmp_path / name).kind == "video"
    (tmp_path / "a.hdf5").write_bytes(b"?")
    with pytest.raises(SourceError, match=r"no kind of source is .*not a whole HDF5 file"):
        recognize(tmp_path / "a.hdf5")


def test_a_marked_folder_is_not_listed(tmp_path, monkeypatch):
    (tmp_path / ".zgroup").touch()
    (tmp_path / "meta" / "episode_ends").mkdir(parents=True)
    monkeypatch.setattr("builder.sources.contents.walk", lambda root: pytest.fail("listed"))
    found = recognize(tmp_path)
    assert (found.kind, found.why) == ("diffusion_policy", "a Zarr group with meta/episode_ends")


class Stacks(BaseSource):
    """A source of another package."""

    Config = Selection

    @classmethod
    def recognize(cls, contents):
        return Evidence("stacks") if "a.stack" in contents.names else None


def test_a_source_says_itself_what_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.BUILTIN["sources"], "stacks", f"{__name__}:Stacks")
    (tmp_path / "a.stack").touch()
    assert recognize(tmp_path).kind == "stacks"


def test_a_package_that_is_missing_is_named_when_a_source_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusionPolicy, "packages", ("numcodecs.no_such_part",))
    with pytest.raises(MissingExtraError, match=r"numcodecs.*letterset\[zarr\]"):
        DiffusionPolicy(tmp_path)


def test_what_no_kind_that_can_be_imported_knows_may_need_a_package(tmp_path, monkeypatch):
    fixtures.write_video(tmp_path / "a.mp4")
    load = SOURCES.load

    def without_av(backends, kind):
        if kind in ("video", "episodes", "images"):
            raise MissingExtraError("av", "build")
        return load(kind)

    monkeypatch.setattr(type(SOURCES), "load", without_av)
    with pytest.raises(MissingExtraError, match=r"letterset\[build\]"):
        recognize(tmp_path)


def write_h5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name.replace("__", "/")] = value
    return path


def zipped(root):
    with zipfile.ZipFile(root / "data.zip", "w") as archive:
        archive.writestr("robot/a.hdf5", b"x")
        archive.writestr("robot/b.hdf5", b"x")
    return root / "data.zip"


def plain_zarr(root):
    (root / "x.zarr").mkdir()
    (root / "x.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    (root / "x.zarr" / "readme").touch()
    return root / "x.zarr"


def linked(root):
    return write_h5(root / "a.hdf5", data__demo_0__obs=h5py.ExternalLink("other.h5", "/obs"))


def truncated(root):
    path = fixtures.write_robomimic(root).joinpath("lift", "ph", "image.hdf5")
    path.write_bytes(path.read_bytes()[:-2000])
    return root


def touched(name):
    def write(root):
        (root / name).touch()
        return root

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (truncated, r"1 HDF5 file .*image\.hdf5: not a whole HDF5 file.*get damaged files again"),
        (linked, r"a\.hdf5: data/demo_0/obs: it is an external link"),
        (
            lambda root: write_h5(root / "a.h5", cam__rgb=fixtures.pictures(3), q=np.zeros((3, 7))),
            r"a\.h5: /cam/rgb \(3, 36, 48, 3\) uint8, /q \(3, 7\) float64\); .*add a source",
        ),
        (
            lambda root: write_h5(
                root / "low_dim.hdf5",
                data__demo_0__actions=np.zeros((3, 7)),
                data__demo_0__obs__object=np.zeros((3, 9)),
            ),
            r"as robomimic and LIBERO keep them, without pictures \(T, H, W, 3\) in obs; render",
        ),
        (
            lambda root: write_h5(root / "a.hdf5", observations__qpos=np.zeros((3, 14))),
            r"an episode of ALOHA / ACT, without pictures in observations/images",
        ),
        (zipped, r"data\.zip is a zip of 2 files: \.hdf5 \(2\); unpack it"),
        (plain_zarr, r"x\.zarr is Zarr without meta/episode_ends"),
        (touched("x-train.tfrecord-00000-of-00001"), r"without dataset_info\.json and features"),
        (touched("a.bag"), r"a\.bag: a ROS recording.*export its image topics"),
        (touched("a.tar.gz"), r"a\.tar\.gz: an archive.*unpack it"),
        (touched("a.docx"), r"1 file of kinds that no source reads: \.docx \(1\)"),
        (lambda root: root, "there is no file in it"),
    ],
)
def test_what_is_not_taken_is_told_with_why_and_what_to_do(tmp_path, write, said):
    with pytest.raises(SourceError, match=rf"no kind of source is recognized: .*{said}"):
        recognize(write(tmp_path))


def test_damaged_files_before_good_ones_do_not_hide_them(tmp_path):
    for number in range(7):
        (tmp_path / f"a{number}.hdf5").write_bytes(b"?")
    fixtures.write_robomimic(tmp_path)
    assert recognize(tmp_path).kind == "robomimic"
