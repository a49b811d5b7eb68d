"""The real cotracker package with random weights and networks made small.

Real weights and CUDA could not be run where this was written; what needs a GPU is marked.
"""

# ruff: noqa: E402  (imports follow importorskip)
from __future__ import annotations

import argparse
import copy
import hashlib
import math
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("cotracker", reason="cotracker is not installed (requirements-test-nodeps.txt)")

from cotracker.models.core.cotracker import cotracker as v2
from cotracker.models.core.cotracker import cotracker3_offline, cotracker3_online
from cotracker.predictor import CoTrackerOnlinePredictor, CoTrackerPredictor

from builder.core.errors import ConfigError, TrackingError
from builder.core.worker_slot import SLOT
from builder.core.working import working_told_to
from builder.testing import check_tracker
from builder.trackers.base import TRACKERS, Window
from builder.trackers.kinds.cotracker import CoTracker, CoTrackerConfig, loading
from builder.trackers.kinds.cotracker.correlation import CorrelationRows
from builder.trackers.kinds.cotracker.loading import MODELS
from schemas.config import TrackerPart
from schemas.dataset import TrackerInfo

RESOLUTION = (48, 64)
SHAPES = [(41, 74), (67, 30)]
STREAMING = [name for name, spec in MODELS.items() if spec.streams]

cuda = pytest.mark.cuda


@contextmanager
def narrow_networks() -> Iterator[None]:
    """Let the package build its networks with one narrow block, where it has 3 or 6 wide ones."""
    whole, narrow = v2.EfficientUpdateFormer, {"space_depth": 1, "time_depth": 1}
    narrow |= {"hidden_size": 96, "num_heads": 2, "num_virtual_tracks": 4}
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(5)
        for module in (v2, cotracker3_online):
            patch.setattr(module, "EfficientUpdateFormer", lambda **k: whole(**{**k, **narrow}))
        yield


@lru_cache
def _network(model: str) -> Any:
    spec = MODELS[model]
    built = v2.CoTracker2 if spec.v2 else cotracker3_online.CoTrackerThreeOnline
    built = built if spec.streams else cotracker3_offline.CoTrackerThreeOffline
    with narrow_networks():
        network = built(window_len=spec.window_len, stride=4, model_resolution=RESOLUTION)
        # As constructed, a network hardly moves its points and sees none of them.
        former = network.updateformer
        torch.nn.init.normal_(former.flow_head.weight, std=0.01)
        score = network.vis_predictor[0] if spec.v2 else former.vis_conf_head
        torch.nn.init.normal_(score.weight, std=0.5)
        score.bias.data += 2.0
    return network.eval()


def small_network(model: str) -> Any:
    """One of the package's networks with random weights, made small."""
    return copy.deepcopy(_network(model))


def make(model: str = "cotracker3_online", network: Any = None, **settings: Any) -> CoTracker:
    config = CoTrackerConfig(model=model, device="cpu", support_grid=2, iterations=2, **settings)
    return CoTracker(config, network=network or small_network(model))


def frames(count: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape, 3), np.uint8)


