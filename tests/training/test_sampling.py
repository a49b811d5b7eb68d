"""Windows drawn as often as they move: by the table of windows, on every rank, resumable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from builder.core.errors import ConfigError, DatasetError
from builder.dataset.opening import open_dataset
from builder.dataset.window_table import write_window_stats
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import HORIZON, Sample, sample_dataset
from builder.training import WindowDataset, WindowSampler, window_weights

LENGTHS = {"a/1": 7, "b": 9, "c": 12}


@pytest.fixture
def dataset(tmp_path):
    made = [Sample(key, seed=at, length=n) for at, (key, n) in enumerate(LENGTHS.items())]
    for sample in made:
        tracks = sample.arrays["front", "tracks"]
        tracks[::3] = tracks[::3, :1]  # these windows stand still
    made[2].arrays["front", "vis"][2] = 0  # nothing to count
    sample_dataset(tmp_path, Hdf5Store(tmp_path), made)
    dataset = open_dataset(tmp_path)
    write_window_stats(dataset)
    return dataset


def motion(windows, index):
    """Mean step of visible points of one sample, in pixels; 0 where there is none."""
    sample = windows[index]
    view = windows.dataset[sample["episode"]].views["front"]
    own = min(HORIZON, LENGTHS[sample["episode"]] - sample["t"])
    steps = np.diff(np.asarray(view.tracks[sample["t"]], np.float64)[:own], axis=0)
    vis = np.asarray(view.vis[sample["t"]])[:own] > 0
    seen = np.hypot(steps[..., 0], steps[..., 1])[vis[1:] & vis[:-1]]
    return seen.mean() if seen.size else 0.0


@pytest.mark.parametrize(
    "options", [{}, {"tail": "mask"}, {"stride": 2}, {"where": "cut < 1000 and vis < 0.99"}]
)
def test_a_weight_is_the_motion_of_its_sample(dataset, options):
    windows = WindowDataset(dataset, views=["front"], **options)
    expected = [motion(windows, index) for index in range(len(windows))]
    np.testing.assert_allclose(window_weights(windows), expected, rtol=1e-5)
    assert 0 < np.count_nonzero(expected) < len(expected)


def test_expressions_and_functions_weigh_too(dataset):
    windows = WindowDataset(dataset)
    found = window_weights(windows, "motion * 2 + 0.5")
    np.testing.assert_allclose(found, window_weights(windows) * 2 + 0.5)
    found = window_weights(windows, lambda columns: np.sqrt(columns["motion"]))
    np.testing.assert_allclose(found, np.sqrt(window_weights(windows)))
    front = WindowDataset(dataset, views=["front"])
    assert set(window_weights(front, "motion > 0")) == {0.0, 1.0}
    with pytest.raises(ConfigError, match="did you mean 'motion'"):
        window_weights(windows, "motoin")
    with pytest.raises(ConfigError, match="expected one weight per row"):
        window_weights(windows, lambda columns: np.ones(3))
    (dataset.path / "stats" / "windows.hdf5").unlink()
    with pytest.raises(DatasetError, match="run letterset stats first"):
        window_weights(windows)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(0, 9), st.integers(0, 3))
def test_each_index_comes_as_often_as_its_share(weights, seed, epoch):
    total = sum(weights)
    if total == 0:
        with pytest.raises(ValueError, match="not all 0"):
            WindowSampler(len(weights), weights=weights)
        return
    sampler = WindowSampler(len(weights), seed=seed, weights=weights)
    sampler.set_epoch(epoch)
    drawn = np.bincount(list(sampler), minlength=len(weights))
    assert drawn.sum() == len(weights)
    share = np.array(weights) / total * len(weights)
    assert (drawn >= np.floor(share - 1e-6)).all()
    assert (drawn <= np.ceil(share + 1e-6)).all()
    assert not drawn[np.array(weights) == 0].any()


def test_shares_are_met_over_epochs_and_orders_differ():
    weights = np.random.default_rng(0).gamma(0.5, size=200)
    sampler, drawn, orders = WindowSampler(200, seed=4, weights=weights), np.zeros(200), []
    for epoch in range(300):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        drawn += np.bincount(orders[-1], minlength=200)
    expected = weights / weights.sum() * 200
    # Independent draws would stray by sqrt(share / 300): this is a third of that at most.
    assert (np.abs(drawn / 300 - expected) < 0.1).all()
    assert orders[0] != orders[1]
    assert abs(np.corrcoef(orders[0], range(200))[0, 1]) < 0.2
    assert orders[7] == [*_at_epoch(WindowSampler(200, seed=4, weights=weights), 7)]
    assert orders[7] != [*_at_epoch(WindowSampler(200, seed=5, weights=weights), 7)]


def _at_epoch(sampler, epoch):
    sampler.set_epoch(epoch)
    return sampler


def test_equal_weights_give_every_index_once():
    sampler = WindowSampler(103, seed=2, weights=np.full(103, 0.3))
    assert sorted(sampler) == [*range(103)]
    assert list(sampler) == list(WindowSampler(103, seed=2))


def test_ranks_share_what_one_process_draws_and_resume():
    weights = np.arange(103) % 5
    (whole,) = ([*_at_epoch(WindowSampler(103, seed=5, weights=weights), 2)],)
    ranks = [WindowSampler(103, seed=5, rank=r, world_size=4, weights=weights) for r in range(4)]
    seen = [[*_at_epoch(sampler, 2)] for sampler in ranks]
    assert [index for turn in zip(*seen, strict=True) for index in turn] == whole[:100]
    state = ranks[1].state_dict(samples_done=10)
    fresh = WindowSampler(103, seed=5, rank=1, world_size=4, weights=weights)
    fresh.load_state_dict(state)
    assert list(fresh) == seen[1][10:]
    for other in (None, weights[::-1]):
        changed = WindowSampler(103, seed=5, rank=1, world_size=4, weights=other)
        with pytest.raises(ValueError, match="cannot resume: weights was"):
            changed.load_state_dict(state)


@pytest.mark.parametrize("weights", [[1, 2], [1, -1, 1], [1, np.nan, 1], [[1, 1, 1]], [0, 0, 0]])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be"):
        WindowSampler(3, weights=weights)


def test_workers_draw_what_one_process_draws(dataset):
    windows = WindowDataset(dataset, images="none")
    weights = window_weights(windows)
    orders = []
    for workers in (0, 2):
        sampler = WindowSampler(len(windows), seed=3, weights=weights)
        batches = DataLoader(windows, batch_size=3, sampler=sampler, num_workers=workers)
        orders.append(
            [(key, int(t)) for b in batches for key, t in zip(b["episode"], b["t"], strict=True)]
        )
    assert orders[0] == orders[1]
    assert len(orders[0]) == len(windows)


def test_a_damaged_episode_is_replaced_by_a_sample_that_passes_the_filter(dataset):
    windows = WindowDataset(dataset, where="motion > 0.1", views=["front"], damaged="skip")
    place = next(at for at in range(len(windows)) if windows[at]["episode"] == "b")
    expected = next(windows[at]["t"] for at in range(len(windows)) if windows[at]["episode"] == "c")
    (dataset.path / "episodes" / "b.hdf5").write_bytes(b"")
    again = WindowDataset(open_dataset(dataset.path), windows.options)
    sample = again[place]
    assert (sample["episode"], sample["t"]) == ("c", expected)
    assert list(again.damaged) == ["b"]
    assert expected > 0  # its first window stands still
