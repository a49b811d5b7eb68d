"""A dataset in AMPLIFY's layout: ``upstream`` for its public LiberoDataset, or ``attrs``.

``upstream`` is a tree to use as ``root_dir``: task files with upside-down pictures, track
files, text embeddings and a Hydra override.  ``attrs`` is track files alone, with the
``height``/``width`` attributes of the older route.  Tracks are in pixels of img_shape (with
``geometry: resize_shorter`` in those of each view's own size, which the attributes tell), in which
AMPLIFY's ``p / (size / 2)`` is right: it treats them as edge coordinates.

AMPLIFY's public loader makes the instruction and the path of its embedding from a task's file
name, looks for demos 0 to 49 of a task, and for suites whose name contains "libero":
``amplify_plan`` says where an episode goes.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import yaml

from builder.core.messages import count
from builder.dataset.episodes import Dataset, EpisodeData, ViewData
from builder.dataset.opening import open_dataset
from builder.dataset.splits import split_pair
from builder.inputs.listing import natural_key
from builder.transform.export.amplify_plan import Demo, instruction, plan_demos
from builder.transform.export.common import (
    chosen_views,
    damage,
    damage_of,
    new_folder,
    only,
    plan_undamaged,
    refuse,
    refused_views,
    refused_windows,
    tell,
)
from schemas.dataset import QuerySpec

log = logging.getLogger("letterset.export")

Target = Literal["upstream", "attrs"]

FIRST_VIEW = "agentview"
"""LiberoDataset takes the size of all pictures from this view."""

EMBEDDING_SHAPE = (1, 512)
"""Of its text files: what T5-small says of the first token, for a batch of one text."""
WEIGHTED = frozenset({"agentview", "eye_in_hand", "all", "corner", "corner2", "front"})
"""Views whose weight in the loss is in its train_motion_tokenizer.yaml."""
_BLOCK = 64


def export_amplify(
    dataset: Dataset,
    out: Path | str,
    target: Target = "upstream",
    *,
    views: Sequence[str] | None = None,
    suite: str = "libero_letterset",
    split: str | None = None,
    text_embeddings: Mapping[str, np.ndarray] | None = None,
    failures: dict[str, str] | None = None,
    notes: list[str] | None = None,
) -> list[Demo]:
    """Write ``dataset`` to the new folder ``out``; returns where each episode went.

    ``views`` defaults to those of the first episode.  ``split`` names two parts, such as
    ``train:val`` (of ``splits/default.json``) or ``tasks/train:tasks/val``: the second becomes
    the suite ``<suite>_val``, all of which AMPLIFY validates on, and others are left out.  A
    suite's name must contain "libero" for AMPLIFY to load it.  ``text_embeddings`` maps an
    episode's text to an array (1, E) or (E,); an array ``text_emb`` of the episode, or a layer of
    that name (``letterset embed``), serves too.  ``failures`` takes the damaged episodes, with
    the reason; without it they are refused with a DatasetError.  ``notes`` takes sentences that
    whoever trains should read; without it they are logged.

    Raises ConfigError, before any work, naming what the target cannot hold, DatasetError for a
    split that is not there, and OutputError when ``out`` cannot be written; then nothing is left
    there.
    """
    validation: frozenset[str] = frozenset()
    if split is not None:
        training, held_out = split_pair(dataset, split)
        dataset, validation = only(dataset, [*training, *held_out]), frozenset(held_out)

    def plan(dataset: Dataset) -> tuple[list[str], list[Demo]]:
        return _checked_views(dataset, views, target), plan_demos(dataset, suite, validation)

    texts = _Texts(dataset, text_embeddings or {})

    def damage_with_text(episode: EpisodeData) -> list[str]:
        layer = texts.of_layer(episode) if target == "upstream" else None
        return [*damage(episode), *(damage_of("text_emb")(layer) if layer else ())]

    dataset, (names, demos) = plan_undamaged(dataset, plan, failures, damage_with_text)
    with new_folder(Path(out)) as folder:
        writer = _Writer(dataset, folder, names, target, texts)
        for demo in demos:
            writer.add(demo)
        writer.finish(demos, validation)
    tell([*_notes(dataset, demos), *writer.notes()], notes, log)
    return demos


def _notes(dataset: Dataset, demos: list[Demo]) -> Iterator[str]:
    """Say what of the demos and of the canvas AMPLIFY's users should know."""
    if moved := [f"{demo.episode} is {demo.place}" for demo in demos if demo.moved]:
        more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
        yield (
            f"{count(len(moved), 'episode')} could not keep the number of the source, from 50 on "
            f"or taken by another: {'; '.join(moved[:5])}{more}"
        )
    height, width = dataset.meta.img_shape
    if height > width:
        yield (
            f"img_shape [{height}, {width}] is higher than wide: AMPLIFY's vis_pred limits columns "
            f"by the height, so that training ends with an index error at its first log; limit "
            f"them by the width there (image_shape[1] - 1), or build for a wider img_shape"
        )


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
    meta, refused = dataset.meta, refused_windows(dataset, "AMPLIFY")
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