def grid(shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    x, y = width * np.array([0.2, 0.5, 0.9]), height * np.array([0.6, 0.1, 0.3])
    return np.stack([x, y], axis=-1).astype(np.float32)


def run(tracker: CoTracker, video: np.ndarray, horizon: int, start_every: int = 1) -> list[Window]:
    shape = video.shape[1:3]
    session = tracker.open(shape, grid(shape), horizon, start_every)
    windows = [window for frame in video for window in session.push(frame)]
    return windows + session.finish()


class OneByOne(torch.nn.Module):
    """An encoder that is asked for one frame at a time: equal batches give equal bits."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, video: Any) -> Any:
        return torch.cat([self.encoder(image[None]) for image in video])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by more, and lose much when cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def predictors() -> Iterator[dict[str, Any]]:
    """The authors' own predictors; their networks are exchanged by the tests."""
    with narrow_networks():
        yield {
            "clip": CoTrackerPredictor(checkpoint=None),
            "online": CoTrackerOnlinePredictor(checkpoint=None),
        }


def authors(predictor: Any, model: str) -> Any:
    network = small_network(model)
    network.fnet = OneByOne(network.fnet)
    forward = network.forward
    network.forward = lambda *args, iters, **kwargs: forward(*args, iters=2, **kwargs)
    predictor.model, predictor.interp_shape = network, RESOLUTION
    predictor.support_grid_size, predictor.v2 = 2, MODELS[model].v2
    predictor.step = network.window_len // 2
    return predictor


def as_tensors(clip: np.ndarray) -> tuple[Any, Any]:
    shape = clip.shape[1:3]
    video = torch.from_numpy(clip).permute(0, 3, 1, 2)[None].float()
    points = torch.from_numpy(grid(shape) - np.float32(0.5))
    return video, torch.nn.functional.pad(points, (1, 0))[None]


@pytest.mark.parametrize("model", ["cotracker2", "cotracker3_online"])
def test_it_conforms(model: str) -> None:
    config = CoTrackerConfig(model=model, device="cpu", support_grid=0, iterations=1)
    check_tracker(lambda: CoTracker(config, small_network(model)), max_error_px=None)


class TestWindows:
    @pytest.mark.parametrize(("model", "shape"), list(zip(MODELS, SHAPES * 2, strict=True)))
    def test_equal_the_authors_predictor_bit_by_bit(
        self, predictors: dict[str, Any], model: str, shape: tuple[int, int]
    ) -> None:
        horizon, video = 10, frames(12, shape)
        tracker = make(model, visibility_of="visibility", visibility_threshold=0.9)
        windows = run(tracker, video, horizon, start_every=3)
        predictor = authors(predictors["clip"], model)
        assert [window.start for window in windows] == [0, 3, 6, 9]
        moved = []
        for start, tracks, vis, conf in windows:
            clip = video[np.minimum(np.arange(start, start + horizon), len(video) - 1)]
            expected, seen = predictor(*as_tensors(clip)[:1], queries=as_tensors(clip)[1])
            real = min(horizon, len(video) - start)
            expected = expected[0].numpy() + np.float32(0.5)
            np.testing.assert_array_equal(tracks[1:real], expected[1:real])
            np.testing.assert_array_equal(vis[:real], seen[0, :real].numpy())
            np.testing.assert_array_equal(tracks[0], grid(shape))
            assert (conf is not None) == tracker.gives_conf
            moved.append(np.abs(np.diff(tracks, axis=0)).max())
        assert max(moved) > 0.01

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("length", [1, 2, 4])
    def test_short_clips_are_tracked_and_not_zero(self, model: str, length: int) -> None:
        shape = SHAPES[0]
        windows = run(make(model), frames(length, shape), horizon=3)
        assert len(windows) == length
        for start, tracks, vis, _ in windows:
            np.testing.assert_array_equal(tracks[0], grid(shape))
            assert np.abs(tracks - grid(shape)).max() < 20  # zeros would be further away
            np.testing.assert_array_equal(vis[0], 1)
            real = min(3, length - start)
            np.testing.assert_array_equal(
                tracks[real:], tracks[real - 1 : real].repeat(3 - real, 0)
            )

    def test_features_are_computed_once_per_frame(self) -> None:
        tracker, calls = make(), []
        tracker.engine._encoder.register_forward_hook(lambda *_: calls.append(1))
        run(tracker, frames(12, SHAPES[0]), horizon=6)
        assert len(calls) == 12

    @pytest.mark.parametrize("size", [(12, 16), (5, 3), (1, 7)])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_places_are_looked_up_as_the_network_does(
        self, size: tuple[int, int], batch: int
    ) -> None:
        network, (height, width) = small_network("cotracker3_online"), size
        generator = torch.Generator().manual_seed(batch)
        fmaps = torch.randn(batch, 3, network.latent_dim, height, width, generator=generator)
        # Inside, on the border, far outside, nowhere.
        xy = torch.rand(batch * 3, 9, 2, generator=generator) * 3 - 1
        xy = xy * torch.tensor([width, height])
        xy[0, 0], xy[0, 1] = torch.tensor([width - 1, height - 1]), 0
        xy[1, 2], xy[2, 0] = torch.inf, torch.nan
        expected = network.get_correlation_feat(fmaps, xy)
        looked_up = CorrelationRows(network)
        for _ in range(2):  # the second time from the rows it kept
            assert torch.equal(looked_up(fmaps, xy), expected)
        other = torch.randn(fmaps.shape, generator=generator)
        assert torch.equal(looked_up(other, xy), network.get_correlation_feat(other, xy))

    def test_the_buffer_is_bounded(self) -> None:
        shape = SHAPES[0]
        tracker = make(batch=2)
        session = tracker.open(shape, grid(shape), 5, 1)
        kept = []
        for frame in frames(12, shape):
            session.push(frame)
            kept.append(len(session._frames))
        assert max(kept) <= 5 + 1

    @pytest.mark.parametrize("model", MODELS)
    def test_batches_agree_with_single_windows(self, model: str) -> None:
        video = frames(7, SHAPES[1])
        one = run(make(model), video, horizon=6)
        three = run(make(model, batch=3), video, horizon=6)
        again = run(make(model, batch=3), video, horizon=6)
        for a, b, c in zip(one, three, again, strict=True):
            assert a.start == b.start == c.start
            np.testing.assert_allclose(a.tracks_xy, b.tracks_xy, atol=0.01)
            np.testing.assert_array_equal(b.tracks_xy, c.tracks_xy)

    def test_a_long_window_is_refused_by_a_model_that_cannot_stream(self) -> None:
        tracker = make("cotracker3_offline", max_clip=20)
        with pytest.raises(TrackingError, match=r"window of 21 frames .* limit is 20.*_online"):
            tracker.open(SHAPES[0], grid(SHAPES[0]), 21, 21)

    def test_queries_outside_the_frame_are_refused(self) -> None:
        with pytest.raises(TrackingError, match="outside"):
            make().open((20, 30), np.array([[25.0, 5.0], [5.0, 25.0]]), 4, 1)

    def test_bf16_runs_and_differs(self) -> None:
        video = frames(6, SHAPES[0])
        full, half = run(make(), video, 6, 6), run(make(precision="bf16"), video, 6, 6)
        assert not np.array_equal(full[0].tracks_xy, half[0].tracks_xy)
        np.testing.assert_allclose(full[0].tracks_xy, half[0].tracks_xy, atol=2)


class TestStreams:
    @pytest.mark.parametrize("length", [3, 16, 37])
    @pytest.mark.parametrize("model", STREAMING)
    def test_equal_the_authors_online_predictor_bit_by_bit(
        self, predictors: dict[str, Any], model: str, length: int
    ) -> None:
        shape, video = SHAPES[0], frames(length, SHAPES[0])
        [window] = run(make(model), video, horizon=max(length, 17), start_every=99)
        predictor = authors(predictors["online"], model)
        step, (pixels, queries) = predictor.step, as_tensors(video)
        predictor(pixels[:, :1], is_first_step=True, queries=queries, add_support_grid=True)
        # Chunks overlap by a step; the last one takes what is left.
        for begin in range(0, max(1, length - step), step):
            chunk = pixels[:, begin : begin + 2 * step]
            expected, seen = predictor(chunk, add_support_grid=True)
        assert expected.shape[1] == length
        np.testing.assert_array_equal(
            window.tracks_xy[1:length], expected[0, 1:].numpy() + np.float32(0.5)
        )
        if model == "cotracker3_online":
            np.testing.assert_array_equal(window.vis[1:length], seen[0, 1:].numpy())
        np.testing.assert_array_equal(window.tracks_xy[0], grid(shape))
        np.testing.assert_array_equal(window.vis[0], 1)
        np.testing.assert_array_equal(
            window.tracks_xy[length:],
            window.tracks_xy[length - 1 : length].repeat(len(window.vis) - length, 0),
        )

    @pytest.mark.parametrize("model", ["cotracker2", "cotracker3_online"])
    def test_what_is_kept_does_not_grow(self, model: str) -> None:
        shape, tracker = SHAPES[0], make(model)
        session = tracker.open(shape, grid(shape), 500, 500)
        sizes = []
        for frame in frames(48, shape):
            session.push(frame)
            kept = pickle.dumps((session._online._features, session._online._state))
            sizes.append(len(kept))
        assert max(sizes[32:]) == max(sizes[16:32])

    def test_sessions_that_share_a_network_do_not_disturb_each_other(self) -> None:
        shape, tracker = SHAPES[0], make()
        videos = [frames(20, shape, seed) for seed in (1, 2)]
        alone = [run(tracker, video, 20, 20)[0] for video in videos]
        sessions = [tracker.open(shape, grid(shape), 20, 20) for _ in videos]
        together: list[Window] = []
        for pair in zip(*videos, strict=True):
            for session, frame in zip(sessions, pair, strict=True):
                together += session.push(frame)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a.tracks_xy, b.tracks_xy)
            np.testing.assert_array_equal(a.conf, b.conf)

    def test_windows_follow_each_other(self) -> None:
        video = frames(47, SHAPES[0])
        windows = run(make(), video, horizon=20, start_every=22)
        assert [window.start for window in windows] == [0, 22, 44]
        [alone] = run(make(), video[22:44], horizon=20, start_every=22)
        np.testing.assert_array_equal(windows[1].tracks_xy, alone.tracks_xy)
        assert windows[2].tracks_xy.shape == (20, 3, 2)


