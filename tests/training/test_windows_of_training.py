"""Training samples: AMPLIFY's keys and shapes, exact numbers, every sample decodable."""

from __future__ import annotations

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from source_fixtures import write_video
from torch.utils.data import DataLoader

from builder.cli import main
from builder.core.errors import ConfigError, DatasetError
from builder.dataset.opening import open_dataset
from builder.dataset.splits import Splits, write_splits
from builder.stores.codecs import decode_u16
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from builder.training import (
    MixtureDataset,
    RandomAugment,
    WindowDataset,
    WindowSampler,
    collate,
    decode_batch,
    normalize_traj,
)
from builder.training.augment import warp
from builder.training.sampling import permutation
from builder.training.view_windows import packed_maps
from schemas import AxisAffine, Letterbox, swap_xy, unnormalize

IMG_SHAPE = (72, 100)
LENGTHS = {"short.mp4": 5, "tall.mp4": 20, "wide.mp4": 23}
HORIZON = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    (folder / "videos").mkdir()
    shapes = {"short.mp4": (48, 64), "tall.mp4": (90, 50), "wide.mp4": (40, 120)}
    for name, frames in LENGTHS.items():
        write_video(folder / "videos" / name, shape=shapes[name], count=frames)
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "out"), "--quiet"]
    shape = ["--img-shape", *map(str, IMG_SHAPE)]
    settings = [f"tracker.horizon={HORIZON}", "queries.grid=[3, 5]"]
    assert main(["build", *settings, *argv[1:], *shape]) == 0
    return open_dataset(folder / "out")


def test_keys_shapes_and_dtypes(dataset):
    sample = WindowDataset(dataset)[0]
    assert sample["traj"].shape == (1, HORIZON, 15, 2)
    assert sample["traj"].dtype == torch.float32
    assert sample["vis"].shape == (1, HORIZON, 15)
    assert sample["valid"].shape == (HORIZON,)
    assert sample["in_content"].shape == (1, 15)
    assert sample["images"].shape == (1, *IMG_SHAPE, 3)
    assert sample["images"].dtype == torch.uint8
    assert sample["episode"].startswith("tall-")
    assert sample["t"] == 0


def test_a_path_does_for_an_open_dataset(dataset):
    for path in (dataset.path, str(dataset.path)):
        assert torch.equal(WindowDataset(path)[3]["traj"], WindowDataset(dataset)[3]["traj"])


def test_one_sample_per_window_and_the_tail_on_request(dataset):
    whole = sum(max(0, length - HORIZON + 1) for length in LENGTHS.values())
    assert len(WindowDataset(dataset)) == whole
    masked = WindowDataset(dataset, tail="mask")
    assert len(masked) == sum(LENGTHS.values())
    for index in (0, 7, len(masked) - 1, -1):
        sample = masked[index]
        length = dataset[sample["episode"]].meta.length
        expected = sample["t"] + np.arange(HORIZON) < length
        np.testing.assert_array_equal(sample["valid"], expected)
    assert WindowDataset(dataset, horizon=4)[0]["traj"].shape == (1, 4, 15, 2)


def test_traj_is_the_stored_track_normalized(dataset):
    windows = WindowDataset(dataset, tail="mask")
    for index in range(0, len(windows), 5):
        sample = windows[index]
        view = dataset[sample["episode"]].views["main"]
        expected = normalize_traj(swap_xy(view.tracks[sample["t"]]), IMG_SHAPE)
        np.testing.assert_allclose(sample["traj"][0], expected, atol=2e-7)
        np.testing.assert_array_equal(sample["images"][0], view.frames[sample["t"]])
        np.testing.assert_array_equal(sample["vis"][0], view.vis[sample["t"]])


