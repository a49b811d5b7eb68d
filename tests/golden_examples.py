"""One or more records of every stored model, and the golden files made of them.

The files under ``golden/v1`` are format version 1.  They are never rewritten to suit new code:
code must go on reading them.  To add files for a new model or a new case, append to EXAMPLES
and run ``python tests/golden_examples.py``, which writes what is missing and touches nothing
else.  A change of the format gets a new FORMAT_VERSION and a new folder.

``golden/v1/schema`` holds the JSON Schema of every model, as ``letterset schema`` prints it.
After a compatible change (a new optional field, other words), delete the schema's file, run
this, and look at the difference before committing it.
"""

import json
from pathlib import Path

from builder.dataset.splits import Splits
from schemas import (
    AxisAffine,
    BuildConfig,
    DatasetMeta,
    EpisodeMeta,
    Letterbox,
    QuerySpec,
    Stretch,
    TrackerInfo,
    ViewMeta,
)
from schemas.base import Record
from schemas.dataset import FailureLine, IndexLine
from schemas.inference import ArrayStats, InferenceMeta
from schemas.layers import LayerEpisode, LayerMeta

FOLDER = Path(__file__).parent / "golden" / "v1"

SHA = "0123456789abcdef" * 4
RAW = {"dtype": "|u1", "shape": [132, 256, 300, 3], "sha256": SHA, "codec": "raw"}
TRACKS = {"dtype": "<f4", "shape": [132, 16, 225, 2], "sha256": SHA[::-1], "codec": "u16"}
MOTION = {"mean_px": 0.75, "max_px": 12.5, "zero_share": 0.5, "visible_share": 0.875}
COLOR = {"matrix": "bt709", "matrix_tagged": True, "full_range": False, "range_tagged": False}
BOX = Letterbox.fit((720, 1280), (256, 300))
UPRIGHT = ViewMeta(
    name="front", geometry=BOX, coded_shape=(720, 1280), arrays={"frames": RAW, "tracks": TRACKS}
)
TURNED = ViewMeta(
    name="wrist.left-1",
    geometry=Letterbox.fit((176, 144), (256, 300), (117, 128)),
    coded_shape=(144, 176),
    orientation="rot90",
    color=COLOR,
    codec="h264",
    fps=29.97,
    arrays={"tracks": TRACKS},
    motion=MOTION,
    notes=["an edit list hides 2 frames", "caf\u00e9"],
)
TRACKER = TrackerInfo(
    kind="dis",
    name="dense inverse search",
    version="opencv 5.0.0",
    licence="Apache-2.0",
    settings={"preset": "fast", "fb_threshold": 2.0, "nested": {"list": [1, None, "x", True]}},
    visibility={"rule": "seen both ways", "threshold": 2.0, "unit": "px", "sticky": True},
)
LEARNED = TrackerInfo(
    kind="cotracker",
    name="CoTracker 3",
    version="3",
    licence="CC-BY-NC-4.0",
    visibility={"rule": "the model says so", "sticky": False},
    weights_sha256=SHA,
    weights_url="https://example.com/weights.pth",
)
CONFIG = BuildConfig.model_validate(
    {"img_shape": [256, 300], "source": {"path": "videos"}, "store": {"path": "out"}}
)
FULL_CONFIG = BuildConfig.model_validate(
    {
        "img_shape": [477, 470],
        "source": {"kind": "video", "path": "videos", "frame_step": 2},
        "queries": {"grid": [3, 5], "region": "canvas", "order": "columns_fastest"},
        "tracker": {
            "horizon": 8,
            "start_every": 4,
            "mode": "episode",
            "input": {"short_side": 480},
        },
        "store": {
            "path": "out",
            "frames": {"codec": "jpeg", "quality": 90},
            "tracks": {"dtype": "u16"},
        },
        "executor": {"kind": "serial", "workers": 1},
        "limits": {"max_pixels": 1, "max_frames": 2, "stall_seconds": 3.5},
    }
)
DATASET = {
    "created_with": "0.1.0",
    "img_shape": (256, 300),
    "horizon": 16,
    "start_every": 1,
    "mode": "reinit",
    "queries": QuerySpec(grid=(15, 15)),
    "tracker": TRACKER,
    "config": CONFIG.content(),
}
EPISODE = {
    "id": "kitchen/open_drawer-1a2b3c4d",
    "source": {"kind": "video", "path": "kitchen/open drawer.mp4"},
    "length": 132,
    "horizon": 16,
    "views": (UPRIGHT,),
}
FULL_EPISODE = {
    **EPISODE,
    "source": {
        "kind": "video",
        "path": "odd%FF.mp4",
        "files": {"odd%FF.mp4": {"size": 1234567, "sha256": SHA}},
        "licence": "CC-BY-4.0",
    },
    "mode": "episode",
    "start_every": 4,
    "task": "open the drawer",
    "group": "kitchen",
    "text": "Please open the drawer.",
    "views": (UPRIGHT, TURNED),
    "arrays": {"actions": {"dtype": "<f8", "shape": [132, 7], "sha256": SHA}},
}

