"""The datasets that bench_reader and bench_loader read: the same numbers in several layouts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VIEWS, LENGTH, EPISODES, HORIZON, POINTS, SIDE = ("front", "wrist"), 200, 4, 16, 400, 128
TRACKED_SHAPE = (480, 640)
"""(H, W) of the frames that the files with height and width were tracked in."""


def make_amplify(folder: Path) -> None:
    """Write task file, text embedding and track files, as the public code keeps them."""
    rng = np.random.default_rng(0)
    (folder / "tracks" / "task_demo").mkdir(parents=True)
    with h5py.File(folder / "text.hdf5", "w") as text:
        text["text_emb"] = rng.normal(size=(768,)).astype(np.float32)
    with h5py.File(folder / "task_demo.hdf5", "w") as task:
        for index in range(EPISODES):
            demo = task.create_group(f"data/demo_{index}")
            demo["actions"] = rng.normal(size=(LENGTH, 7))
            for view in VIEWS:
                shape = (LENGTH, SIDE, SIDE, 3)
                demo[f"obs/{view}_rgb"] = rng.integers(0, 255, shape, np.uint8)
            with h5py.File(folder / f"tracks/task_demo/demo_{index}.hdf5", "w") as tracks:
                for view in VIEWS:
                    shape = (LENGTH, HORIZON, POINTS, 2)
                    group = tracks.create_group(f"root/{view}")
                    group["tracks"] = rng.uniform(0, SIDE, shape).astype(np.float32)
                    group["vis"] = np.ones(shape[:-1], np.float32)


def make_sized(folder: Path, source: Path) -> None:
    """Copy the track files as if tracked in larger frames, whose size they state."""
    shutil.copytree(source, folder)
    for path in folder.glob("*/*.hdf5"):
        with h5py.File(path, "r+") as file:
            for group in file["root"].values():
                group.attrs["height"], group.attrs["width"] = TRACKED_SHAPE
                group["tracks"][...] *= np.float32(min(TRACKED_SHAPE) / SIDE)


def make_ours(folder: Path, source: Path, dtype: str, store: Any) -> None:
    """Write the same episodes through a store (its class)."""
    from builder.dataset.folder import DatasetWriter, index_line
    from builder.stores.base import ArraySpec
    from schemas import DatasetMeta, EpisodeMeta, Letterbox, QuerySpec, TrackerInfo, ViewMeta
    from schemas.dataset import SourceInfo, VisibilityRule

    tracker = TrackerInfo(
        kind="random",
        name="random",
        version="1",
        licence="none",
        visibility=VisibilityRule(rule="all", sticky=False),
    )
    meta = DatasetMeta.seal(
        created_with="bench",
        img_shape=(SIDE, SIDE),
        horizon=HORIZON,
        start_every=1,
        mode="reinit",
        queries=QuerySpec(grid=(20, POINTS // 20)),
        tracker=tracker,
        config={},
    )
    box = Letterbox.fit((SIDE, SIDE), (SIDE, SIDE))
    place = store(folder)
    with DatasetWriter.create(folder, meta) as catalog:
        for index in range(EPISODES):
            arrays = read_episode(source, index)
            layout = {
                view: {
                    name: ArraySpec(
                        a.shape,
                        a.dtype.str,
                        "u16" if name == "tracks" and dtype == "u16" else "raw",
                    )
                    for name, a in named.items()
                }
                for view, named in arrays.items()
            }
            with place.begin(f"demo_{index}", layout) as writer:
                for view, named in arrays.items():
                    for name, array in named.items():
                        writer.write(view, name, 0, array)
                stored = writer.digests()
                episode = EpisodeMeta.seal(
                    id=f"demo_{index}",
                    source=SourceInfo(kind="bench", path=f"demo_{index}"),
                    length=LENGTH,
                    horizon=HORIZON,
                    arrays=stored[None],
                    views=[
                        ViewMeta(name=v, geometry=box, coded_shape=(SIDE, SIDE), arrays=stored[v])
                        for v in VIEWS
                    ],
                )
                writer.commit(episode)
            catalog.add(index_line(episode))


def read_episode(source: Path, index: int) -> dict[str | None, dict[str, np.ndarray]]:
    """Read one episode of the AMPLIFY layout as our arrays."""
    out: dict[str | None, dict[str, np.ndarray]] = {}
    with (
        h5py.File(source / f"tracks/task_demo/demo_{index}.hdf5") as tracked,
        h5py.File(source / "task_demo.hdf5") as task,
    ):
        demo = task[f"data/demo_{index}"]
        for view in VIEWS:
            tracks = tracked[f"root/{view}/tracks"][:]
            out[view] = {
                "tracks": tracks,
                "vis": tracked[f"root/{view}/vis"][:].astype(np.uint8),
                "starts": np.arange(LENGTH),
                "queries": tracks[0, 0],
                "timestamps": np.arange(LENGTH) / 20,
                "frames": demo[f"obs/{view}_rgb"][:],
            }
        out[None] = {"actions": demo["actions"][:]}
    return out


def make_copies(folder: Path) -> None:
    """Write what samples come to, as plain arrays, one row per window of the whole dataset."""
    rows = EPISODES * LENGTH
    tracks = (rows, len(VIEWS), HORIZON, POINTS, 2)
    for name, shape, dtype in (
        ("traj", tracks, np.float32),
        ("vis", tracks[:-1], np.float32),
        ("images", (rows, len(VIEWS), SIDE, SIDE, 3), np.uint8),
    ):
        np.save(folder / f"{name}.npy", np.ones(shape, dtype))


def prepare(root: Path) -> None:
    """Write all layouts into a folder."""
    from builder.stores.kinds.hdf5 import Hdf5Store
    from builder.stores.kinds.zarr import ZarrStore

    make_amplify(root / "amplify")
    make_sized(root / "sized", root / "amplify" / "tracks")
    for name, dtype, store in (
        ("f32", "f32", Hdf5Store),
        ("u16", "u16", Hdf5Store),
        ("zarr", "f32", ZarrStore),
    ):
        make_ours(root / name, root / "amplify", dtype, store)
    make_copies(root)