@pytest.mark.parametrize("options", [{}, {"img_shape": (31, 50)}, {"points": 5}, {"horizon": 2}])
def test_fixed_point_tracks_have_the_bits_of_unpacking_them_first(tmp_path, options):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("e", track_codec="u16")])
    dataset = open_dataset(tmp_path)
    windows = WindowDataset(dataset, tail="mask", **options)
    for at, name in enumerate(windows.views):
        view = dataset["e"].views[name]
        pixels = np.asarray(view.tracks)[:, :, windows.points][:, : windows.horizon]
        norm = AxisAffine.normalization(windows.img_shape)
        if "img_shape" in options:
            norm = norm @ Letterbox.fit(view.geometry.source_shape, windows.img_shape).affine
            norm = norm @ ~view.geometry.affine
        expected = swap_xy(norm(pixels))
        for index in range(len(windows)):
            np.testing.assert_array_equal(windows[index]["traj"][at], expected[index])


@pytest.mark.parametrize(
    ("shape", "count"), [((128, 256), 1), ((512, 64), 1), ((96, 160), 2), ((72, 100), 2)]
)
def test_fixed_point_is_unpacked_and_normalized_at_once_where_the_bits_are_the_same(shape, count):
    norm = AxisAffine.normalization(shape)
    stored = np.random.default_rng(0).integers(0, 1 << 16, (500, 2), np.uint16)
    maps = packed_maps(norm)
    assert len(maps) == count
    found = stored.astype(np.float32)
    for step in maps:
        found = step(found)
    np.testing.assert_array_equal(found, norm(decode_u16(stored)))


@pytest.mark.parametrize("img_shape", [None, (72, 100), (47, 90), (128, 61)])
def test_every_sample_of_a_mixed_batch_decodes_to_its_own_source_pixels(dataset, img_shape):
    windows = WindowDataset(dataset, tail="mask", img_shape=img_shape)
    batch = next(iter(DataLoader(windows, batch_size=len(windows))))
    assert len({*batch["episode"]}) == 3
    prediction = batch["traj"].double().requires_grad_()
    decoded = decode_batch(prediction, batch["decode"])
    for row, (episode, t) in enumerate(zip(batch["episode"], batch["t"], strict=True)):
        view = dataset[episode].views["main"]
        expected = view.geometry.to_source(view.tracks[int(t)].astype(np.float64))
        np.testing.assert_allclose(decoded[row, 0].detach(), expected, atol=2e-4)
    decoded.sum().backward()
    assert torch.isfinite(prediction.grad).all()


def test_another_img_shape_refits_the_letterbox(dataset):
    windows = WindowDataset(dataset, img_shape=(50, 90), images="float")
    sample = windows[0]
    geometry = dataset[sample["episode"]].views["main"].geometry
    box = Letterbox.fit(geometry.source_shape, (50, 90))
    assert sample["images"].shape == (1, 50, 90, 3)
    assert sample["images"].dtype == torch.float32
    left, top, right, bottom = box.content_box
    assert sample["images"][0, top:bottom, left:right].max() > 0.3
    assert sample["images"][0, :, :left].max() == 0
    assert right < 90


def test_proprioception_joins_rows_at_step_0(tmp_path):
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample("a", length=9)])
    stored = open_dataset(tmp_path)
    names = ["done", "actions"]
    sample = WindowDataset(stored, proprioception=names, arrays=[], first_step=1)[4]
    arrays = stored["a"].arrays
    expected = np.concatenate([[arrays["done"][5]], arrays["actions"][5]])
    np.testing.assert_array_equal(sample["proprioception"], expected.astype(np.float32))
    assert sample["proprioception"].dtype == torch.float32
    assert "actions" not in sample
    for wrong in ("joint_states", "success"):
        says = rf"a: no array '{wrong}' with a row per frame .* there are \['actions', 'done'"
        with pytest.raises(ConfigError, match=says):
            WindowDataset(stored, proprioception=[wrong])


def test_unknown_arrays_are_refused_before_training(tmp_path):
    names = ("a", "b", "c")
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [Sample(name, length=9) for name in names])
    Hdf5Store(tmp_path).path("a").write_bytes(b"damaged")  # the next one tells what there is
    stored = open_dataset(tmp_path)
    says = r"b: no array 'action' in it .*did you mean 'actions'\?.* 'done', 'frames', 'nothing'"
    with pytest.raises(ConfigError, match=says):
        WindowDataset(stored, arrays=["done", "action"])
    assert len(WindowDataset(stored, arrays=["actions", "timestamps"], damaged="skip")) > 0


