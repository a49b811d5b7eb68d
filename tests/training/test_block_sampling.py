"""Samples shuffled within blocks of episodes: each once per epoch, on one rank, resumable."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builder.dataset.opening import open_dataset
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from builder.training import BlockSampler, WindowDataset


class Counts:
    """What of a WindowDataset the sampler looks at: how many samples each episode has."""

    def __init__(self, counts):
        self.episode_ends = np.cumsum(counts)

    def __len__(self):
        return int(self.episode_ends[-1])

    def episode(self, index):
        return int(self.episode_ends.searchsorted(index, side="right"))


counts = st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(lambda c: sum(c) >= 4)


@given(counts, st.integers(1, 7), st.integers(1, 4), st.integers(0, 3), st.integers(0, 5))
def test_every_sample_once_on_ranks_of_equal_length(sizes, episodes, world_size, epoch, seed):
    windows = Counts(sizes)
    got = []
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "seed": seed}
        sampler = BlockSampler(windows, episodes=episodes, **options)
        sampler.set_epoch(epoch)
        got.append(list(sampler))
        assert len(got[-1]) == len(sampler) == len(windows) // world_size
    every = [index for part in got for index in part]
    assert len(every) == len(set(every))
    assert set(every) <= set(range(len(windows)))
    # Each cut may share an episode between two ranks, none other.
    owners = Counter(key for part in got for key in {windows.episode(each) for each in part})
    assert sum(owners.values()) - len(owners) <= world_size - 1


@given(counts, st.integers(1, 7), st.integers(1, 3), st.integers(0, 400))
def test_it_goes_on_where_it_was(sizes, episodes, world_size, done):
    windows = Counts(sizes)
    options = {"episodes": episodes, "rank": world_size - 1, "world_size": world_size}
    sampler = BlockSampler(windows, **options)
    sampler.set_epoch(3)
    every, done = list(sampler), min(done, len(sampler))
    state = sampler.state_dict(done)
    other = BlockSampler(windows, **options)
    other.load_state_dict(state)
    other.set_epoch(3)
    assert list(other) == every[done:]
    assert list(other) == every  # the next pass begins at its start


def test_an_episode_is_read_for_one_short_while():
    windows = Counts([20] * 40)
    order = [windows.episode(index) for index in BlockSampler(windows, episodes=5)]
    for at in range(0, len(order), 100):
        assert len({*order[at : at + 100]}) == 5
        # Shuffled within: hardly any two that follow each other are of one episode.
        assert np.mean(np.diff(order[at : at + 100]) == 0) < 0.4
    first = BlockSampler(windows, episodes=5)
    again = BlockSampler(windows, episodes=5)
    again.set_epoch(1)
    assert list(first) != list(again)
    assert list(BlockSampler(windows, episodes=5, seed=1)) != list(first)


def test_what_is_not_the_same_cannot_be_resumed():
    state = BlockSampler(Counts([3, 4]), episodes=2).state_dict(2)
    for sizes, episodes, what in (
        ([3, 5], 2, "length"),
        ([4, 3], 2, "lengths"),
        ([3, 4], 1, "epi"),
    ):
        with pytest.raises(ValueError, match=f"cannot resume: {what}"):
            BlockSampler(Counts(sizes), episodes=episodes).load_state_dict(state)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        BlockSampler(Counts([3]), episodes=0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_fetch_each_episode_once(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    samples = [Sample(f"e{at:02}", seed=at, length=9) for at in range(12)]
    sample_dataset(tmp_path / "origin", Hdf5Store(tmp_path / "origin"), samples)
    url = (tmp_path / "origin").as_uri()
    dataset = open_dataset(url, cache=tmp_path / "cache", whole_episodes=True, max_open=4)
    windows = WindowDataset(dataset, tail="mask", where=None)
    asked = tmp_path / "asked"
    files = fsspec.core.url_to_fs(url)[0]
    honest = type(files).get_file

    def noted(self, rpath, lpath, **options):
        with asked.open("a") as file:  # of any process
            file.write(f"{rpath}\n")
        return honest(self, rpath, lpath, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(files), "get_file", noted)
        sampler = BlockSampler(windows, episodes=4)
        loader = torch.utils.data.DataLoader(windows, 6, sampler=sampler, num_workers=2)
        batches = [(batch["episode"], batch["t"].tolist()) for batch in loader]
    seen = [pair for keys, starts in batches for pair in zip(keys, starts, strict=True)]
    assert sorted(seen) == [(sample.id, t) for sample in samples for t in range(9)]
    assert len(asked.read_text().splitlines()) == len(samples)


def test_it_takes_what_a_filter_keeps(tmp_path):
    from builder.dataset.window_table import write_window_stats

    samples = [Sample(f"e{at}", seed=at, length=9) for at in range(5)]
    sample_dataset(tmp_path, Hdf5Store(tmp_path), samples)
    write_window_stats(open_dataset(tmp_path))
    windows = WindowDataset(open_dataset(tmp_path), where="vis > 0.5")
    assert 0 < len(windows) < 5 * 6
    assert sorted(BlockSampler(windows, episodes=2)) == list(range(len(windows)))
    ids = [windows[int(end) - 1]["episode"] for end in np.unique(windows.episode_ends) if end]
    assert ids == sorted(set(ids))