def write_tracks(group: h5py.Group, view: ViewData, queries: QuerySpec) -> None:
    """Write ``tracks`` (S, horizon, N, 2) and ``vis`` float32, points in AMPLIFY's order.

    In it rows vary fastest.
    """
    order: Any = slice(None)
    if queries.order != "rows_fastest":
        order = np.arange(queries.num_points).reshape(queries.grid).T.ravel()
    for name, array in (("tracks", view.tracks), ("vis", view.vis)):
        stored = group.create_dataset(name, array.shape, "<f4")
        for at in range(0, len(array), _BLOCK):
            stored[at : at + _BLOCK] = np.asarray(array[at : at + _BLOCK])[:, :, order]


def write_size(group: h5py.Group, view: ViewData) -> None:
    """Write the attributes of the older route: the size in which tracks are expressed."""
    group.attrs["height"], group.attrs["width"] = view.geometry.img_shape


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
        """Return the embedding (1, E) of an episode's text, as it is stored, if there is one."""
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
    text_shapes: set[tuple[int, ...]] = field(default_factory=set)

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
                group = file.create_group(f"root/{name}")
                write_tracks(group, episode.views[name], self.dataset.meta.queries)
                if self.target == "attrs":
                    write_size(group, episode.views[name])
        if self.target == "attrs":
            return
        libero = self.root / "LIBERO" / "libero" / "datasets" / demo.suite
        with _file(libero / f"{demo.task}_demo.hdf5", "a") as file:
            self._demo(file.create_group(f"data/demo_{demo.number}"), episode)
        self._text(data / "text" / f"{demo.task}.hdf5", episode)

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
        array = np.asarray(vector, np.float32)
        # Batches of them are joined with tokens of pictures: one row is one token.
        array = array[None] if array.ndim == 1 else array
        self.text_shapes.add(array.shape)
        with _file(path) as file:
            file["text_emb"] = array
            file["text"] = text

    def notes(self) -> Iterator[str]:
        """Say which text embeddings AMPLIFY's own configuration cannot take."""
        if others := sorted(self.text_shapes - {EMBEDDING_SHAPE}):
            yield (
                f"text embeddings of {', '.join(map(str, others))}: AMPLIFY's forward dynamics "
                f"takes {EMBEDDING_SHAPE}, the first token of T5-small (use_preprocessed_embs)"
            )

    def finish(self, demos: list[Demo], validation: Collection[str]) -> None:
        """Write the override and the list of episodes; those of ``validation`` are held out."""
        override = self._override(demos, validation)
        config = "# @package _global_\n" + yaml.safe_dump(override, sort_keys=False)
        folder = self.root / "cfg" / "letterset"
        folder.mkdir(parents=True)
        (folder / "dataset.yaml").write_text(config, encoding="utf-8")
        listing = {demo.place: demo.episode for demo in demos}
        origin = {"dataset": self.dataset.meta.digest, "episodes": listing}
        (self.root / "letterset.json").write_text(json.dumps(origin, indent=1) + "\n")

    def _override(self, demos: list[Demo], validation: Collection[str]) -> dict[str, Any]:
        meta = self.dataset.meta
        suites: dict[bool, set[str]] = {False: set(), True: set()}
        for demo in demos:
            suites[demo.episode in validation].add(f"{demo.suite}:traj1.0")
        shown = {
            name: sorted(suites[held_out], key=natural_key)
            for name, held_out in (("train_datasets", False), ("val_datasets", True))
            if suites[held_out]
        }
        loss: dict[str, Any] = {"cls_img_size": list(meta.img_shape)}
        # The views that AMPLIFY knows keep its own weights.
        if weights := {name: 1.0 for name in self.views if name not in WEIGHTED}:
            loss["loss_weights"] = weights
        return {
            "root_dir": "???",
            **shown,
            "cond_cameraviews": list(self.views),
            "img_shape": list(meta.img_shape),
            "true_horizon": meta.horizon,
            "track_pred_horizon": meta.horizon,
            "num_tracks": meta.queries.num_points,
            "track_method": self.method,
            "loss": loss,
        }


def _file(path: Path, mode: str = "w") -> h5py.File:
    path.parent.mkdir(parents=True, exist_ok=True)
    return h5py.File(path, mode)