class Colours:
    def recolor(self, images, rng):
        return images


class Matrix(Colours):
    def draw(self, rng, img_shape):
        return np.eye(3)


@pytest.mark.parametrize(
    ("augment", "says"),
    [
        (Colours(), r"an object with draw\(rng, img_shape\) and recolor.* RandomAugment"),
        (RandomAugment, "got <class"),
        (lambda images: images, "augment takes an object"),
        (Matrix(), "draw must return a schemas.AxisAffine of the canvas, or None; got ndarray"),
    ],
)
def test_what_is_no_augmentation_is_refused(dataset, augment, says):
    with pytest.raises(ConfigError, match=says):
        WindowDataset(dataset, augment=augment)


def test_workers_and_pickles(dataset):
    windows = WindowDataset(dataset)
    assert len(pickle.dumps(windows)) < 4000
    plain = [windows[index]["traj"] for index in range(len(windows))]
    for context in ("fork", "spawn"):
        loader = DataLoader(
            windows, batch_size=None, num_workers=2, multiprocessing_context=context
        )
        for expected, sample in zip(plain, loader, strict=True):
            assert torch.equal(expected, sample["traj"])


def test_what_cannot_be_given_is_refused(dataset):
    with pytest.raises(ConfigError, match="longer than the stored 8"):
        WindowDataset(dataset, horizon=9)
    with pytest.raises(ConfigError, match=r"3 of 3 .* lacks \['wrist'\]; choose from \['main'\]"):
        WindowDataset(dataset, views=["wrist"])
    for missing in ("skip", "mask"):
        with pytest.raises(DatasetError, match=r"none of 3 .* \['wrist'\]; there are \['main'\]"):
            WindowDataset(dataset, views=["wrist"], missing=missing)
    with pytest.raises(ConfigError, match=r"views names one twice"):
        WindowDataset(dataset, views=["main", "main"])
    with pytest.raises(ConfigError, match=r"one step cannot be resampled to 4"):
        WindowDataset(dataset, horizon=1, resample=4)
    with pytest.raises(ConfigError, match=r"horizn: unknown key \(did you mean 'horizon'"):
        WindowDataset(dataset, horizn=4)
    with pytest.raises(ConfigError, match="not both"):
        WindowDataset(dataset, views=["main"], view_map={"a": "main"})
    with pytest.raises(IndexError):
        WindowDataset(dataset)[10_000]


def test_confidence_is_cut_as_tracks_are(tmp_path, dataset):
    made = Sample("a", seed=3, length=9)
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [made])
    options = {"images": "none", "first_step": 1, "points": 3, "stride": 2}
    windows = WindowDataset(tmp_path, conf=True, **options)
    stored = np.stack([made.arrays[view, "conf"] for view in windows.views])
    points = [int((i + 0.5) * 2) for i in range(3)]
    for index in range(len(windows)):
        expected = stored[:, 2 * index, 1:][:, :, points]
        np.testing.assert_array_equal(windows[index]["conf"], expected)
    assert "conf" not in WindowDataset(tmp_path, **options)[0]
    resampled = WindowDataset(tmp_path, conf=True, images="none", resample=7)[0]["conf"].numpy()
    np.testing.assert_allclose(resampled[:, ::2], stored[:, 0], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"conf=True, but view main of .* has no conf"):
        WindowDataset(dataset, conf=True)


def test_missing_views_are_masked_with_zeros(dataset):
    windows = WindowDataset(dataset, view_map={"wrist": "gone", "front": "main"}, missing="mask")
    sample = windows[3]
    assert sample["view_mask"].tolist() == [False, True]
    assert not sample["traj"][0].any()
    assert not sample["images"][0].any()
    assert sample["images"][1].any()
    assert torch.equal(sample["traj"][1], WindowDataset(dataset)[3]["traj"][0])


