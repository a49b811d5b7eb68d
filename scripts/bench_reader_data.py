"""The datasets that bench_reader reads: the same numbers in AMPLIFY's layout and in ours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

VIEWS, LENGTH, EPISODES, HORIZON, POINTS, SIDE = ("front", "wrist"), 200, 8, 16, 400, 128


def make_amplify(folder: Path) -> None:
    """Three files per episode, as the public code keeps them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(EPISODES):
        with h5py.File(folder / f"tracks_{index}.hdf5", "w") as tracks:
            for view in VIEWS:
                group = tracks.create_group(f"root/{view}")
                shape = (LENGTH, HORIZON, POINTS, 2)
                group["tracks"] = rng.uniform(0, SIDE, shape).astype(np.float32)
                group["vis"] = np.ones(shape[:-1], np.float32)
        with h5py.File(folder / f"demo_{index}.hdf5", "w") as demo:
            for view in VIEWS:
                shape = (LENGTH, SIDE, SIDE, 3)
                demo[f"data/demo_0/obs/{view}_rgb"] = rng.integers(0, 255, shape, np.uint8)
            demo["data/demo_0/actions"] = rng.normal(size=(LENGTH, 7))
        with h5py.File(folder / f"text_{index}.hdf5", "w") as text:
            text["text_emb"] = rng.normal(size=(768,)).astype(np.float32)


def make_ours(folder: Path, source: Path, dtype: str) -> None:
    """Write the same episodes through the store."""
    from builder.catalog import Catalog, index_line
    from builder.stores.base import ArraySpec
    from builder.stores.hdf5 import Hdf5Store
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
        queries=QuerySpec(),
        tracker=tracker,
        config={},
    )
    box = Letterbox.fit((SIDE, SIDE), (SIDE, SIDE))
    store = Hdf5Store(folder)
    with Catalog.create(folder, meta) as catalog:
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
            with store.begin(f"demo_{index}", layout) as writer:
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
        h5py.File(source / f"tracks_{index}.hdf5") as t,
        h5py.File(source / f"demo_{index}.hdf5") as d,
    ):
        for view in VIEWS:
            tracks = t[f"root/{view}/tracks"][:]
            out[view] = {
                "tracks": tracks,
                "vis": t[f"root/{view}/vis"][:].astype(np.uint8),
                "starts": np.arange(LENGTH),
                "queries": tracks[0, 0],
                "timestamps": np.arange(LENGTH) / 20,
                "frames": d[f"data/demo_0/obs/{view}_rgb"][:],
            }
        out[None] = {"actions": d["data/demo_0/actions"][:]}
    return out


def prepare(root: Path) -> None:
    make_amplify(root / "amplify")
    for dtype in ("f32", "u16"):
        make_ours(root / dtype, root / "amplify", dtype)
    legacy = root / "amplify" / "legacy" / "task_demo"
    legacy.mkdir(parents=True)
    for index in range(EPISODES):
        (legacy / f"demo_{index}.hdf5").hardlink_to(root / "amplify" / f"tracks_{index}.hdf5")