class TestCoordinates:
    @pytest.mark.parametrize("shape", [(90, 160), (97, 41)])
    def test_the_model_sees_a_point_where_its_query_says(self, shape: tuple[int, int]) -> None:
        """Rendered, stretched by the adapter and found again: both axes, non-square."""
        tracker, seen = make(), []
        engine = tracker.engine
        engine._encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        point = np.array([[shape[1] * 0.7, shape[0] * 0.3]], np.float32)
        y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
        blob = 250 * np.exp(-((x - point[0, 0]) ** 2 + (y - point[0, 1]) ** 2) / 18)
        engine.features(np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2))
        weight = ((seen[0][0, 0] + 1) / 2).numpy().astype(np.float64)
        rows, columns = np.mgrid[: RESOLUTION[0], : RESOLUTION[1]]
        found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        expected = engine.queries(point, shape)[0, 0, 1:].numpy()
        np.testing.assert_allclose(found, expected, atol=0.02)

    @pytest.mark.parametrize("shape", [(90, 160), (97, 41), (1, 50), (50, 1), (1, 1)])
    def test_pixels_come_back(self, shape: tuple[int, int]) -> None:
        engine = make().engine
        points = np.random.default_rng(3).random((7, 2)).astype(np.float32) * shape[::-1]
        model_xy = engine.queries(points.astype(np.float32), shape)[None, ..., 1:]
        vis = torch.ones(model_xy.shape[:3])
        back = engine.to_pixels(loading_prediction(model_xy, vis), shape)[0]
        np.testing.assert_allclose(back[0, 0], points, atol=1e-4)

    @pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1)])
    def test_frames_one_pixel_wide_are_tracked(self, shape: tuple[int, int]) -> None:
        windows = run(make(), frames(3, shape), horizon=2)
        assert np.isfinite([window.tracks_xy for window in windows]).all()