def test_points_history_stride_and_resampling(dataset):
    plain = WindowDataset(dataset)
    fewer = WindowDataset(dataset, points=5)[2]
    assert torch.equal(fewer["traj"], plain[2]["traj"][:, :, [1, 4, 7, 10, 13]])
    with pytest.raises(ConfigError, match="points=16, but 15 are stored"):
        WindowDataset(dataset, points=16)
    frames = dataset[plain[0]["episode"]].views["main"].frames
    late = WindowDataset(dataset, history=3)[1]["images"][0]
    np.testing.assert_array_equal(late, np.stack([frames[0], frames[0], frames[1]]))
    strided = WindowDataset(dataset, stride=3)
    assert strided[1]["t"] == 3
    doubled = WindowDataset(dataset, resample=2 * HORIZON - 1)[2]
    assert doubled["traj"].shape[1] == doubled["valid"].shape[0] == 15
    np.testing.assert_allclose(doubled["traj"][:, ::2], plain[2]["traj"], atol=1e-6)


def test_the_tail_when_resampled(dataset):
    windows = WindowDataset(dataset, tail="mask", resample=15)
    last = windows[4]  # the last window of the shortest episode: one real step
    assert (last["t"], last["valid"].sum()) == (4, 1)
    assert last["valid_read"].tolist() == [True] + 7 * [False]
    assert "valid_read" not in WindowDataset(dataset, tail="mask")[4]
    assert WindowDataset(dataset, tail="include", resample=15)[4]["valid_read"].all()
    assert WindowDataset(dataset, tail="include")[4]["valid"].all()


