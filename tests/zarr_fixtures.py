"""Replay buffers of diffusion_policy and UMI, written with zarr, format 2."""

import zipfile
from pathlib import Path

import numcodecs
import numpy as np
import zarr
from source_fixtures import SHAPE, pictures

ENDS = (9, 21, 28)


def write_pusht(root: Path) -> Path:
    """A folder: pictures as float32, chunks over several frames and episodes, Blosc."""
    group = zarr.open_group(root / "pusht.zarr", mode="w", zarr_format=2)
    blosc = numcodecs.Blosc(cname="zstd", clevel=5)
    rng = np.random.default_rng(0)
    for name, values, chunk in (
        ("img", pictures(ENDS[-1]).astype(np.float32), 5),
        ("state", rng.normal(size=(ENDS[-1], 5)).astype(np.float32), 11),
        ("action", rng.normal(size=(ENDS[-1], 2)).astype(np.float32), 11),
        ("keypoint", rng.normal(size=(ENDS[-1], 9, 2)).astype(np.float32), 11),
    ):
        array = group.require_group("data").create_array(
            name, shape=values.shape, chunks=(chunk, *values.shape[1:]), dtype=values.dtype,
            compressors=blosc,
        )  # fmt: skip
        array[:] = values
    meta = group.require_group("meta")
    ends = meta.create_array("episode_ends", shape=(3,), chunks=(3,), dtype="i8", compressors=None)
    ends[:] = ENDS
    return root


def write_umi(root: Path, codec: str = "zlib") -> Path:
    """A zip file beside a folder: two cameras, a frame a chunk."""
    folder = root / "unzipped"
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    data = group.require_group("data")
    compressors = {"zlib": numcodecs.Zlib(), "none": None}
    if codec == "jpegxl":
        from imagecodecs.numcodecs import register_codecs

        register_codecs(verbose=False)
        compressors["jpegxl"] = numcodecs.get_codec({"id": "imagecodecs_jpegxl", "level": 99})
    for camera in (0, 1):
        values = pictures(ENDS[-1], SHAPE if camera == 0 else (24, 40))
        array = data.create_array(
            f"camera{camera}_rgb", shape=values.shape, chunks=(1, *values.shape[1:]), dtype="u1",
            compressors=compressors[codec],
        )  # fmt: skip
        array[:] = values
    position = data.create_array(
        "robot0_eef_pos", shape=(ENDS[-1], 3), chunks=(ENDS[-1], 3), dtype="f4"
    )
    position[:] = np.arange(ENDS[-1] * 3.0).reshape(-1, 3)
    meta = group.require_group("meta")
    ends = meta.create_array("episode_ends", shape=(3,), chunks=(3,), dtype="i8")
    ends[:] = ENDS
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / "cup.zarr.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return root