MASKED_EPISODE = {
    **EPISODE,
    "missing_views": ["wrist", "top"],
    "arrays": {
        "actions": {"dtype": "<f8", "shape": [132, 7], "sha256": SHA, "per_frame": True},
        "text_emb": {"dtype": "<f4", "shape": [132], "sha256": SHA, "per_frame": False},
    },
}

EXAMPLES: dict[str, Record] = {
    "Letterbox.wide": BOX,
    "Letterbox.sar": Letterbox.fit((144, 176), (256, 256), (128, 117)),
    "Letterbox.thin": Letterbox.fit((4000, 3), (256, 300)),
    "Stretch.plain": Stretch(source_shape=(480, 853), img_shape=(256, 128)),
    "AxisAffine.letterbox": BOX.affine,
    "AxisAffine.turn": AxisAffine.orient("rot90", (720, 1280)),
    "QuerySpec.default": QuerySpec(),
    "QuerySpec.canvas": QuerySpec(grid=(3, 5), region="canvas", order="columns_fastest"),
    "TrackerInfo.dis": TRACKER,
    "TrackerInfo.learned": LEARNED,
    "ViewMeta.minimal": UPRIGHT,
    "ViewMeta.full": TURNED,
    "EpisodeMeta.minimal": EpisodeMeta.seal(**EPISODE),
    "EpisodeMeta.full": EpisodeMeta.seal(**FULL_EPISODE),
    "EpisodeMeta.masked": EpisodeMeta.seal(**MASKED_EPISODE),
    "DatasetMeta.dis": DatasetMeta.seal(**DATASET),
    "BuildConfig.minimal": CONFIG,
    "BuildConfig.full": FULL_CONFIG,
    "IndexLine.two_views": IndexLine(id="a/b-1", length=9, views=["front", "wrist"], digest=SHA),
    "FailureLine.decode": FailureLine(
        id="a/b-2", path="a/b%FF.mp4", stage="decode", reason="ends after 3 of 9 frames"
    ),
    "LayerMeta.text": LayerMeta.seal(
        name="text_emb", created_with="0.1.0", base=SHA, made_by={"encoder": "my.t5:first_token"}
    ),
    "LayerMeta.tracks": LayerMeta.seal(
        name="lk8",
        created_with="0.1.0",
        base=SHA,
        tracks={
            "horizon": 8,
            "start_every": 2,
            "mode": "reinit",
            "queries": QuerySpec(grid=(3, 5)),
            "tracker": TRACKER,
            "frames": "stored",
        },
    ),
    "LayerEpisode.tracks": LayerEpisode.seal(
        id="kitchen/open_drawer-1a2b3c4d",
        base=SHA,
        arrays={"text_emb": {"dtype": "float32", "shape": [512], "sha256": SHA}},
        views=[{"name": "front", "arrays": {"tracks": TRACKS}}],
    ),
    "Splits.hand": Splits(splits={"held_out": ["kitchen/open_drawer-1a2b3c4d"]}),
    "Splits.task": Splits(
        by="task",
        shares={"train": 0.5, "val": 0.25},
        salt="2",
        splits={"train": ["a/b-1", "a/b-2"], "val": []},
    ),
    "InferenceMeta.turned": InferenceMeta.seal(
        img_shape=(256, 300),
        horizon=16,
        queries=QuerySpec(grid=(1, 2)),
        views=[
            {
                **{key: getattr(TURNED, key) for key in ("name", "geometry", "coded_shape", "fps")},
                "orientation": TURNED.orientation,
                "queries_rc": [[0.0, -0.5], [0.0, 0.5]],
            }
        ],
        stats={"actions": ArrayStats(count=9, mean=(0.5,), std=(1.5,), min=(-2.0,), max=(3.0,))},
    ),
}
MODELS = {name.partition(".")[0]: type(record) for name, record in EXAMPLES.items()}


def text_of(data: object) -> str:
    """Write JSON data for people to read and compare."""
    return json.dumps(data, indent=2, ensure_ascii=True) + "\n"


def main() -> None:
    """Write the golden files that are missing."""
    files = {f"{name}.json": record.model_dump(mode="json") for name, record in EXAMPLES.items()}
    files |= {f"schema/{name}.json": model.model_json_schema() for name, model in MODELS.items()}
    for name, data in files.items():
        path = FOLDER / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text_of(data), encoding="ascii")


if __name__ == "__main__":
    main()