def loading_prediction(tracks: Any, vis: Any) -> Any:
    from builder.trackers.kinds.cotracker.engine import Prediction

    return Prediction(tracks, vis, None)


class TestTrouble:
    @pytest.mark.parametrize("part", ["flow_head", "vis_conf_head"])
    @pytest.mark.parametrize("horizon", [5, 30])
    def test_nan_from_the_model_is_an_error(self, part: str, horizon: int) -> None:
        network = small_network("cotracker3_online")
        getattr(network.updateformer, part).bias.data[0] = math.nan
        with pytest.raises(TrackingError, match="NaN"):
            run(make(network=network), frames(5, SHAPES[0]), horizon, horizon)

    def limited(self, windows: int) -> Any:
        """A network on a device that has memory for so many windows."""
        network = small_network("cotracker3_online")

        def refuse(_: Any, __: Any, options: dict[str, Any]) -> None:
            if len(options["queries"]) > windows:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

        network.register_forward_pre_hook(refuse, with_kwargs=True)
        return network

    @pytest.mark.parametrize("model", MODELS)
    def test_it_says_that_it_goes_on_within_one_window(self, model: str) -> None:
        """A window may take minutes on a CPU, and a stall is silence."""
        tracker = CoTracker(CoTrackerConfig(model=model, device="cpu"), small_network(model))
        session = tracker.open(SHAPES[0], np.array([[20, 20]], np.float32), 8, 8)
        frames = [np.zeros((*SHAPES[0], 3), np.uint8)] * 8
        told: list[int] = []
        for frame in frames[:-1]:
            assert session.push(frame) == []
        with working_told_to(lambda: told.append(1)):
            assert len(session.push(frames[-1])) == 1
        assert len(told) > 2 * tracker.config.iterations
        session.finish()

    def test_out_of_memory_halves_the_batch(self, caplog: pytest.LogCaptureFixture) -> None:
        video = frames(9, SHAPES[0])
        tracker = make(batch=5, network=self.limited(2))
        windows = run(tracker, video, horizon=4)
        assert tracker.batch == 2
        assert "going on with batches of 2" in caplog.text
        assert [window.start for window in windows] == list(range(9))
        for a, b in zip(windows, run(make(), video, horizon=4), strict=True):
            np.testing.assert_allclose(a.tracks_xy, b.tracks_xy, atol=0.01)

    @pytest.mark.parametrize(
        ("limit", "settings", "horizon"),
        [(0, {"batch": 4}, 4), (2, {"batch": 4, "deterministic": True}, 4), (0, {}, 30)],
    )
    def test_out_of_memory_fails_clearly(
        self, limit: int, settings: dict[str, Any], horizon: int
    ) -> None:
        tracker = make(network=self.limited(limit), **settings)
        with pytest.raises(TrackingError, match=r"out of memory on cpu with .*batch"):
            run(tracker, frames(8, SHAPES[0]), horizon, horizon if horizon > 16 else 1)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_cuda_asked_for_and_absent(self) -> None:
        tracker = CoTracker(
            CoTrackerConfig(device="cuda"), network=small_network("cotracker3_online")
        )
        with pytest.raises(ConfigError, match=r"tracker.device=cuda.*no CUDA GPU"):
            _ = tracker.info

    def test_confidence_of_a_model_without_it(self) -> None:
        part = TrackerPart.model_validate(
            {"kind": "cotracker", "model": "cotracker2", "visibility_of": "visibility*confidence"}
        )
        with pytest.raises(ConfigError, match="cotracker2 gives no confidence"):
            TRACKERS.configure(part)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the published size, as the authors' repository saves them."""
    path = tmp_path_factory.mktemp("weights") / "scaled_online.pth"
    torch.save(loading.build_network("cotracker3_online").state_dict(), path)
    return path


