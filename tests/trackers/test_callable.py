"""``tracker.kind=callable``: a function of the user's own, from its file to the dataset."""

from __future__ import annotations

import hashlib
import pickle
import sys

import numpy as np
import pytest
from source_fixtures import write_video

from builder.cli import main
from builder.core.errors import ConfigError, TrackingError
from builder.core.user_code import load_function
from builder.dataset.opening import open_dataset
from builder.testing import check_call
from builder.testing.trackers import HORIZON, LENGTH, QUERIES, moving_frames, run_tracker
from builder.trackers.base import TRACKERS
from schemas.config import TrackerPart

FLOW = '''
import cv2
import numpy as np
import flow_settings


def track(video, queries_xy):
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    tracks, visible = [queries_xy], [np.ones(len(queries_xy), bool)]
    for before, after in zip(grays, grays[1:]):
        end, found, _ = cv2.calcOpticalFlowPyrLK(
            before, after, tracks[-1], None, winSize=(flow_settings.SIDE,) * 2
        )
        tracks.append(end)
        visible.append(visible[-1] & (found[:, 0] == 1))
    visible = np.stack(visible)
    return np.stack(tracks), visible, visible * np.linspace(1, 0.5, len(video))[:, None]


def mean_place(video, queries_xy):
    """Where the weight of red is: pixel centres at whole numbers."""
    weight = video[..., 0].astype(float)
    total = weight.sum(axis=(1, 2))
    y, x = np.indices(video.shape[1:3])
    place = np.stack([(weight * x).sum(axis=(1, 2)), (weight * y).sum(axis=(1, 2))], -1)
    tracks = np.repeat((place / total[:, None])[:, None], len(queries_xy), axis=1)
    return tracks, np.ones(tracks.shape[:2])
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with ``flow.py``, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "flow_settings.py").write_text("SIDE = 15\n")
    yield tmp_path
    for name in ("flow", "flow_settings", "answer"):
        sys.modules.pop(name, None)


def opened(call="flow:track", coordinates="pixel_center", **settings):
    part = TrackerPart(kind="callable", call=call, coordinates=coordinates, **settings)
    backend, config = TRACKERS.configure(part)
    return backend(config)


@pytest.mark.parametrize("settings", [{}, {"size": [128, 144], "conf": True}])
def test_it_conforms(place, settings):
    check_call("flow:track", coordinates="pixel_center", **settings)


@pytest.mark.parametrize("size", [None, [40, 90], [128, 96]])
def test_points_go_through_origin_and_size(place, size):
    """A blob's centroid, found in the resized video, comes back where the blob was drawn."""
    xs, ys = np.meshgrid(np.arange(96) + 0.5, np.arange(64) + 0.5)
    frames = []
    for step in range(4):
        blob = np.exp(-((xs - 40 - 2 * step) ** 2 + (ys - 30 + step) ** 2) / 50)
        frames.append(np.repeat(np.rint(250 * blob)[..., None], 3, -1).astype(np.uint8))
    for coordinates, off in (("pixel_center", 0.0), ("pixel_edge", -0.5)):
        tracker = opened("flow:mean_place", coordinates, size=size)
        session = tracker.open((64, 96), np.array([(40, 30)], np.float32), 4, 1)
        window = next(w for frame in frames for w in session.push(frame))
        scale = np.array([1, 1]) if size is None else np.array([96 / size[1], 64 / size[0]])
        truth = [(40 + 2 * s, 30 - s) + off * scale for s in range(1, 4)]
        np.testing.assert_allclose(window.tracks_xy[1:, 0], truth, atol=0.02)


def test_the_function_gets_what_the_docs_say(place):
    (place / "answer.py").write_text(
        "import numpy as np\n"
        "def track(video, queries_xy):\n"
        "    assert video.shape == (7, 32, 48, 3) and video.dtype == np.uint8, video.shape\n"
        f"    assert queries_xy.shape == ({len(QUERIES)}, 2) and queries_xy.dtype == np.float32\n"
        f"    assert np.allclose(queries_xy, {(QUERIES / 2 - 0.5).tolist()})\n"
        "    seen = (video[-1] == video[-2]).all()\n"
        "    video[:] = 0\n"
        "    return np.repeat(queries_xy[None], 7, 0), np.full((7, len(queries_xy)), seen)\n"
    )
    tracker = opened("answer:track", size=[32, 48], min_clip=7)
    windows = run_tracker(tracker, moving_frames(LENGTH))
    assert all(w.tracks_xy.shape == (HORIZON, len(QUERIES), 2) for w in windows)
    assert windows[0].vis.all()  # padded to min_clip by its last frame, not changed by the others


ANSWERS = {  # what the function returns: what the message says after its name
    "None": "returned NoneType, expected tracks_xy, visible",
    "xy": "returned ndarray",
    "xy, seen, seen, seen": "returned 4 values",
    "xy.swapaxes(0, 1), seen": r"tracks_xy \(4, 5, 2\).*\(5, 4, 2\), \(T, N, 2\); steps come first",
    "xy[None], seen": r"tracks_xy \(1, 5, 4, 2\)",
    "xy.astype(object), seen": "tracks_xy .* object",
    "xy, seen[1:]": r"visible \(4, 4\) bool, expected numbers \(5, 4\), \(T, N\)",
    "xy, seen[..., None]": r"visible \(5, 4, 1\)",
    "xy * np.where(np.arange(5) == 3, np.nan, 1)[:, None, None], seen": "NaN or infinity at step 3",
    "xy, seen * 0.7": "visible other than 0 and 1",
    "xy[..., ::-1], seen": "start .* px from their queries: x and y are swapped",
    "xy / 96, seen": "start .* px from their queries: expected pixels of the video",
    "1 / 0": r"failed on a window of 5 frames with 4 points: ZeroDivisionError: .*line 5 of answer",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_it_returns_is_checked_and_named(place, answer):
    (place / "answer.py").write_text(
        "import numpy as np\n"
        "def track(video, queries_xy):\n"
        "    xy = np.repeat(queries_xy[None], len(video), axis=0)\n"
        "    seen = np.ones(xy.shape[:2], bool)\n"
        f"    return {answer}\n"
    )
    with pytest.raises(TrackingError, match=f"^answer:track .*{ANSWERS[answer]}"):
        run_tracker(opened("answer:track"), moving_frames(LENGTH))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("", "returned no confidence, which tracker.conf=true asks for"),
        (", seen[0]", "confidence .4,."),
        (", seen * 1.5", "confidence outside 0 to 1"),
        (", seen * np.nan", "confidence outside 0 to 1, or NaN"),
    ],
)
def test_confidence_is_checked_where_it_is_asked_for(place, answer, says):
    (place / "answer.py").write_text(
        "import numpy as np\n"
        "def track(video, queries_xy):\n"
        "    xy = np.repeat(queries_xy[None], len(video), axis=0)\n"
        "    seen = np.ones(xy.shape[:2])\n"
        f"    return xy, seen{answer}\n"
    )
    with pytest.raises(TrackingError, match=f"^answer:track .*{says}"):
        run_tracker(opened("answer:track", conf=True), moving_frames(LENGTH))
    assert run_tracker(opened("answer:track"), moving_frames(LENGTH))[0].conf is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("flow", "write module:function"),
        ("nowhere_at_all:track", "No module named 'nowhere_at_all'"),
        ("flow.py:track", "write flow:track"),
        ("flow:nothing", "no attribute 'nothing'"),
        ("flow_settings:SIDE", "cannot be called"),
    ],
)
def test_a_function_that_is_not_there_is_told(place, call, says):
    with pytest.raises(ConfigError, match=rf"^tracker\.call .*{says}"):
        _ = opened(call).info


def test_a_module_that_ends_the_program_does_not_end_ours(place):
    (place / "answer.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ConfigError, match="SystemExit: 3"):
        _ = opened("answer:track").info


def test_the_source_is_recorded_and_pinned(place):
    digest = hashlib.sha256((place / "flow.py").read_bytes()).hexdigest()
    tracker = opened()
    assert tracker.info.settings["source_sha256"] == digest == tracker.pins["source_sha256"]
    assert tracker.notice is None
    assert pickle.loads(pickle.dumps(tracker)).info == tracker.info
    with pytest.raises(ConfigError, match=f"SHA-256 {digest}, expected {'0' * 64}"):
        _ = opened(source_sha256="0" * 64).function


def test_a_function_without_a_source_is_said_to_be_unknown(place):
    tracker = opened("math:atan2")
    assert tracker.info.settings["source_sha256"] == "unknown"
    assert "no source to read" in tracker.notice


def test_the_file_that_defines_a_function_counts_not_the_one_that_hands_it_on(place):
    (place / "answer.py").write_text(
        "from functools import partial\nfrom flow import track\nother = partial(track)\n"
    )
    digest = hashlib.sha256((place / "flow.py").read_bytes()).hexdigest()
    for name in ("track", "other"):
        assert load_function(f"answer:{name}", "it").source_sha256 == digest


def test_weights_are_recorded_by_their_hash(place):
    (place / "weights.bin").write_bytes(b"12345")
    info = opened(weights="weights.bin", weights_url="https://example.org/w", licence="MIT").info
    assert info.weights_sha256 == hashlib.sha256(b"12345").hexdigest()
    assert (info.weights_url, info.licence) == ("https://example.org/w", "MIT")
    with pytest.raises(ConfigError, match=r"tracker\.weights gone\.bin: No such file"):
        _ = opened(weights="gone.bin").info


def test_long_windows_are_refused_with_a_way_out(place):
    with pytest.raises(TrackingError, match=r"window of 301 frames at once.*max_clip"):
        opened().open((64, 96), QUERIES, 301, 1)


OPTIONS = [
    *("--img-shape", "48", "64", "--quiet", "queries.grid=[3,4]", "tracker.horizon=5"),
    *("tracker.kind=callable", "tracker.call=flow:track", "tracker.coordinates=pixel_center"),
]
INLINE = "executor.kind=inline"


def test_workers_find_it_in_the_working_folder_and_a_build_keeps_to_it(place, capsys):
    """From the command line: two workers, then a resumed build, an edited one, a live camera."""
    for name in "ab":
        write_video(place / "videos" / f"{name}.mp4", count=9, shape=(36, 48))
    build = ["build", "--source", "videos", "--out", "out", *OPTIONS, "tracker.conf=true"]
    assert main([*build, "executor.workers=2"]) == 0
    dataset = open_dataset("out")
    view = dataset[dataset.ids[0]].views["main"]
    assert (view.vis.shape, view.conf.shape) == ((9, 5, 12), (9, 5, 12))
    assert main(["validate", "out", "--deep"]) == 0
    assert main(build) == 0
    (place / "flow.py").write_text(FLOW.replace("0.5", "0.25"))
    write_video(place / "videos" / "c.mp4", count=9, shape=(36, 48))
    capsys.readouterr()
    assert main(build) == 2
    assert "tracker.settings.source_sha256 is" in capsys.readouterr().err
    assert len(open_dataset("out")) == 2


def test_what_was_edited_since_the_build_began_is_refused(
    inline_executor, place, monkeypatch, capsys
):
    from builder.build import pipeline

    write_video(place / "videos" / "a.mp4", count=5, shape=(36, 48))
    settle = pipeline.settle

    def edited(*args):
        (place / "flow.py").write_text(FLOW + "# edited\n")
        return settle(*args)

    monkeypatch.setattr(pipeline, "settle", edited)
    assert main(["build", "--source", "videos", "--out", "out", *OPTIONS, INLINE]) == 2
    assert "or was edited since" in capsys.readouterr().err
    assert len(open_dataset("out")) == 0


def test_a_record_alone_never_has_code_run(inline_executor, place, capsys):
    pytest.importorskip("torch")
    from builder.inference import LiveWindows

    write_video(place / "videos" / "a.mp4", count=9, shape=(36, 48))
    assert main(["build", "--source", "videos", "--out", "out", *OPTIONS, INLINE]) == 0
    assert main(["export", "out", "inference.json", "--to", "inference"]) == 0
    sys.modules.pop("flow", None)
    with pytest.raises(ConfigError, match=r"flow:track, and a record never has code run.*--call"):
        LiveWindows.load("inference.json")
    assert "flow" not in sys.modules
    assert LiveWindows.load("inference.json", tracker={"call": "flow:track"})
    capsys.readouterr()
    assert main(["parity", "out", "--call", "flow:track"]) == 0
    assert "5 of 5 windows equal bit for bit" in capsys.readouterr().out
    (place / "flow.py").write_text(FLOW + "# edited\n")
    with pytest.raises(ConfigError, match="source_sha256"):
        LiveWindows.load("inference.json", tracker={"call": "flow:track"})
