"""Small faithful datasets made the older way, written by code: AMPLIFY and ATM layouts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

GRID = 4  # small stand-in for the usual 20 x 20
METHOD = f"uniform_{GRID * GRID}_reinit_16"


def grid_queries(shape, grid=GRID):
    """The older route's queries (N, 2) (x, y): cell centres, rows vary fastest."""
    ticks = np.linspace(-1 + 1 / grid, 1 - 1 / grid, grid)
    column, row = np.meshgrid(ticks, ticks, indexing="ij")
    height, width = shape
    xy = np.stack([(column.ravel() + 1) / 2 * width, (row.ravel() + 1) / 2 * height], axis=-1)
    return xy.astype(np.float32)


def moving_tracks(shape, length, horizon=16, speed_xy=(1.5, -0.75), grid=GRID):
    """Windows (T, horizon, N, 2) whose points drift; the tail repeats the last frame."""
    step = np.minimum(np.arange(horizon), length - 1 - np.arange(length)[:, None])
    drift = step[:, :, None, None] * np.asarray(speed_xy, np.float32)
    return (grid_queries(shape, grid) + drift).astype(np.float32)


def write_view(root, name, shape, length=24, *, attrs=True, whole=False, **motion):
    """Write root/<name>/{tracks, vis}; ``shape`` (H, W) is what the frames had when tracked."""
    group = root.create_group(name)
    if whole:
        steps = np.arange(length)[None, :, None, None]
        speed = np.asarray(motion.get("speed_xy", (1.5, -0.75)), np.float32)
        tracks = (grid_queries(shape) + steps * speed).astype(np.float32)
    else:
        tracks = moving_tracks(shape, length, **motion)
    group["tracks"] = tracks
    group["vis"] = np.ones(tracks.shape[:-1], np.float32)
    group["vis"][..., 0] = 0.0
    if attrs:
        group.attrs["height"], group.attrs["width"] = shape
    return tracks


def write_amplify(path, views=None, **options):
    """Write one demo file; ``views`` maps names to (H, W).  Returns the tracks by view."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    views = views or {"agentview": (480, 853), "eye_in_hand": (480, 640)}
    with h5py.File(path, "w") as file:
        root = file.create_group("root")
        return {name: write_view(root, name, shape, **options) for name, shape in views.items()}


def amplify_folder(folder, demos=3, **options):
    """Write ``<folder>/libero_10/<METHOD>/<task>_demo/demo_i.hdf5``; returns tracks by demo."""
    base = Path(folder) / "libero_10" / METHOD / "put_the_bowl_on_the_plate_demo"
    return [write_amplify(base / f"demo_{i}.hdf5", **options) for i in range(demos)]


def write_atm(path, shape=(96, 128), length=20, views=("agentview",)):
    """Write one ATM demo: tracks in [0, 1], the video channels first.  Returns tracks."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    steps = np.arange(length)[None, :, None, None] * np.float32(0.004)
    tracks = (grid_queries(shape) / np.float32(shape[::-1]) + steps).astype(np.float32)
    with h5py.File(path, "w") as file:
        root = file.create_group("root")
        root["actions"] = rng.normal(size=(length, 7)).astype(np.float32)
        root["task_emb_bert"] = rng.normal(size=768).astype(np.float32)
        root["extra_states/gripper_states"] = rng.normal(size=(length, 2)).astype(np.float32)
        for name in views:
            group = root.create_group(name)
            group["video"] = rng.integers(0, 256, (1, length, 3, *shape), dtype=np.uint8)
            group["tracks"] = tracks
            group["vis"] = np.ones(tracks.shape[:-1], np.float32)
    return tracks
