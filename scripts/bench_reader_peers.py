"""What bench_reader compares with: AMPLIFY's access pattern, zarr's own reader, and the floor.

Each is a function of (episode, start) that returns a sample as torch tensors, or as arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from bench_reader_data import HORIZON, LENGTH, SIDE, VIEWS

Read = Callable[[int, int], Any]


def amplify_tracks(folder: Path) -> Read:
    """Tracks alone, in the public LiberoDataset's steps: a file opened for every sample.

    With height and width attributes, the route that its users added: remapped to img_shape.
    """
    import torch

    def read(episode: int, start: int) -> Any:
        remap = None
        pieces: dict[str, list[np.ndarray]] = {"tracks": [], "vis": []}
        with h5py.File(folder / f"task_demo/demo_{episode}.hdf5", "r") as file:
            for key, found in pieces.items():
                if key in file["root"][VIEWS[0]]:
                    # A list of one start, as there, to keep the axis of views.
                    found.extend(file[f"root/{view}/{key}"][[start]] for view in VIEWS)
            attrs = file[f"root/{VIEWS[0]}"].attrs
            if "height" in attrs:
                remap = SIDE / int(attrs["height"]), SIDE / int(attrs["width"])
        tracks = np.concatenate(pieces["tracks"])[..., [1, 0]]
        vis = np.expand_dims(np.concatenate(pieces["vis"]), axis=-1)
        tracks = np.nan_to_num(tracks, nan=0.0, posinf=0.0, neginf=0.0)
        vis = np.nan_to_num(vis, nan=0.0, posinf=0.0, neginf=0.0)
        if remap is not None:
            tracks[..., 0] *= remap[0]
            tracks[..., 1] *= remap[1]
        half = np.array([SIDE, SIDE], np.float32) / 2
        traj = np.clip((tracks - half) / half, -1, 1)
        return torch.from_numpy(traj), torch.from_numpy(vis)

    return read


def amplify_sample(folder: Path) -> Read:
    """Images, actions, tracks and text: each key opens its file again, as there."""
    import torch

    tracks = amplify_tracks(folder / "tracks")

    def read(episode: int, start: int) -> Any:
        with h5py.File(folder / "task_demo.hdf5", "r") as file:
            demo = file[f"data/demo_{episode}"]
            images = np.stack([demo[f"obs/{view}_rgb"][start] for view in VIEWS])
        with h5py.File(folder / "task_demo.hdf5", "r") as file:
            demo = file[f"data/demo_{episode}"]
            actions = demo["actions"][start : start + HORIZON].astype(np.float32)
        traj, vis = tracks(episode, start)
        with h5py.File(folder / "text.hdf5", "r") as file:
            embedding = file["text_emb"][()]
        images = np.flip(images.astype(np.float32) / 255.0, axis=-3).copy()
        return traj, vis, *(torch.from_numpy(each) for each in (images, actions, embedding))

    return read


def zarr_sample(folder: Path) -> Read:
    """Read the windows of our Zarr episodes by zarr's own reader, its arrays kept open."""
    import torch
    import zarr

    groups = [zarr.open_group(path, mode="r") for path in sorted(folder.glob("episodes.zarr/*"))]
    kept: list[dict[str, Any]] = [
        {f"{v}/{n}": g[f"root/{v}/{n}"] for v in VIEWS for n in ("tracks", "vis", "frames")}
        for g in groups
    ]
    half = np.float32(SIDE / 2)

    def read(episode: int, start: int) -> Any:
        def rows(name: str) -> np.ndarray:
            return np.stack([kept[episode][f"{view}/{name}"][start] for view in VIEWS])

        traj = np.ascontiguousarray((rows("tracks")[..., ::-1] - half) / half)
        found = traj, rows("vis").astype(np.float32), rows("frames")
        return [torch.from_numpy(each) for each in found]

    return read


def copies(folder: Path, names: tuple[str, ...]) -> Read:
    """Copy as many bytes as a sample has out of plain memory-mapped arrays: the floor."""
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in names]
    return lambda episode, start: [array[episode * LENGTH + start].copy() for array in arrays]
