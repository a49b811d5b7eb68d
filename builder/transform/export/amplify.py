"""A dataset in AMPLIFY's layout: ``upstream`` for its public LiberoDataset, or ``attrs``.

``upstream`` is a tree to use as ``root_dir``: task files with upside-down pictures, track
files, text embeddings and a Hydra override.  ``attrs`` is track files alone, with the
``height``/``width`` attributes of the older route.  Tracks are in pixels of img_shape (with
``geometry: resize_shorter`` in those of each view's own size, which the attributes tell), in which
AMPLIFY's ``p / (size / 2)`` is right: it treats them as edge coordinates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from builder.dataset.episodes import Dataset, EpisodeData
from builder.dataset.opening import open_dataset
from builder.transform.export.amplify_plan import (
    Demo,
    Target,
    actions_of,
    check,
    instruction,
    plan,
    suites,
)
from builder.transform.export.common import new_folder
from builder.transform.export.verified import arrays, every_array, verified
from schemas.dataset import DatasetMeta

FIRST_VIEW = "agentview"
"""LiberoDataset takes the size of all pictures from this view."""

_BLOCK = 64


def export_amplify(
    dataset: Dataset,
    out: Path | str,
    target: Target = "upstream",
    *,
    views: Sequence[str] | None = None,
    suite: str = "libero_letterset",
    text_embeddings: Mapping[str, np.ndarray] | None = None,
    failures: dict[str, str] | None = None,
) -> list[Demo]:
    """Write ``dataset`` to the new folder ``out``; returns where each episode went.

    ``views`` defaults to those of the first episode.  A task with more than 50 episodes goes
    on in ``<suite>_2`` and so on; a suite's name must contain "libero" for AMPLIFY to load
    it.  ``text_embeddings`` maps an episode's text to a vector (E,); an array ``text_emb`` of
    the episode, or a layer of that name (``letterset embed``), serves too.  ``failures`` takes the
    damaged episodes, with the reason; without it they are refused with a DatasetError.

    Raises ConfigError, before any work, naming what the target cannot hold, and OutputError
    when ``out`` cannot be written; then nothing is left there.
    """

    def planned(dataset: Dataset) -> tuple[tuple[str, ...], list[Demo]]:
        return check(dataset, views, target), plan(dataset, suite)

    given, layer = text_embeddings or {}, dataset.path / "layers" / "text_emb"
    embedded = open_dataset(dataset.path, layers=["text_emb"]) if layer.is_dir() else None

    def damage(episode: EpisodeData) -> list[str]:
        found = every_array(episode)
        if (
            target == "upstream"
            and embedded
            and episode.meta.text
            and episode.meta.text not in given
        ):
            found += arrays("text_emb")(embedded[episode.id])
        return found

    dataset, (names, demos) = verified(dataset, planned, failures, damage)
    with new_folder(Path(out)) as folder:
        writer = _Writer(dataset, folder, names, target, given, embedded)
        for demo in demos:
            writer.add(demo)
        writer.finish(demos)
    return demos


def track_method(meta: DatasetMeta) -> str:
    """Return AMPLIFY's name of a kind of track files, such as ``uniform_400_reinit_16``."""
    reinit = f"_reinit_{meta.horizon}" if meta.mode == "reinit" else ""
    return f"uniform_{meta.queries.num_points}{reinit}"


