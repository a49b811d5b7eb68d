"""What of an episode is not opened, left out and told: views, odd columns, depth."""

import json
import shutil

import av
import cv2
import h5py
import numpy as np
import pytest
import robot_fixtures as robots
import source_fixtures as fixtures
from source_fixtures import SHAPE, first, numbers, pictures, selected

from builder.core.errors import AbsentError, DecodeError, DepthError, SourceError
from builder.core.lazy import Lazy
from builder.inputs.images import decode_image
from builder.inputs.streams import BlockStream, StreamInfo, even_times
from builder.inputs.video import VideoStream
from builder.inputs.video_span import VideoSpan
from builder.sources.base import SOURCES, Episode
from builder.sources.selected import select
from builder.sources.selection import Selection
from schemas.config import Limits

T = 6


def source_of(kind, root, **how):
    made = SOURCES.load(kind)
    return made(root, made.Config(**how))


def write_gray(path, bits, count=T, codec="ffv1"):
    """Write a video of one channel, the shape of the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = SHAPE
        stream.pix_fmt = "gray" if bits == 8 else f"gray{bits}le"
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(np.full(SHAPE, 90, np.uint16), format="gray16le")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())
    return path


def no_view():
    raise AssertionError("a view was opened that nobody chose")


def frames(count=T):
    shown = pictures(count)
    info = StreamInfo(SHAPE, count, fps=10.0)
    return BlockStream(info, even_times(count, 10.0), lambda a, b: shown[a:b])


def odd():
    raise SourceError.at(SHAPE_FILE, "it is text")


SHAPE_FILE = fixtures.Path("/somewhere/x.npy")


def test_a_view_that_was_left_out_is_never_opened():
    made = Lazy({"top": frames, "wrist": no_view})
    found = select(Episode(views=made, arrays={"a": np.zeros(T)}), Selection(views=("top",)))
    assert list(found.views) == ["top"]
    made = Lazy({"wrist": no_view, "top": frames})
    found = select(Episode(views=made, arrays={"a": np.zeros(T)}), Selection(views=("top",)))
    assert (list(found.views), list(found.arrays)) == (["top"], ["a"])


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long doubles are doubles here")
def test_long_doubles_are_left_out_unless_asked_for():
    found = Episode(views={"top": frames()}, arrays={"a": np.zeros(T, np.longdouble)})
    chosen = select(found, Selection())
    assert not chosen.arrays
    assert "differs between machines" in chosen.notes[0]
    with pytest.raises(SourceError, match="save it as float64"):
        select(found, Selection(arrays=("a",)))


def test_arrays_of_a_view_that_cannot_be_opened_are_left_out():
    made = Lazy({"wrist": odd, "top": frames})
    found = select(Episode(views=made, arrays={"a": np.zeros(99)}), Selection(views=("top",)))
    assert found.notes == ("array a is left out: it has shape (99,), but the episode has 6 frames",)


def test_what_is_not_asked_for_is_not_read():
    arrays = Lazy({"good": lambda: np.zeros(T), "text": odd})
    found = select(Episode(views={"top": frames()}, arrays=arrays), Selection())
    # The place of the source is no part of what is recorded.
    assert (list(found.arrays), found.notes) == (["good"], ("array text is left out: it is text",))
    how = Selection(arrays=("good",))
    assert select(Episode(views={"top": frames()}, arrays=arrays), how).notes == ()
    with pytest.raises(SourceError, match=r"/somewhere/x\.npy: it is text"):
        select(Episode(views={"top": frames()}, arrays=arrays), Selection(arrays=("text",)))
    with pytest.raises(SourceError, match=r"no arrays \['x'\] among \['good', 'text'\]"):
        select(Episode(views={"top": frames()}, arrays=arrays), Selection(arrays=("x",)))


def test_damage_is_no_odd_column():
    def damaged():
        raise DecodeError("a chunk is damaged")

    episode = Episode(views={"top": frames()}, arrays=Lazy({"actions": damaged}))
    with pytest.raises(DecodeError):
        select(episode, Selection())
    assert list(select(episode, Selection(arrays=())).views) == ["top"]


def test_a_map_of_another_length_or_shape_is_left_out():
    def depth(count=T, shape=SHAPE):
        read = lambda a, b: np.zeros((b - a, *shape), "f4")  # noqa: E731
        return BlockStream(StreamInfo(shape, count), even_times(count, 10.0), read)

    maps = Lazy(
        {
            "depth": depth,
            "long": lambda: depth(T + 1),
            "small": lambda: depth(shape=(18, 24)),
            "odd": odd,
        }
    )
    found = select(Episode(views={"top": frames()}, maps={"top": maps}), Selection())
    assert list(found.maps["top"]) == ["depth"]
    assert [note.split(" is left out")[0] for note in found.notes] == [
        f"map {name} of view top" for name in ("long", "small", "odd")
    ]


# What writes a source of two views of which the second is broken, by kind.
def _episodes(root):
    fixtures.write_video(root / "e" / "top.mp4", T)
    (root / "e" / "wrist.mp4").write_bytes(b"?")
    return root


def _images(root):
    fixtures.write_images(root / "e" / "top", T)
    (root / "e" / "wrist").mkdir()
    (root / "e" / "wrist" / "0.png").write_bytes(b"?")
    return root


def _bridge(root):
    robots.write_bridge(root)
    for broken in root.rglob("images1/im_0.jpg"):
        broken.write_bytes(b"?")
    return root


def _droid(root):
    robots.write_droid(root)
    for broken in root.rglob("18026681.mp4"):
        broken.write_bytes(b"?")
    return root


def _demos(root):
    with h5py.File(root / "x.hdf5", "w") as file:
        file["data/demo_0/obs/top_image"] = pictures(T)
        file.create_dataset("data/demo_0/obs/wrist_image", (T, *SHAPE, 3), "u1", chunks=True)
    return root


def _atm(root):
    robots.write_atm(root)
    for path in root.rglob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            del file["root/eye_in_hand/video"]
            file["root/eye_in_hand/video"] = np.zeros(3)
    return root


BROKEN = {
    "episodes": (_episodes, {}, "top"),
    "images": (_images, {"folder": "view"}, "top"),
    "bridge": (_bridge, {}, "images0"),
    "droid": (_droid, {}, "ext1"),
    "robomimic": (_demos, {}, "top"),
    "atm": (_atm, {}, "agentview"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_every_kind_builds_without_a_view_that_was_left_out(kind, tmp_path):
    write, settings, view = BROKEN[kind]
    root = write(tmp_path)
    with pytest.raises(SourceError):
        selected(source_of(kind, root), **settings)
    found = selected(source_of(kind, root), **settings, views=(view,))
    assert list(found.views) == [view]
    assert not any("wrist" in path or "images1" in path for path in found.files)


def test_tracks_of_a_view_that_was_left_out_are_not_read(tmp_path):
    """Points far outside of their picture contradict the layout; nobody asked for them."""
    robots.write_atm(tmp_path)
    for path in tmp_path.rglob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            file["root/eye_in_hand/tracks"][:] = 7e4
    source = source_of("atm", tmp_path)
    with pytest.raises(DecodeError, match="its tracks"):
        selected(source)
    found = selected(source, views=["agentview"])
    assert {name for name in found.arrays if "." in name} == {
        "agentview.points_xy",
        "agentview.visible",
    }
    assert not found.notes


def test_a_view_whose_file_is_gone_is_missing(tmp_path):
    pytest.importorskip("pyarrow")
    from lerobot_fixtures import CAMERAS, write_v21

    top, wrist = CAMERAS
    root = write_v21(tmp_path)
    shutil.rmtree(root / "videos" / "chunk-000" / wrist)
    _gone_is_missing(root, top, wrist, "it cannot be opened: No such file or directory")
    for path in (root / "videos" / "chunk-000" / top).iterdir():
        pointer = root / "videos" / "chunk-000" / wrist / path.name
        pointer.parent.mkdir(exist_ok=True)
        pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    said = "it was not downloaded, Git LFS left a pointer: git lfs pull"
    _gone_is_missing(root, top, wrist, said)


def _gone_is_missing(root, top, wrist, said):
    source = source_of("lerobot", root)
    with pytest.raises(AbsentError, match=rf"\(view {wrist}\); missing_views: skip"):
        selected(source)
    for how in ({"views": (top,)}, {"missing_views": "skip"}):
        assert list(selected(source, **how).views) == [top]
    masked = selected(source, missing_views="mask")
    assert masked.missing_views == (wrist,)
    assert masked.notes == (f"view {wrist} is missing: {said}",)


def test_a_video_that_the_list_has_no_place_for_is_missing(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from lerobot_fixtures import CAMERAS, write_v3

    top, wrist = CAMERAS
    path = write_v3(tmp_path) / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0].update({f"videos/{wrist}/{key}": None for key in ("chunk_index", "file_index")})
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert list(selected(source_of("lerobot", tmp_path), missing_views="skip").views) == [top]


@pytest.mark.parametrize(
    ("mark", "depth"),
    [
        ({"info": {"is_depth_map": True}}, True),
        ({"info": {"video.is_depth_map": True}}, True),
        ({"video_info": {"video.is_depth_map": True}}, True),
        ({"is_depth_map": True}, True),
        ({"info": {"video": {"is_depth_map": True}}}, True),
        ({"info": {"video.is_depth_map": False}}, False),
        ({"video_info": {"video.is_depth_map": "false"}}, False),
    ],
)
def test_depth_is_marked_at_several_places(tmp_path, mark, depth):
    pytest.importorskip("pyarrow")
    from lerobot_fixtures import CAMERAS, write_v21

    top, wrist = CAMERAS
    info = write_v21(tmp_path) / "meta" / "info.json"
    data = json.loads(info.read_text())
    data["features"][wrist].update(mark)
    info.write_text(json.dumps(data))
    source = source_of("lerobot", tmp_path)
    found = selected(source)
    assert list(found.views) == ([top] if depth else [top, wrist])
    assert bool(found.notes) == depth
    if depth:
        with pytest.raises(SourceError, match=r"are missing, .*info\.json marks it as depth"):
            selected(source, views=(wrist,))


@pytest.mark.parametrize(
    ("bits", "codec"), [(10, "ffv1"), (12, "ffv1"), (16, "ffv1"), (10, "libx264")]
)
def test_a_video_of_one_channel_beyond_8_bits_is_no_picture(tmp_path, bits, codec):
    """Also of H.264, which FFmpeg decodes as if it had colours."""
    fixtures.write_video(tmp_path / "e" / "rgb.mp4", T)
    path = write_gray(tmp_path / "e" / "depth.mkv", bits, codec=codec)
    source = source_of("episodes", tmp_path)
    found = selected(source)
    assert list(found.views) == ["rgb"]
    said = f"is a single channel of {bits} bits"
    assert said in found.notes[0]
    assert str(tmp_path) not in found.notes[0]
    for opened in (
        lambda: selected(source, views=("depth",)),
        lambda: VideoStream(path),
        lambda: VideoSpan(path, 0.0, np.arange(3) / 10),
    ):
        with pytest.raises(DepthError, match=said):
            opened()
    (tmp_path / "e" / "rgb.mp4").unlink()
    with pytest.raises(SourceError, match=rf"none of the views \['depth'\].*{said}"):
        selected(source)


def test_the_colour_of_a_file_of_colour_and_depth_is_read(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("ffv1", rate=10) for _ in range(2)]
        for stream, pixels in zip(streams, ("gray16le", "bgr0"), strict=True):
            stream.height, stream.width = SHAPE
            stream.pix_fmt = pixels
        for k in range(T):
            depth = av.VideoFrame.from_ndarray(np.full(SHAPE, 90, np.uint16), format="gray16le")
            colour = av.VideoFrame.from_ndarray(pictures(T)[k], format="rgb24")
            container.mux(streams[0].encode(depth))
            container.mux(streams[1].encode(colour.reformat(format="bgr0")))
        for stream in streams:
            container.mux(stream.encode())
    assert numbers(VideoStream(path)) == list(range(T))


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_a_gray_camera_stays_a_camera(tmp_path, codec):
    write_gray(tmp_path / "a.mkv", 8, codec=codec)
    assert list(selected(source_of("video", tmp_path)).views) == ["main"]


@pytest.mark.parametrize(
    ("name", "image", "depth"),
    [
        ("a.png", np.full(SHAPE, 700, np.uint16), True),
        ("a.tif", np.full(SHAPE, 700, np.uint16), True),
        ("a.tif", np.full(SHAPE, 0.7, np.float32), True),
        ("a.pgm", np.full(SHAPE, 700, np.uint16), True),
        ("a.png", np.full(SHAPE, 70, np.uint8), False),
        ("a.png", np.full((*SHAPE, 3), 700, np.uint16), False),
        ("a.png", np.full((*SHAPE, 4), 70, np.uint8), False),
    ],
)
def test_an_image_of_one_channel_beyond_8_bits_is_no_picture(tmp_path, name, image, depth):
    assert cv2.imwrite(str(tmp_path / name), image)
    data = (tmp_path / name).read_bytes()
    if depth:
        with pytest.raises(DepthError, match="depth"):
            decode_image(data, tmp_path / name, Limits())
    else:
        assert decode_image(data, tmp_path / name, Limits()).width == SHAPE[1]


def test_an_image_of_depth_amid_colour_is_refused(tmp_path):
    fixtures.write_images(tmp_path, T)
    cv2.imwrite(str(tmp_path / "im_3.png"), np.full(SHAPE, 700, np.uint16))
    with pytest.raises(DepthError, match=r"im_3\.png"):
        selected(source_of("images", tmp_path))


def test_every_column_of_lerobot_may_be_odd(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq
    from lerobot_fixtures import LENGTHS, write_v21

    count = LENGTHS[0]
    odd = {
        "language": pa.array(["go"] * count),
        "ragged": pa.array([[0.0] * (1 + k % 2) for k in range(count)]),
        "null": pa.array([None, *[1.0] * (count - 1)]),
        "events": pa.array([[]] * count, pa.list_(pa.struct([("role", pa.string())]))),
    }
    root = write_v21(tmp_path)
    path = root / "data" / "chunk-000" / "episode_000000.parquet"
    table = pq.read_table(path)
    for name, column in odd.items():
        table = table.append_column(name, column)
    pq.write_table(table, path)
    info = root / "meta" / "info.json"
    data = json.loads(info.read_text())
    names = (*odd, "nowhere")
    data["features"] |= {name: {"dtype": "float32", "shape": [1]} for name in names}
    data["features"]["shapeless"] = {"dtype": "float32", "shape": None}
    info.write_text(json.dumps(data))
    source = source_of("lerobot", root)
    found = selected(source)
    left = {note.split()[1] for note in found.notes}
    assert left == {*names, "shapeless"}
    assert "action" in found.arrays
    for name in left:
        with pytest.raises(SourceError, match=name):
            selected(source, arrays=(name,))


def test_odd_arrays_of_demonstrations_are_left_out_and_numbers_kept(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["obs/a_image"], demo["actions"] = pictures(T), np.zeros((T, 2))
        demo["states"], demo["success"] = np.zeros((T + 1, 3)), True
        demo["language"], demo["nothing"] = "go", h5py.Empty("f8")
        demo["obs/elsewhere"] = h5py.ExternalLink("y.hdf5", "/x")
        demo["obs/policy/joints"] = np.ones((T, 3))
    found = selected(source_of("robomimic", tmp_path))
    assert set(found.arrays) == {"actions", "policy.joints"}
    assert list(found.constants) == ["success"]
    left = {"states", "language", "nothing", "elsewhere"}
    assert {note.split()[1] for note in found.notes} == left


def test_sidecars_may_be_odd(tmp_path):
    fixtures.write_video(tmp_path / "e" / "top.mp4", T)
    np.save(tmp_path / "e" / "actions.npy", np.zeros((T, 2)))
    np.save(tmp_path / "e" / "words.npy", np.array(["a"] * T))
    np.save(tmp_path / "e" / "goal.npy", np.array(3.0))
    found = selected(source_of("episodes", tmp_path))
    assert (list(found.arrays), list(found.constants)) == (["actions"], ["goal"])
    assert found.notes == ("array words is left out: its type <U1 is not plain numbers",)


def test_chunks_that_were_never_written_hold_the_fill_value_beside_pictures(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=2)
    group.create_array("data/img", data=pictures(T), chunks=(2, *SHAPE, 3))
    reward = group.create_array(
        "data/reward", shape=(T, 1), chunks=(2, 1), dtype="f4", fill_value=0
    )
    reward[2:4] = 1
    group.create_array("data/long", data=np.ones((T + 1, 1)))
    group.create_array("meta/episode_ends", data=np.array([T]))
    source = source_of("diffusion_policy", tmp_path)
    assert len(list(source.refs())) == 1
    found = selected(source)
    assert found.arrays["reward"].ravel().tolist() == [0, 0, 1, 1, 0, 0]
    assert found.notes == (
        "array reward: 2 chunks never written, read as the fill value",
        "array long is left out: data/long: it has 7 rows, the pictures have 6",
    )
    with first(source) as episode:
        assert numbers(episode.views["img"]) == list(range(T))
