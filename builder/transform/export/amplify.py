"""A dataset in AMPLIFY's layout: ``upstream`` for its public LiberoDataset, or ``attrs``.

``upstream`` is a tree to use as ``root_dir``: task files with upside-down pictures, track
files, text embeddings and a Hydra override.  ``attrs`` is track files alone, with the
``height``/``width`` attributes of the older route.  Tracks are in pixels of img_shape (with
``geometry: resize_shorter`` in those of each view's own size, which the attributes tell), in which
AMPLIFY's ``p / (size / 2)`` is right: it treats them as edge coordinates.

AMPLIFY's public loader makes the instruction and the path of its embedding from a task's file
name, looks for demos 0 to 49 of a task, and for suites whose name contains "libero".
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import yaml

from builder.core.errors import ConfigError
from builder.dataset.episodes import Dataset, EpisodeData
from builder.dataset.opening import open_dataset
from builder.transform.export.common import (
    chosen_views,
    damage,
    damage_of,
    new_folder,
    plan_undamaged,
    refuse,
    refused_views,
)

Target = Literal["upstream", "attrs"]

FIRST_VIEW = "agentview"
"""LiberoDataset takes the size of all pictures from this view."""

DEMOS_PER_TASK = 50
"""LiberoDataset looks for demos 0 to 49 of a task."""
NAME_BYTES = 150
_BLOCK = 64

# LIBERO's own names; the loader counts on a scene of one digit, or on 10.
_SCENE = re.compile(r"[A-Z][A-Z0-9_]*SCENE(\d|10)_\w+")


@dataclass(frozen=True)
class Demo:
    """Where an episode goes: a suite, a task and a number below 50."""

    suite: str
    task: str
    number: int
    episode: str


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

    def plan(dataset: Dataset) -> tuple[list[str], list[Demo]]:
        return _checked_views(dataset, views, target), plan_demos(dataset, suite)

    texts = _Texts(dataset, text_embeddings or {})

    def damage_with_text(episode: EpisodeData) -> list[str]:
        layer = texts.of_layer(episode) if target == "upstream" else None
        return [*damage(episode), *(damage_of("text_emb")(layer) if layer else ())]

    dataset, (names, demos) = plan_undamaged(dataset, plan, failures, damage_with_text)
    with new_folder(Path(out)) as folder:
        writer = _Writer(dataset, folder, names, target, texts)
        for demo in demos:
            writer.add(demo)
        writer.finish(demos)
    return demos


def instruction(episode: EpisodeData) -> str:
    """Return what an episode's task is called, in words or in LIBERO's form."""
    return episode.meta.task or episode.meta.text or "task"


def plan_demos(dataset: Dataset, suite: str) -> list[Demo]:
    """Give every episode a number within its task; every 50 of them begin another suite.

    Raises ConfigError for a suite, or naming a task, that the loader could not read.
    """
    if "libero" not in suite or not re.fullmatch(r"[\w.-]+", suite):
        raise ConfigError(
            f"AMPLIFY loads suites whose name contains 'libero', of letters, digits, '_', '-' "
            f"and '.'; got {suite!r}"
        )
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    demos = []
    for episode_id in dataset.ids:
        task = _file_name(instruction(dataset[episode_id]), names)
        part, number = divmod(counts.get(task, 0), DEMOS_PER_TASK)
        counts[task] = counts.get(task, 0) + 1
        demos.append(Demo(suite if part == 0 else f"{suite}_{part + 1}", task, number, episode_id))
    return demos


def _file_name(text: str, names: dict[str, str]) -> str:
    """Return a file name that AMPLIFY turns into ``text`` again: words joined by underscores.

    LIBERO's own names, which begin with a scene in capitals, are kept.  ``names`` are those
    taken, with the words they stand for; texts that would share one get a number.
    """
    name = text
    if not _SCENE.fullmatch(text):
        words = re.sub(r"[\W_]+", "_", text.lower()).strip("_")
        name = words.encode()[:NAME_BYTES].decode(errors="ignore") or "task"
    if "_demo" in name:
        raise ConfigError(
            f"task {text!r}: AMPLIFY cuts '_demo' out of file names, so it would look for the "
            f"wrong ones; leave it out (letterset subset) or rename the task"
        )
    words, number, wanted = re.sub(r"[\W_]+", " ", text.lower()).strip(), 1, name
    while names.setdefault(name, words) != words:
        number += 1
        name = f"{wanted}_{number}"
    return name


def _checked_views(dataset: Dataset, views: Sequence[str] | None, target: Target) -> list[str]:
    """Return the views; raises ConfigError listing everything the target cannot hold."""
    names = chosen_views(dataset, views)
    refused = _refused_settings(dataset, target)
    widths: dict[int, str] = {}
    upstream = target == "upstream"
    for episode in dataset:
        needs = "every sample has all views"
        refused += refused_views(dataset, episode, names, needs, frames=upstream)
        if upstream:
            actions, length = actions_of(episode), episode.meta.length
            widths.setdefault(actions.shape[1], episode.id)
            if len(actions) != length:
                refused.append(f"episode {episode.id}: {len(actions)} actions for {length} frames")
    if len(widths) > 1:
        refused.append(f"actions of different sizes: {widths}")
    frames = any("no frames" in text for text in refused)
    hint = " (amplify-attrs needs no frames)" if frames else ""
    refuse(f"AMPLIFY's {target} layout{hint}", refused)
    return names


def _refused_settings(dataset: Dataset, target: Target) -> list[str]:
    meta, refused = dataset.meta, []
    if not meta.has_tracks:
        refused.append("a dataset without tracks (open a layer with tracks, or letterset track)")
    if meta.mode == "reinit" and meta.start_every != 1:
        refused.append(f"start_every {meta.start_every}: AMPLIFY looks up windows by frame number")
    if target == "upstream" and meta.mode == "episode":
        refused.append(
            "whole-episode tracks: AMPLIFY cuts shorter windows near the end, which no batch can "
            "hold (track with mode: reinit)"
        )
    if target == "upstream" and meta.queries.grid[0] != meta.queries.grid[1]:
        refused.append(f"a query grid of {meta.queries.grid}: AMPLIFY's uniform grid is square")
    return refused


def actions_of(episode: EpisodeData) -> np.ndarray:
    """Actions (T, D); without any, (T, 0): the loader needs their length."""
    if "actions" not in episode.meta.arrays:
        return np.zeros((episode.meta.length, 0), np.float32)
    actions = np.asarray(episode.arrays["actions"])
    return actions.reshape(len(actions), -1)


class _Texts:
    """Text embeddings: those given, by text, else those of the layer, else of the episode."""

    def __init__(self, dataset: Dataset, given: Mapping[str, np.ndarray]) -> None:
        there = (dataset.path / "layers" / "text_emb").is_dir()
        self._layer = open_dataset(dataset.path, layers=["text_emb"]) if there else None
        self._given = given

    def of_layer(self, episode: EpisodeData) -> EpisodeData | None:
        """Return the episode with the layer, if its embedding is taken from there."""
        text = episode.meta.text
        return self._layer[episode.id] if self._layer and text and text not in self._given else None

    def embedding(self, episode: EpisodeData, text: str) -> Any:
        """Return the embedding (E,) of an episode's text, if there is one."""
        if text in self._given:
            return self._given[text]
        found = self.of_layer(episode) or episode
        return found.arrays["text_emb"] if "text_emb" in found.arrays else None


@dataclass(frozen=True)
class _Writer:
    dataset: Dataset
    root: Path
    views: list[str]
    target: Target
    texts: _Texts

    @property
    def method(self) -> str:
        """AMPLIFY's name of a kind of track files, such as ``uniform_400_reinit_16``."""
        meta = self.dataset.meta
        reinit = f"_reinit_{meta.horizon}" if meta.mode == "reinit" else ""
        return f"uniform_{meta.queries.num_points}{reinit}"

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
        vector = self.texts.embedding(episode, text)
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
            "train_datasets": list(dict.fromkeys(f"{demo.suite}:traj1.0" for demo in demos)),
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
