"""Windows of a built dataset as training samples, with AMPLIFY's keys and shapes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from inspect import cleandoc
from pathlib import Path
from typing import Any

import numpy as np
import torch

from builder.canvas.model_points import affine_matrix
from builder.canvas.windows import window_starts
from builder.core.errors import ConfigError, DatasetError
from builder.core.lru_cache import LruCache
from builder.core.messages import count
from builder.dataset.episodes import Dataset, EpisodeData
from builder.dataset.filters import Expression
from builder.dataset.opening import open_dataset
from builder.dataset.window_table import COLUMNS, Table, read_columns
from builder.stores.ranged import fetched_ahead
from builder.training import episode_selection
from builder.training.augment import Augment, check_augment
from builder.training.interpolate import interpolate_traj
from builder.training.pass_through import PassThrough
from builder.training.samples import Sample, SampleDataset
from builder.training.view_windows import (
    ViewWindows,
    chosen_points,
    view_windows,
    write_pictures,
    write_tracks,
    write_vis,
)
from builder.training.window_options import WindowOptions, given_options, options_help
from schemas.affine import AxisAffine
from schemas.dataset import TEXT_INDEX

_Prepared = tuple[dict[str, ViewWindows], PassThrough]


class WindowDataset(SampleDataset):
    """One sample per window of every episode.

    A sample has, for V views and N points:

    ``traj`` (V, horizon, N, 2) float32, (row, col), [-1, 1] on the canvas, not clipped
    (of older files: with the arithmetic of their own loader, which clips);
    ``vis`` (V, horizon, N) float32, 0 or 1;
    ``conf`` (V, horizon, N) float32, with ``conf=True``: the tracker's confidence, from 0 to 1;
    ``valid`` (horizon,) bool: steps that show a frame of their own (not the frozen tail); with
    ``resample`` also ``valid_read`` (T,) bool, the same of the T steps read, for actions;
    ``in_content`` (V, N) bool: points that start on the picture, not in the bars;
    ``images`` (V, H, W, 3) uint8 RGB, or float32 in [0, 1]: the frame at step 0; with
    ``history=K`` (V, K, H, W, 3), oldest first, the first frame repeated before the start;
    ``decode`` (V, 2, 3) float64: the matrix from normalized (x, y, 1) to source pixels (x, y),
    so that a mixed batch decodes sample by sample (:func:`builder.training.decode_batch`);
    ``view_mask`` (V,) bool: views that are there (``missing="mask"`` fills others with zeros);
    ``episode`` id, ``t`` frame of step 0, ``text`` there, and pass-through arrays, also of layers:
    arrays with a row per frame, such as ``actions``, are (T, D) of the T steps read, zeros after
    the last frame, those of views (V, T, ...); all others are as stored, those of views (V, ...);
    ``proprioception`` (D,) float32 when the option names its arrays.

    Episodes that turn out damaged are listed in ``damaged`` when they are skipped.  Samples do not
    depend on workers or on the order of reading.  Small to pickle, safe to fork.

    Options, each a keyword or a field of ``WindowOptions``:
    """

    def __init__(
        self,
        dataset: Dataset | Path | str,
        options: WindowOptions | None = None,
        *,
        augment: Augment | None = None,
        **changes: Any,
    ) -> None:
        """Open ``dataset``, or its path, with ``options``; ``changes`` are single ones by name.

        ``augment`` moves points and pictures together; see ``builder.training.augment``.
        Raises ConfigError for what the dataset cannot give, DatasetError when no window is left.
        """
        self.options = options = given_options(options, changes)
        if isinstance(dataset, Path | str):
            dataset = open_dataset(dataset)
        if options.tracks or options.layers:
            dataset = dataset.with_layers(options.tracks, options.layers)
        if options.img_shape:
            dataset = dataset.with_img_shape(options.img_shape)
        super().__init__()
        self.dataset, self.augment = dataset, augment
        meta = dataset.meta
        if not meta.has_tracks:
            raise ConfigError(
                f"{dataset.path} holds frames and no tracks: add some with letterset track, then "
                "open_dataset(path, tracks=NAME)"
            )
        self._read = _steps_read(options, meta.horizon)
        self.read_steps = self._read.stop - self._read.start
        self.horizon = options.resample or self.read_steps
        self.img_shape = options.img_shape or meta.img_shape
        self.points = chosen_points(meta.queries.num_points, options.points)
        self.num_points = options.points or meta.queries.num_points
        check_augment(augment, self.img_shape)
        masked = options.missing == "mask"
        self.views = options.stored_views or {
            name: name for name in episode_selection.default_views(dataset, masked)
        }
        self.ids = episode_selection.choose_ids(dataset, list(self.views.values()), options)
        places = episode_selection.places(dataset, self.ids)
        lengths = dataset.index.lengths[places]
        taken = self._read.stop if options.tail == "exclude" else self._read.start + 1
        every = meta.start_every * options.stride
        counts = np.maximum(0, (lengths - taken) // every + 1)
        # Start frames of the windows of episodes in which some are left out.
        self._starts: dict[int, np.ndarray] = {}
        for at, place in enumerate(places.tolist() if dataset.skipped_windows else ()):
            if runs := dataset.skipped_windows.get(place):
                starts = window_starts(int(lengths[at]), meta.start_every, runs)
                self._starts[at] = starts[starts + taken <= lengths[at]][:: options.stride]
                counts[at] = len(self._starts[at])
        self._index = SampleIndex(counts)
        if not len(self):
            still = " in which anything moves" if dataset.still_windows else ""
            raise DatasetError(
                f"{dataset.path}: none of {len(dataset)} episodes has views "
                f"{list(self.views.values())} and {self.read_steps} frames{still}; shorten the "
                "horizon or use tail='mask'"
            )
        if options.where is not None:
            self._index.kept = self._matching(options.where)
        # Resampled steps are spread evenly over those that are read.
        self._steps = np.linspace(0, self.read_steps - 1, self.horizon)
        self._prepared = LruCache[str, _Prepared](self.dataset.max_open)
        # One flag per episode: this process or a worker found it damaged.
        self._damaged = torch.zeros(len(self.ids), dtype=torch.bool).share_memory_()
        self._reasons: dict[str, str] = {}
        used = (key for at, key in enumerate(self.ids) if self._index.indices(at))
        episode_selection.check_arrays(dataset, used, self.views.values(), options)

    def __repr__(self) -> str:
        return (
            f"WindowDataset({str(self.dataset.path)!r}: {count(len(self), 'window')} of "
            f"{count(len(self.ids), 'episode')}, views={[*self.views]}, horizon={self.horizon}, "
            f"{self.num_points} points, "
            f"img_shape={self.img_shape}, images={self.options.images!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay behind; a worker opens its own.
        return {**self.__dict__, "_prepared": LruCache(self.dataset.max_open)}

    def window_table(self, names: Collection[str]) -> Table:
        """Read columns of the window table, the views of a window put together in one row.

        Raises DatasetError when the table is missing or out of date.
        """
        return read_columns(self.dataset, names or {"vis"}, self.views.values()).by_window()

    def rows(self, table: Table) -> np.ndarray:
        """Return the row of every sample, (len(self),) int64, in a table with one per window.

        -1 where there is none; one row tells about all windows cut from whole-episode tracks.
        """
        meta = self.dataset.meta
        every = 0 if meta.mode == "episode" else meta.start_every * self.options.stride
        episodes = episode_selection.places(self.dataset, self.ids)
        return self._index.rows(table, episodes, every, self._starts)

    @property
    def episode_ends(self) -> np.ndarray:
        """The index after the last sample of each episode, (episodes,) int64, ascending."""
        ends, kept = self._index.ends, self._index.kept
        return ends if kept is None else kept.searchsorted(ends)

    def _matching(self, where: str) -> np.ndarray:
        """Return the numbers of the samples that a filter over the window table keeps, ascending.

        Raises ConfigError for a bad filter, DatasetError when nothing is left.
        """
        condition = Expression(where, COLUMNS)
        table = self.window_table(condition.names)
        keeps = np.append(condition.mask(table.columns), False)
        kept = np.flatnonzero(keeps[self.rows(table)])
        if not kept.size:
            raise DatasetError(f"{self.dataset.path}: no window matches {where!r}")
        return kept

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample.  Raises IndexError, DatasetError naming a damaged episode."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        number = self._index.number(index)
        at = self._index.episode(number)
        try:
            return self._sample(at, number)
        except DatasetError as error:
            if self.options.damaged == "error":
                raise
            self._note_damaged(at, error)
        return self._instead(at, index - self._index.indices(at).start)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return samples; of a dataset at a URL what all of them hold is fetched at once."""
        if not self.dataset.far:
            return [self[index] for index in indices]
        numbers = [self._index.number(index % len(self)) for index in indices]
        self.dataset.fetch_ahead(self.ids[self._index.episode(each)] for each in numbers)
        with ExitStack() as held:
            with suppress(DatasetError):  # told, or skipped, sample by sample
                pieces = (piece for each in numbers for piece in self._pieces(each))
                held.enter_context(fetched_ahead(pieces))
            return [self[index] for index in indices]

    @property
    def damaged(self) -> dict[str, str]:
        """Episodes that were skipped so far, by this process or a worker: id to reason."""
        reason = f"a worker found it damaged; letterset validate {self.dataset.path} says how"
        found = (self.ids[at] for at in np.flatnonzero(self._damaged.numpy()))
        return {key: self._reasons.get(key, reason) for key in found}

    def _note_damaged(self, at: int, error: DatasetError) -> None:
        self._damaged[at], self._reasons[self.ids[at]] = True, str(error)

    def _instead(self, at: int, within: int) -> Sample:
        """Return a sample of the next sound episode, the ``within``-th or so of its own."""
        for place in (*range(at + 1, len(self.ids)), *range(at)):
            indices = self._index.indices(place)
            try:
                if indices:
                    index = indices[within % len(indices)]
                    return self._sample(place, self._index.number(index))
            except DatasetError as error:
                self._note_damaged(place, error)
        raise DatasetError(f"{self.dataset.path}: every episode is damaged: {self.damaged}")

    def _sample(self, at: int, index: int) -> Sample:
        if not self.dataset.far:
            return self._cut(at, index)
        with fetched_ahead(self._pieces(index)):
            return self._cut(at, index)

    def _window(self, at: int, index: int) -> tuple[int, int]:
        """Return the number of a sample's window in its episode, and the frame of its step 0."""
        nth = index - self._index.first(at)
        window = nth * self.options.stride
        first = window * self.dataset.meta.start_every
        if at in self._starts:
            first = int(self._starts[at][nth])
        return window, first + self._read.start

    def _pieces(self, index: int) -> Iterator[tuple[Any, Any]]:
        """Yield (array, key) of what a sample reads; none of an episode that is damaged."""
        at = self._index.episode(index)
        window, start = self._window(at, index)
        try:
            views, pass_through = self._prepare(self.dataset[self.ids[at]])
        except DatasetError:  # told, or skipped, where the sample is read
            return
        history = 0 if self.options.images == "none" else self.options.history
        for view in views.values():
            yield from view.pieces(window, start, self._read, history)
        yield from pass_through.pieces(start, self.read_steps)

    def _cut(self, at: int, index: int) -> Sample:
        window, start = self._window(at, index)
        episode = self.dataset[self.ids[at]]
        augment, shape = self.augment, self.img_shape
        affine = None if augment is None else augment.draw(self._rng(index, 0), shape)
        views, pass_through = self._prepare(episode)
        arrays = self._arrays(views, window, start, affine)
        if augment is not None and "images" in arrays:
            arrays["images"] = augment.recolor(arrays["images"], self._rng(index, 1))
        sample: Sample = {key: torch.from_numpy(value) for key, value in arrays.items()}
        sample.update(
            valid=self._valid(self._steps, start, episode.meta.length),
            episode=episode.meta.id,
            t=start,
            text=_text_at(episode, start),
        )
        if self.options.resample:
            sample["valid_read"] = self._valid(range(self.read_steps), start, episode.meta.length)
        for name, array in pass_through.window(start, self.read_steps).items():
            sample[name] = torch.from_numpy(array)
        return sample

    def _prepare(self, episode: EpisodeData) -> _Prepared:
        """Find what samples of an episode are cut from; kept for as many as the dataset opens."""
        key = episode.meta.id
        if (prepared := self._prepared.get(key)) is not None:
            return prepared
        if self.options.verify:
            episode_selection.verify(episode, self.dataset.path)
        meta = self.dataset.meta
        cut = meta.start_every if meta.mode == "episode" else None
        views = {
            name: view_windows(episode.views[stored], self.img_shape, cut)
            for name, stored in self.views.items()
            if stored in episode.views
        }
        if self.options.conf:
            episode_selection.check_conf(episode, self.views.values())
        moved = self.augment is not None or self.img_shape != meta.img_shape
        arrays = PassThrough(episode, self.views.values(), self.options, moved)
        self._prepared[key] = views, arrays
        return views, arrays

    def _arrays(
        self, views: dict[str, ViewWindows], window: int, start: int, affine: AxisAffine | None
    ) -> dict[str, np.ndarray]:
        count, shape = len(self.views), (self.read_steps, self.num_points)
        out: dict[str, np.ndarray] = {
            "traj": np.empty((count, *shape, 2), np.float32),
            "vis": np.empty((count, *shape), np.float32),
            "in_content": np.empty((count, self.num_points), bool),
            "decode": np.empty((count, 2, 3)),
            "view_mask": np.ones(count, bool),
        }
        if self.options.conf:
            out["conf"] = np.empty((count, *shape), np.float32)
        if self.options.images != "none" and all(v.frames is not None for v in views.values()):
            dtype = np.float32 if self.options.images == "float" else np.uint8
            frames = (self.options.history,) if self.options.history > 1 else ()
            out["images"] = np.empty((count, *frames, *self.img_shape, 3), dtype)
        for at, name in enumerate(self.views):
            if name in views:
                self._fill(views[name], window, start, affine, out, at)
            else:
                for array in out.values():
                    array[at] = 0
        if self.options.resample:
            out["traj"] = interpolate_traj(out["traj"], self.horizon, self.options.method)
            vis = interpolate_traj(out["vis"], self.horizon, "linear", axis=-2)
            out["vis"] = (vis >= 0.5).astype(np.float32)
            if "conf" in out:
                out["conf"] = interpolate_traj(out["conf"], self.horizon, "linear", axis=-2)
        return out

    def _fill(
        self,
        view: ViewWindows,
        window: int,
        start: int,
        affine: AxisAffine | None,
        out: dict[str, np.ndarray],
        at: int,
    ) -> None:
        traj = out["traj"][at]
        write_tracks(view, window, self._read, self.points, traj)
        write_vis(view, window, self._read, self.points, out["vis"][at])
        if "conf" in out:
            out["conf"][at] = np.asarray(view.conf[window, self._read])[:, self.points]
        out["in_content"][at] = view.in_content[self.points]
        out["decode"][at] = view.decode_rows
        if affine is not None:
            to_norm = AxisAffine.normalization(self.img_shape)
            norm_affine = to_norm @ affine @ ~to_norm
            traj[:] = norm_affine(traj[..., ::-1])[..., ::-1]
            out["decode"][at] = affine_matrix(view.decode @ ~norm_affine)
        if "images" in out:
            frames = out["images"][at] if self.options.history > 1 else out["images"][at][None]
            write_pictures(view, start, affine, frames)

    def _valid(self, steps: Any, start: int, length: int) -> torch.Tensor:
        every = self.options.tail == "include"
        return torch.from_numpy((np.asarray(steps) <= length - 1 - start) | every)

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        # Of the sample, not of the worker that happens to read it.
        return np.random.default_rng([self.options.seed, self.epoch, index, stream])


