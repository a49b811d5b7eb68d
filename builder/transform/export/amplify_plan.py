"""Which episode becomes which demonstration of AMPLIFY's layout, and which cannot be one.

AMPLIFY's public loader makes the instruction and the path of its embedding from a task's file
name, looks for demos 0 to 49 of a task, and for suites whose name contains "libero".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from builder.core.errors import ConfigError
from builder.dataset.episodes import Dataset, EpisodeData
from builder.transform.export.common import chosen_views, refused_canvas

Target = Literal["upstream", "attrs"]

DEMOS_PER_TASK = 50
"""LiberoDataset looks for demos 0 to 49 of a task."""

NAME_BYTES = 150

# LIBERO's own names; the loader counts on a scene of one digit, or on 10.
_SCENE = re.compile(r"[A-Z][A-Z0-9_]*SCENE(\d|10)_\w+")


@dataclass(frozen=True)
class Demo:
    """Where an episode goes: a suite, a task and a number below 50."""

    suite: str
    task: str
    number: int
    episode: str


def instruction(episode: EpisodeData) -> str:
    """Return what an episode's task is called, in words or in LIBERO's form."""
    return episode.meta.task or episode.meta.text or "task"


def plan(dataset: Dataset, suite: str) -> list[Demo]:
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


def suites(demos: Iterable[Demo]) -> list[str]:
    """List the suites, in order."""
    return list(dict.fromkeys(demo.suite for demo in demos))


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
            f"wrong ones; leave it out (letterset subset) or call the task otherwise"
        )
    words, number, wanted = re.sub(r"[\W_]+", " ", text.lower()).strip(), 1, name
    while names.setdefault(name, words) != words:
        number += 1
        name = f"{wanted}_{number}"
    return name


def check(dataset: Dataset, views: Sequence[str] | None, target: Target) -> tuple[str, ...]:
    """Return the views; raises ConfigError listing everything the target cannot hold."""
    names = tuple(chosen_views(dataset, views))
    refused = _refused_settings(dataset, target)
    widths: dict[int, str] = {}
    for episode_id in dataset.ids:
        episode = dataset[episode_id]
        refused += [
            f"episode {episode_id} without view {name!r}: every sample has all views"
            for name in names
            if name not in episode.views
        ]
        if target == "upstream":
            refused += _refused_episode(dataset, episode, names)
            widths.setdefault(actions_of(episode).shape[1], episode_id)
    if len(widths) > 1:
        refused.append(f"actions of different sizes: {widths}")
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ConfigError(
            f"AMPLIFY's {target} layout cannot hold {'; '.join(refused[:5])}{more}. Leave these "
            f"out, or build the dataset for it"
        )
    return names


def _refused_settings(dataset: Dataset, target: Target) -> list[str]:
    meta, refused = dataset.meta, []
    if not meta.has_tracks:
        refused.append("a dataset without tracks (open a layer with tracks, or letterset track)")
    if meta.mode == "reinit" and meta.start_every != 1:
        refused.append(f"start_every {meta.start_every}: it looks up windows by frame number")
    if target == "upstream" and meta.mode == "episode":
        refused.append(
            "whole-episode tracks: it cuts shorter windows near the end, which no batch can hold "
            "(track with mode: reinit)"
        )
    if target == "upstream" and meta.queries.grid[0] != meta.queries.grid[1]:
        refused.append(f"a query grid of {meta.queries.grid}: its uniform grid is square")
    return refused


def _refused_episode(dataset: Dataset, episode: EpisodeData, names: Sequence[str]) -> list[str]:
    refused = []
    for view in (episode.views[name].meta for name in names if name in episode.views):
        refused += refused_canvas(dataset, episode.id, view)
        if "frames" not in view.arrays:
            refused.append(
                f"episode {episode.id}, view {view.name}: no frames are stored (amplify-attrs "
                "needs none)"
            )
    if len(actions_of(episode)) != episode.meta.length:
        refused.append(
            f"episode {episode.id}: {len(actions_of(episode))} actions for "
            f"{episode.meta.length} frames"
        )
    return refused


def actions_of(episode: EpisodeData) -> np.ndarray:
    """Actions (T, D); without any, (T, 0): the loader needs their length."""
    if "actions" not in episode.meta.arrays:
        return np.zeros((episode.meta.length, 0), np.float32)
    actions = np.asarray(episode.arrays["actions"])
    return actions.reshape(len(actions), -1)
