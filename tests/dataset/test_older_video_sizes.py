"""The tracked size of older files, as the videos they were made from tell it."""

import pytest
from legacy_fixtures import write_amplify, write_video

from builder.core.errors import DatasetError
from builder.dataset.opening import open_dataset

IMG = (120, 160)


def size_of(folder):
    dataset = open_dataset(folder / "old", IMG, videos=folder / "films")
    (episode,) = dataset
    assert dataset.notes == ()
    (view,) = episode.views.values()
    return view.tracked_size()


def write(folder, video, tracked, config=None, **options):
    options = {"older": True, "attrs": False, **options}
    write_amplify(folder / "old" / "sub" / "clip.hdf5", {"default": tracked}, **options)
    write_video(folder / "films" / "sub" / "clip.mp4", video)
    if config is not None:
        (folder / "old" / "config.yaml").write_text(config)


@pytest.mark.parametrize(
    ("video", "tracked"),
    [((90, 160), (480, 853)), ((160, 90), (853, 480)), ((96, 96), (480, 480))],
)
@pytest.mark.parametrize("config", [None, "resize_shorter: 480\ntarget_fps: 20\n"])
def test_the_video_and_the_height_or_the_config_tell_it(tmp_path, video, tracked, config):
    write(tmp_path, video, tracked, config)
    size = size_of(tmp_path)
    assert (size.shape, size.origin) == (tracked, "video")
    assert f"its video is {video[0]} x {video[1]} (H x W)" in size.basis
    assert ("resize_shorter 480" in size.basis) == (config is not None)


def test_a_config_within_a_config_is_found(tmp_path):
    write(tmp_path, (90, 160), (480, 853), "preprocess: {resize_shorter: 480}\nname: x\n")
    assert "resize_shorter 480" in size_of(tmp_path).basis


@pytest.mark.parametrize(
    "config", ["resize_shorter: null\n", "resize_shorter: yes\n", "- 3\n", "a: [", "!!python/x: 1"]
)
def test_a_config_that_says_nothing_is_passed_over(tmp_path, config):
    write(tmp_path, (90, 160), (480, 853), config)
    assert size_of(tmp_path).shape == (480, 853)


@pytest.mark.parametrize(
    ("video", "tracked", "config", "reason"),
    [
        (
            *((90, 160), (480, 853), "resize_shorter: 320\n"),
            r"makes the frames 320 x 569 \(H x W\), but its query grid is that of frames 480 high",
        ),
        ((160, 32), (333, 67), None, "no resizing makes 333 high"),  # 66 and 67: 330 and 335
    ],
)
def test_what_contradicts_the_grid_is_not_taken(tmp_path, video, tracked, config, reason):
    write(tmp_path, video, tracked, config)
    with pytest.raises(DatasetError, match=rf"tracked size is not known \(.*{reason}"):
        size_of(tmp_path)


def test_the_wrong_video_is_an_error_by_name(tmp_path):
    write(tmp_path, (90, 160), (480, 853), length=20)
    with pytest.raises(DatasetError, match=r"clip.mp4 has 24 frames .* have 20"):
        size_of(tmp_path)


def test_the_frame_step_that_a_config_means_is_told(tmp_path):
    write(tmp_path, (90, 160), (480, 853), "target_fps: 5\n", length=12)
    with pytest.raises(DatasetError, match=r"target_fps 5, which is frame step 2 at 10 fps"):
        size_of(tmp_path)
    dataset = open_dataset(tmp_path / "old", IMG, videos=tmp_path / "films", frame_step=2)
    assert next(iter(dataset)).views["default"].tracked_size().shape == (480, 853)