WindowDataset.__doc__ = f"{cleandoc(WindowDataset.__doc__ or '')}\n{options_help()}"


class SampleIndex:
    """Finds the episode of a sample, the samples of an episode, and their rows in a window table.

    A sample that a filter drops keeps its number, so that whatever is drawn by number (the
    augmentation) is the same with and without the filter.
    """

    kept: np.ndarray | None = None
    """Numbers (n,) of the samples that a filter keeps, ascending; None: all."""

    def __init__(self, counts: np.ndarray) -> None:
        """Take ``counts`` (E,), how many samples each episode has."""
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        if self.kept is not None:
            return len(self.kept)
        return int(self.ends[-1]) if len(self.ends) else 0

    def number(self, index: int) -> int:
        """Return the number of a sample, given its index among those that are kept."""
        return index if self.kept is None else int(self.kept[index])

    def episode(self, number: int) -> int:
        """Return which episode a sample belongs to, by its place in ``counts``."""
        return int(self.ends.searchsorted(number, side="right"))

    def first(self, episode: int) -> int:
        """Return the number of an episode's first sample."""
        return int(self.ends[episode - 1]) if episode else 0

    def indices(self, episode: int) -> range:
        """Return the indices, among the samples that are kept, of an episode's."""
        first, end = self.first(episode), int(self.ends[episode])
        if self.kept is None:
            return range(first, end)
        return range(*self.kept.searchsorted((first, end)).tolist())

    def rows(
        self, table: Table, episodes: np.ndarray, every: int, starts: Mapping[int, np.ndarray]
    ) -> np.ndarray:
        """Return the row of every kept sample in a table that has one row per window, -1 for none.

        ``episodes`` (E,) are the numbers by which the table knows the episodes; their samples
        start ``every`` so many frames (0: one row tells about all samples of an episode), but for
        those whose ``starts`` are given.
        """
        counts = np.diff(self.ends, prepend=0)
        begins = np.repeat(self.ends - counts, counts)
        start = (np.arange(len(begins)) - begins) * every
        for place, own in starts.items():
            start[self.first(place) : int(self.ends[place])] = own
        # The table's rows are in order of episode and start.
        span = 1 + max(int(start.max(initial=0)), int(table.start.max(initial=0)))
        keys, wanted = table.episode * span + table.start, np.repeat(episodes, counts) * span
        wanted += start
        at = np.searchsorted(keys, wanted)
        found = np.where(np.append(keys, -1)[at] == wanted, at, -1)
        return found if self.kept is None else found[self.kept]


def _text_at(episode: EpisodeData, frame: int) -> str:
    """Return the instruction of a frame; "" where there is none."""
    texts = episode.meta.texts
    return texts[episode.arrays[TEXT_INDEX][frame]] if texts else episode.meta.text or ""


def _steps_read(options: WindowOptions, stored: int) -> slice:
    """Return which of the ``stored`` steps are read; raises ConfigError for more than there are."""
    first = options.first_step
    steps = options.horizon or max(1, stored - first)
    if first + steps > stored:
        after = f" after {first} steps" if first else ""
        raise ConfigError(
            f"horizon {steps}{after} is longer than the stored {stored}; ask for fewer steps, or "
            "resample them to more"
        )
    return slice(first, first + steps)