class _Writer:
    def __init__(
        self,
        dataset: Dataset,
        root: Path,
        views: tuple[str, ...],
        target: Target,
        embeddings: Mapping[str, np.ndarray],
        embedded: Dataset | None,
    ) -> None:
        self.dataset, self.root, self.views = dataset, root, views
        self.target, self.embeddings, self.embedded = target, embeddings, embedded
        self.method = track_method(dataset.meta)

    def add(self, demo: Demo) -> None:
        """Write one episode."""
        episode = self.dataset[demo.episode]
        data = self.root / "preprocessed_data" / demo.suite
        folder = data / self.method / f"{demo.task}_demo"
        with _file(folder / f"demo_{demo.number}.hdf5") as file:
            for name in self.views:
                self._tracks(file.create_group(f"root/{name}"), episode, name)
        if self.target == "attrs":
            return
        libero = self.root / "LIBERO" / "libero" / "datasets" / demo.suite
        with _file(libero / f"{demo.task}_demo.hdf5", "a") as file:
            self._demo(file.create_group(f"data/demo_{demo.number}"), episode)
        self._text(data / "text" / f"{demo.task}.hdf5", episode)

    def _tracks(self, group: h5py.Group, episode: EpisodeData, name: str) -> None:
        view, order = episode.views[name], self._order()
        tracks, vis = view.tracks, view.vis
        stored = group.create_dataset("tracks", tracks.shape, "<f4")
        seen = group.create_dataset("vis", vis.shape, "<f4")
        for at in range(0, len(tracks), _BLOCK):
            stored[at : at + _BLOCK] = np.asarray(tracks[at : at + _BLOCK])[:, :, order]
            seen[at : at + _BLOCK] = np.asarray(vis[at : at + _BLOCK])[:, :, order]
        if self.target == "attrs":
            group.attrs["height"], group.attrs["width"] = view.geometry.img_shape

    def _order(self) -> np.ndarray | slice:
        """Return the permutation to AMPLIFY's order of points, in which rows vary fastest."""
        queries = self.dataset.meta.queries
        if queries.order == "rows_fastest":
            return slice(None)
        return np.arange(queries.num_points).reshape(queries.grid).T.ravel()

    def _demo(self, group: h5py.Group, episode: EpisodeData) -> None:
        group["actions"] = actions_of(episode)
        for name in ("states", "rewards", "dones"):
            if name in episode.meta.arrays:
                group[name] = np.asarray(episode.arrays[name])
        for name in ("joint_states", "gripper_states", "ee_pos", "ee_ori", "ee_states"):
            if name in episode.meta.arrays:
                group[f"obs/{name}"] = np.asarray(episode.arrays[name])
        for name in self.views:
            frames = episode.views[name].frames
            stored = group.create_dataset(f"obs/{name}_rgb", frames.shape, "u1")
            for at in range(len(frames)):
                stored[at] = np.asarray(frames[at])[::-1]  # the loader flips them back
        if FIRST_VIEW not in self.views:
            group[f"obs/{FIRST_VIEW}_rgb"] = group[f"obs/{self.views[0]}_rgb"]  # the same bytes

    def _text(self, path: Path, episode: EpisodeData) -> None:
        text = episode.meta.text or instruction(episode).replace("_", " ")
        vector: Any = self.embeddings.get(text)
        if vector is None and self.embedded is not None and episode.meta.text:
            vector = self.embedded[episode.id].arrays["text_emb"]
        elif vector is None and "text_emb" in episode.meta.arrays:
            vector = episode.arrays["text_emb"]
        if vector is None or path.exists():
            return
        with _file(path) as file:
            file["text_emb"] = np.asarray(vector, np.float32)
            file["text"] = text

    def finish(self, demos: list[Demo]) -> None:
        """Write the override and the list of episodes."""
        config = "# @package _global_\n" + yaml.safe_dump(self._override(demos), sort_keys=False)
        folder = self.root / "cfg" / "letterset"
        folder.mkdir(parents=True)
        (folder / "dataset.yaml").write_text(config, encoding="utf-8")
        listing = {f"{d.suite}/{d.task}_demo/demo_{d.number}": d.episode for d in demos}
        origin = {"dataset": self.dataset.meta.digest, "episodes": listing}
        (self.root / "letterset.json").write_text(json.dumps(origin, indent=1) + "\n")

    def _override(self, demos: list[Demo]) -> dict[str, Any]:
        meta = self.dataset.meta
        weights = {name: 1.0 for name in self.views}
        return {
            "root_dir": "???",
            "train_datasets": [f"{suite}:traj1.0" for suite in suites(demos)],
            "cond_cameraviews": list(self.views),
            "img_shape": list(meta.img_shape),
            "true_horizon": meta.horizon,
            "track_pred_horizon": meta.horizon,
            "num_tracks": meta.queries.num_points,
            "track_method": self.method,
            "loss": {"loss_weights": weights, "cls_img_size": list(meta.img_shape)},
        }


def _file(path: Path, mode: str = "w") -> h5py.File:
    path.parent.mkdir(parents=True, exist_ok=True)
    return h5py.File(path, mode)