@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"horizon": 2}, {"resample": 11}])
def test_windows_may_start_at_a_later_step(dataset, options):
    tracked = WindowDataset(dataset, tail="mask", first_step=3, **options)
    for index in range(0, len(tracked), 4):
        sample = tracked[index]
        view, first = dataset[sample["episode"]].views["main"], sample["t"] - 3
        traj = sample["traj"][0] if "resample" not in options else sample["traj"][0][::10]
        steps = [3, 7] if "resample" in options else [*range(3, 3 + len(traj))]
        expected = normalize_traj(swap_xy(view.tracks[first][steps]), IMG_SHAPE)
        np.testing.assert_allclose(traj, expected, atol=1e-6)
        np.testing.assert_array_equal(sample["images"][0], view.frames[sample["t"]])
        assert sample["valid"][0]
    kept = options.get("stride", 1)
    assert len(tracked) == sum(-(-(length - 3) // kept) for length in LENGTHS.values())
    whole = WindowDataset(dataset, first_step=3, **options)
    assert all(whole[index]["valid"].all() for index in range(len(whole)))
    with pytest.raises(ConfigError, match="horizon 6 after 3 steps is longer than the stored 8"):
        WindowDataset(dataset, first_step=3, horizon=6)


class Fixed:
    """One map for every sample."""

    def __init__(self, turn):
        self.turn = turn

    def draw(self, rng, img_shape):
        return self.turn

    def recolor(self, images, rng):
        return images


@pytest.mark.parametrize(
    "turn",
    [
        AxisAffine.orient("hflip", IMG_SHAPE),
        AxisAffine.orient("rot180", IMG_SHAPE),
        AxisAffine(scale_xy=(1.5, 1.5), offset_xy=(-20.25, -11.5)),
        AxisAffine(scale_xy=(0.8, 0.8), offset_xy=(3.0, 6.5)),
    ],
)
def test_augmentation_moves_points_and_pixels_alike_and_still_decodes(dataset, turn):
    plain, turned = WindowDataset(dataset)[5], WindowDataset(dataset, augment=Fixed(turn))[5]
    before = decode_batch(plain["traj"][None].double(), plain["decode"][None])
    after = decode_batch(turned["traj"][None].double(), turned["decode"][None])
    np.testing.assert_allclose(after, before, atol=1e-3)
    canvas_xy = unnormalize(swap_xy(plain["traj"].double().numpy()), IMG_SHAPE)
    moved_xy = unnormalize(swap_xy(turned["traj"].double().numpy()), IMG_SHAPE)
    np.testing.assert_allclose(moved_xy, turn(canvas_xy), atol=1e-4)


@pytest.mark.parametrize("name", ["rot90", "rot270", "transpose", "antitranspose"])
def test_quarter_turns_still_decode(dataset, name):
    square = (80, 80)
    turn = AxisAffine(scale_xy=(1.2, 1.2), offset_xy=(-9.0, -4.0)) @ AxisAffine.orient(name, square)
    plain = WindowDataset(dataset, img_shape=square)[12]
    turned = WindowDataset(dataset, img_shape=square, augment=Fixed(turn))[12]
    before = decode_batch(plain["traj"].double(), plain["decode"])
    after = decode_batch(turned["traj"].double(), turned["decode"])
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_decoding_refuses_what_does_not_fit_and_half_precision_loses_nothing(dataset):
    batch = next(iter(DataLoader(WindowDataset(dataset), batch_size=2)))
    points = batch["traj"].to(torch.bfloat16)
    exact = decode_batch(points.double(), batch["decode"])
    np.testing.assert_allclose(decode_batch(points, batch["decode"]), exact, rtol=1e-5)
    for wrong in (batch["traj"][0], batch["traj"][:1], batch["traj"][..., :1], torch.zeros(2)):
        with pytest.raises(ValueError, match="expected a prediction"):
            decode_batch(wrong, batch["decode"])


@pytest.mark.parametrize("name", ["none", "hflip", "vflip", "rot180", "transpose", "rot90"])
def test_warped_pixels_lie_where_the_map_says(name):
    shape = (64, 64) if name in ("transpose", "rot90") else (50, 90)
    turn = AxisAffine(scale_xy=(1.25, 1.25), offset_xy=(-4.5, -7.0)) @ AxisAffine.orient(
        name, shape
    )
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    centre = np.array([30.3, 26.8])
    blob = 255 * np.exp(-((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2) / (2 * 3.0**2))
    out = warp(np.repeat(blob[..., None], 3, axis=2).astype(np.float32), turn)[..., 0]
    found = np.array([(out * columns).sum(), (out * rows).sum()]) / out.sum()
    np.testing.assert_allclose(found, turn(centre[None])[0], atol=0.02)


def test_random_augmentation_is_fixed_by_seed_epoch_and_sample(dataset):
    augment = RandomAugment(hflip=0.5, vflip=0.5, zoom=(0.8, 1.4), brightness=0.2, contrast=0.2)
    windows = WindowDataset(dataset, augment=augment, seed=3)
    first, again = windows[4], pickle.loads(pickle.dumps(windows))[4]
    assert torch.equal(first["traj"], again["traj"])
    assert torch.equal(first["images"], again["images"])
    assert not torch.equal(first["images"], WindowDataset(dataset)[4]["images"])
    windows.set_epoch(1)
    assert not torch.equal(first["traj"], windows[4]["traj"])
    with pytest.raises(ValueError, match="quarter turns need a square"):
        WindowDataset(dataset, augment=RandomAugment(quarter_turns=True))
    with pytest.raises(ConfigError, match=r"zoom is \(least, largest\), got"):
        RandomAugment(zoom=(1.4, 0.8))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_persist_see_the_epoch(dataset, context):
    part = WindowDataset(dataset, augment=RandomAugment(zoom=(0.8, 1.4)), images="none")
    mixture = copy.deepcopy(MixtureDataset({"part": part}, length=4))
    once = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": context}
    loader = DataLoader(mixture, batch_size=4, **once)
    for epoch in range(2):
        mixture.set_epoch(epoch)
        (batch,) = loader
        expected = torch.stack([mixture[index]["traj"] for index in range(4)])
        assert torch.equal(batch["traj"], expected)


def test_photometric_changes_touch_pictures_alone(dataset):
    augment = RandomAugment(brightness=0.2, contrast=0.3)
    plain = WindowDataset(dataset)[4]
    for images, white in (("uint8", 255.0), ("float", 1.0)):
        changed = WindowDataset(dataset, augment=augment, images=images, seed=2)[4]
        assert torch.equal(changed["traj"], plain["traj"])
        assert torch.equal(changed["decode"], plain["decode"])
        rng = np.random.default_rng([2, 0, 4, 1])  # seed, epoch, sample, stream of colours
        factor, shift = 1 + rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2)
        expected = ((plain["images"].double() / 255 - 0.5) * factor + 0.5 + shift).clip(0, 1)
        np.testing.assert_allclose(changed["images"].double() / white, expected, atol=0.51 / 255)


@given(st.integers(1, 700), st.integers(0, 5))
def test_a_permutation_is_one(length, key):
    order = permutation(length, (key, 1))
    assert sorted(order(np.arange(length))) == list(range(length))


def test_the_order_stays_what_it_was_when_training_began():
    assert permutation(1000, (3, 5))(np.arange(6)).tolist() == [166, 763, 345, 25, 274, 574]
    weights = np.arange(9) % 4
    assert [*WindowSampler(9, weights=weights, seed=4)] == [2, 3, 1, 5, 7, 7, 2, 3, 6]
    one_by_one = [permutation(10**12, (1,))(np.array([at]))[0] for at in (0, 5, 10**12 - 1)]
    assert permutation(10**12, (1,))(np.array([0, 5, 10**12 - 1])).tolist() == one_by_one


def test_the_order_is_mixed_and_differs_by_epoch_and_seed():
    keys = ((0, 0), (0, 1), (1, 0))
    orders = [permutation(1000, key)(np.arange(1000)).tolist() for key in keys]
    for order in orders:
        assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_ranks_share_an_epoch_and_resume_in_its_middle():
    ranks = [WindowSampler(103, seed=5, rank=rank, world_size=4) for rank in range(4)]
    for sampler in ranks:
        sampler.set_epoch(2)
    seen = [list(sampler) for sampler in ranks]
    assert {len(part) for part in seen} == {25}
    assert len({index for part in seen for index in part}) == 100
    state = ranks[1].state_dict(samples_done=10)
    fresh = WindowSampler(103, seed=5, rank=1, world_size=4)
    fresh.load_state_dict(state)
    assert list(fresh) == seen[1][10:]
    assert list(fresh) == seen[1]  # the next pass is whole again
    fresh.load_state_dict(state)
    fresh.set_epoch(2)  # as training loops do at the start of every epoch
    assert list(fresh) == seen[1][10:]
    fresh.load_state_dict(state)
    fresh.set_epoch(3)
    assert len(list(fresh)) == 25
    with pytest.raises(ValueError, match="samples_done must be 0 or more"):
        fresh.state_dict(-1)
    with pytest.raises(ValueError, match="shuffle was True, now it is False"):
        WindowSampler(103, seed=5, rank=1, world_size=4, shuffle=False).load_state_dict(state)
    with pytest.raises(ValueError, match="length was 103, now it is 50"):
        WindowSampler(50, seed=5, rank=1, world_size=4).load_state_dict(state)


def test_a_mixture_draws_by_weight_and_pads(dataset):
    options = {"horizon": 4, "points": 6, "missing": "mask"}
    parts = {
        "front": WindowDataset(dataset, view_map={"a": "main", "b": "none"}, **options),
        "other": WindowDataset(dataset, view_map={"a": "none", "b": "main"}, **options),
    }
    mixture = MixtureDataset(parts, {"front": 3.0, "other": 1.0}, length=400, seed=1)
    names = [mixture[index]["source"] for index in range(400)]
    assert 0.65 < names.count("front") / 400 < 0.85
    batch = next(iter(DataLoader(mixture, batch_size=8)))
    assert batch["traj"].shape == (8, 2, 4, 6, 2)
    assert torch.equal(mixture[7]["traj"], mixture[7]["traj"])


def test_a_mixture_of_datasets_that_differ_in_everything(tmp_path):
    """Views, window length, frame rate, pixels and size of actions: one kind of sample."""
    for name, dims in (("slow", 3), ("fast", 5)):
        made = Sample("e", seed=dims, length=9)
        actions = np.ones((9, dims), np.float32) * dims
        made.arrays[None, "actions"] = actions
        sample_dataset(tmp_path / name, Hdf5Store(tmp_path / name), [made])
    common = {"resample": 7, "points": 5, "img_shape": (31, 50), "missing": "mask"}
    parts = {
        # Half the steps of a camera with half the frame rate cover the same time.
        "slow": WindowDataset(
            open_dataset(tmp_path / "slow"),
            horizon=2,
            view_map={"hand": "wrist", "scene": "front"},
            **common,
        ),
        "fast": WindowDataset(
            open_dataset(tmp_path / "fast"),
            horizon=4,
            view_map={"hand": "none", "scene": "front"},
            **common,
        ),
    }
    mixture = MixtureDataset(parts, {"slow": 1.0, "fast": 1.0}, length=40)
    batch = next(iter(DataLoader(mixture, batch_size=40)))
    assert batch["traj"].shape == (40, 2, 7, 5, 2)
    assert batch["images"].shape == (40, 2, 31, 50, 3)
    assert batch["actions"].shape == (40, 4, 5)
    for row, source in enumerate(batch["source"]):
        steps, dims = (2, 3) if source == "slow" else (4, 5)
        expected = np.zeros((4, 5), np.float32)
        expected[:steps, :dims] = dims
        np.testing.assert_array_equal(batch["actions"][row], expected)
        np.testing.assert_array_equal(batch["actions_mask"][row], expected > 0)
        assert batch["view_mask"][row].tolist() == [source == "slow", True]
        assert batch["valid_read"][row].tolist() == (expected.any(axis=1)).tolist()
    assert {*batch["source"]} == {"slow", "fast"}


def test_what_a_mixture_cannot_mix_is_refused(dataset):
    windows = WindowDataset(dataset)
    inner = MixtureDataset({"one": windows, "two": windows})
    with pytest.raises(ConfigError, match=r"b is a mixture itself: put its parts \['one', 'two'\]"):
        MixtureDataset({"a": windows, "b": inner})
    with pytest.raises(ConfigError, match="a must be a WindowDataset, got Dataset"):
        MixtureDataset({"a": dataset})
    with pytest.raises(ConfigError, match=r"weights must be given by name, .* got \[1.0\]"):
        MixtureDataset({"a": windows}, [1.0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": {"one": float("inf")}}, "weights must be positive"),
        ({"weights": {"one": float("nan")}}, "weights must be positive"),
        ({"length": 0}, "length must be above 0, .*got 0, 0"),
        ({"seed": -1}, "length must be above 0, .*got 23, -1"),
    ],
)
def test_numbers_a_mixture_cannot_use_are_refused(dataset, options, says):
    windows = WindowDataset(dataset, tail="mask", stride=3)
    options = {"length": 23, **options}
    with pytest.raises(ConfigError, match=says):
        MixtureDataset({"one": windows}, **options)
    with pytest.raises(ConfigError, match="datasets by name"):
        MixtureDataset([windows])


def test_a_larger_array_than_a_mixture_expects_is_named(tmp_path):
    small, large = Sample("a"), Sample("b")
    large.arrays[None, "actions"] = np.ones((large.length, 5), np.float32)
    sample_dataset(tmp_path, Hdf5Store(tmp_path), [small, large])
    mixture = MixtureDataset({"arm": WindowDataset(open_dataset(tmp_path))}, length=50)
    with pytest.raises(
        ConfigError, match=r"arm, episode b: actions is \(4, 5\), larger than \(4, 3\)"
    ):
        [mixture[index] for index in range(50)]


@pytest.mark.parametrize("last", ["missing", "larger"])
def test_samples_that_do_not_batch_are_named(tmp_path, last):
    made = [Sample("a"), Sample("b")]
    del made[last == "larger"].arrays[None, "actions"]
    if last == "larger":
        made[1].arrays[None, "actions"] = np.ones((7, 5), np.float32)
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    windows = WindowDataset(open_dataset(tmp_path))
    shapes = r"\(4, 3\) and \(4, 5\)" if last == "larger" else r"missing and \(4, 3\)"
    with pytest.raises(DatasetError, match=rf"of a and b do not batch: actions {shapes}. Leave"):
        next(iter(DataLoader(windows, batch_size=8, collate_fn=collate)))
    batch = collate([windows[4], windows[6]])
    assert batch["decode"].shape == (2, 2, 2, 3)
    assert batch["episode"] == ["b", "b"]


def test_parts_that_differ_are_refused_saying_what_differs(dataset):
    parts = {"a": WindowDataset(dataset), "b": WindowDataset(dataset, horizon=4, points=3)}
    with pytest.raises(ConfigError, match="horizon 8 and 4; points 15 and 3"):
        MixtureDataset(parts)
    with pytest.raises(ConfigError, match="weights must be positive"):
        MixtureDataset({"a": parts["a"]}, {"a": 0.0})


def test_a_split_is_read_and_an_empty_one_is_named(dataset):
    splits = {"train": list(dataset.ids[1:]), "gone": ["elsewhere"]}
    write_splits(dataset.path, "default", Splits(splits=splits))
    windows = WindowDataset(dataset, split="default/train", tail="mask")
    assert windows.ids == list(dataset.ids[1:])
    with pytest.raises(DatasetError, match="'default/gone' is empty: it lists 1"):
        WindowDataset(dataset, split="default/gone")
    with pytest.raises(ConfigError, match=r"no 'test', only \['gone', 'train'\]"):
        WindowDataset(dataset, split="default/test")


def test_an_episode_damaged_after_building_is_named_or_skipped_and_counted(dataset, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(dataset.path, copy)
    victim = dataset.ids[1]
    path = copy / "episodes" / f"{victim}.hdf5"
    data = bytearray(path.read_bytes())
    stored = np.ascontiguousarray(dataset[victim].views["main"].tracks).tobytes()
    data[data.find(stored) + 1000] ^= 1
    path.write_bytes(data)
    damaged = open_dataset(copy)
    options = {"tail": "mask", "verify": True}
    first = LENGTHS["short.mp4"]  # the first window of the second episode
    with pytest.raises(DatasetError, match=rf"{victim} is damaged: main/tracks"):
        WindowDataset(damaged, **options)[first]
    windows = WindowDataset(damaged, damaged="skip", **options)
    assert windows[first]["episode"] == dataset.ids[2]
    assert list(windows.damaged) == [victim]
    path.write_bytes(b"")
    # By workers too; their windows are replaced by as many different ones.
    windows = WindowDataset(open_dataset(copy), damaged="skip", tail="mask")
    batches = [*DataLoader(windows, batch_size=4, num_workers=2)]
    read = [(key, int(t)) for b in batches for key, t in zip(b["episode"], b["t"], strict=True)]
    assert list(windows.damaged) == [victim]
    assert read[first : first + 20] == [(dataset.ids[2], t) for t in range(20)]
    with pytest.raises(DatasetError, match=victim):
        WindowDataset(open_dataset(copy), tail="mask")[first]


def test_wrong_first_calls_get_a_sentence(dataset):
    windows = WindowDataset(dataset)
    with pytest.raises(TypeError, match=r"length is a number of samples, len\(windows\); got Wind"):
        WindowSampler(windows)
    with pytest.raises(TypeError, match=r"collate takes a list of samples, such as \[windows\[0\]"):
        collate(windows[0])
    for wrong in ({"hflip": 2}, {"zoom": 1.2}, {"hfilp": 0.5}):
        with pytest.raises(ConfigError) as caught:
            RandomAugment(**wrong)
        assert next(iter(wrong)) in str(caught.value)
        assert "http" not in str(caught.value)
        assert "\n" not in str(caught.value)
    episode = windows.dataset[windows.dataset.ids[0]]
    with pytest.raises(KeyError, match=r"no view 'nope'; there are \['"):
        episode.views["nope"]
    assert pickle.loads(pickle.dumps(RandomAugment(hflip=0.5))) == RandomAugment(hflip=0.5)


def test_what_trains_says_what_it_holds(dataset):
    windows = WindowDataset(dataset)
    mixture = MixtureDataset({"a": windows, "b": windows}, weights={"a": 3, "b": 1}, length=8)
    assert repr(mixture) == "MixtureDataset(8 samples an epoch: 'a' 75.0%, 'b' 25.0%)"
    sampler = WindowSampler(10, rank=1, world_size=3)
    assert repr(sampler) == "WindowSampler(3 of 10 samples, rank 1 of 3, epoch 0)"
    assert "1 episodes" not in repr(windows)