class TestLoading:
    def test_a_flat_checkpoint_is_loaded_and_recorded(self, checkpoint: Path) -> None:
        tracker = CoTracker(
            CoTrackerConfig(weights=str(checkpoint), weights_url="https://x.org/a.pth")
        )
        info = TrackerInfo.model_validate_json(tracker.info.model_dump_json())
        assert info.weights_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert info.weights_url == "https://x.org/a.pth"
        assert (info.kind, info.name, info.licence) == (
            "cotracker",
            "cotracker3_online",
            "CC-BY-NC-4.0",
        )
        assert "weights" not in info.settings  # a place on some machine
        assert (info.visibility.threshold, info.visibility.sticky) == (0.6, False)
        assert "visibility*confidence" in info.visibility.rule
        state = torch.load(checkpoint, weights_only=True)
        loaded = tracker._loaded[0].state_dict()
        assert all(torch.equal(state[key], loaded[key]) for key in state)
        assert len(pickle.dumps(tracker)) < 10_000  # each process loads its own

    def test_a_nested_checkpoint_tracks_at_full_size(self, checkpoint: Path) -> None:
        nested = checkpoint.with_name("nested.pth")
        torch.save({"model": torch.load(checkpoint, weights_only=True), "step": 3}, nested)
        tracker = CoTracker(CoTrackerConfig(weights=str(nested), device="cpu", support_grid=1))
        assert tracker.info.settings["model_resolution"] == [384, 512]
        [window] = run(tracker, frames(2, SHAPES[0]), 2, 2)
        assert window.tracks_xy.shape == (2, 3, 2)

    def test_the_hub_file_is_fetched_once(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = MODELS["cotracker3_online"]._replace(url=checkpoint.as_uri())
        monkeypatch.setitem(MODELS, "cotracker3_online", spec)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        path = loading.weights_file("cotracker3_online", "hub")
        assert path.read_bytes() == checkpoint.read_bytes()
        monkeypatch.setitem(
            MODELS, "cotracker3_online", spec._replace(url="file:///no/" + path.name)
        )
        assert loading.weights_file("cotracker3_online", "hub") == path
        path.unlink()
        with pytest.raises(ConfigError, match="cannot fetch file:///no/"):
            loading.weights_file("cotracker3_online", "hub")

    def test_weights_of_another_window_length(self, checkpoint: Path) -> None:
        with pytest.raises(
            ConfigError,
            match=r"does not fit tracker.model=cotracker3_offline: 1 shapes differ: "
            r"time_emb \(1, 16, 1110\) instead of \(1, 60, 1110\)",
        ):
            _ = CoTracker(CoTrackerConfig(model="cotracker3_offline", weights=str(checkpoint))).info

    def test_weights_of_another_model(self, checkpoint: Path) -> None:
        with pytest.raises(ConfigError, match=r"keys missing: .*norm.*keys unknown.*corr_mlp"):
            loading.load_weights(small_network("cotracker2"), "cotracker2", checkpoint)

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"", "not a checkpoint"), (b"junk" * 99, "not a checkpoint"), ([1], "but a list")],
    )
    def test_files_that_are_no_checkpoints(
        self, tmp_path: Path, content: Any, message: str
    ) -> None:
        path = tmp_path / "x.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ConfigError, match=message):
            loading.load_weights(small_network("cotracker2"), "cotracker2", path)

    def test_a_checkpoint_never_runs_code(self, tmp_path: Path) -> None:
        target = tmp_path / "ran"
        path = tmp_path / "evil.pth"
        torch.save({"model": Evil(str(target))}, path)
        with pytest.raises(ConfigError, match="without running code"):
            loading.load_weights(small_network("cotracker2"), "cotracker2", path)
        assert not target.exists()

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("object", r"it holds a Python object, argparse\.Namespace, beside tensors"),
            ("script", "it is a TorchScript archive"),
            ("tar", "it is a .tar archive"),
            ("page", "it is damaged, or no checkpoint at all"),
            ("cut", "it is damaged, or no checkpoint at all"),
        ],
    )
    def test_nobody_is_told_to_run_its_code(self, tmp_path: Path, kind: str, reason: str) -> None:
        path = tmp_path / "x.pth"
        whole = {"model": {"a": torch.zeros(9)}, "args": argparse.Namespace(lr=1e-4)}
        torch.save(whole, path)
        if kind == "script":
            with zipfile.ZipFile(path, "w") as archive:
                for name in ("version", "constants.pkl", "data.pkl"):
                    archive.writestr(f"x/{name}", "3\n")
        elif kind == "tar":
            with tarfile.open(path, "w") as tar:
                tar.addfile(tarfile.TarInfo("storages"))
        elif kind == "page":
            path.write_bytes(b"<html>404 Not Found</html>")
        elif kind == "cut":
            path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(ConfigError, match=reason) as caught:
            loading.load_weights(small_network("cotracker2"), "cotracker2", path)
        said = str(caught.value)
        assert str(path) in said
        for word in ("weights_only", "False", "trust", "safe_globals", "pip install"):
            assert word not in said

    @pytest.mark.parametrize("weights", [None, "/nowhere/scaled_online.pth"])
    def test_missing_weights_say_where_they_are_from(self, weights: str | None) -> None:
        wanted = r"tracker\.weights.*https://huggingface\.co/.*hub"
        with pytest.raises(ConfigError, match=wanted) as caught:
            _ = CoTracker(CoTrackerConfig(weights=weights)).info
        assert "pip install" not in str(caught.value)  # the package is there

    def test_a_missing_package_says_how_to_install_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cotracker.models.build_cotracker", None)
        with pytest.raises(ConfigError, match=r"pip install 'git\+https.*\.pth.*NC-4\.0"):
            _ = CoTracker().info

    def test_a_module_that_the_package_needs_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanting = ModuleType("cotracker.models.build_cotracker")

        def needs(name: str) -> Any:
            raise ModuleNotFoundError("No module named 'tqdm'", name="tqdm")

        monkeypatch.setattr(wanting, "__getattr__", needs, raising=False)
        monkeypatch.setitem(sys.modules, "cotracker.models.build_cotracker", wanting)
        with pytest.raises(ConfigError, match="but not the module 'tqdm' that it needs") as caught:
            _ = CoTracker().info
        assert "pip install" not in str(caught.value)

    def test_importing_keeps_the_random_state(self) -> None:
        code = """
import torch
torch.manual_seed(7)
before = torch.random.get_rng_state()
from builder.trackers.kinds.cotracker.loading import build_network
build_network("cotracker3_offline")
raise SystemExit(not torch.equal(before, torch.random.get_rng_state()))
"""
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_worker_slots_take_the_gpus_in_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        chosen = []
        for slot in range(5):
            monkeypatch.setenv(SLOT, str(slot))
            chosen.append(loading.choose_device("auto").index)
        assert chosen == [0, 1, 2, 0, 1]
        monkeypatch.delenv(SLOT)
        assert loading.choose_device("cuda") == torch.device("cuda", 0)


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
class TestOnTheGpu:
    """Never run where this was written: no GPU there."""

    @cuda
    @pytest.mark.parametrize("model", MODELS)
    def test_windows_agree_with_the_cpu(self, model: str) -> None:
        video = frames(9, SHAPES[0])
        network = small_network(model)
        tracker = CoTracker(
            CoTrackerConfig(model=model, device="cuda", support_grid=2, iterations=2, batch=2),
            network=copy.deepcopy(network),
        )
        for a, b in zip(run(tracker, video, 6), run(make(model), video, 6), strict=True):
            np.testing.assert_allclose(a.tracks_xy, b.tracks_xy, atol=0.05)

    @cuda
    def test_streams_agree_with_the_cpu(self) -> None:
        video = frames(40, SHAPES[0])
        tracker = CoTracker(
            CoTrackerConfig(device="cuda", support_grid=2, iterations=2),
            network=small_network("cotracker3_online"),
        )
        [a], [b] = run(tracker, video, 40, 40), run(make(), video, 40, 40)
        np.testing.assert_allclose(a.tracks_xy, b.tracks_xy, atol=0.1)

    @cuda
    def test_deterministic_runs_are_equal(self) -> None:
        video = frames(12, SHAPES[0])
        config = CoTrackerConfig(device="cuda", deterministic=True, batch=3, support_grid=2)
        first, second = (
            run(CoTracker(config, network=small_network("cotracker3_online")), video, 6)
            for _ in range(2)
        )
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.tracks_xy, b.tracks_xy)


def test_the_guide_counts_the_tests_that_need_a_gpu(root: Path) -> None:
    marked = Path(__file__).read_text().count("\n    @cuda\n")
    guide = (root / "docs/guides/cotracker.md").read_text()
    assert f"{marked} tests need a CUDA GPU" in guide
