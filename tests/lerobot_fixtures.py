"""LeRobot datasets of versions 3.0 and 2.1, written with pyarrow and PyAV alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from source_fixtures import SHAPE, write_video

FPS = 10
LENGTHS = (12, 14, 10, 11)
TASKS = ("push the block", "pick up the cup")
CAMERAS = {"observation.images.top": SHAPE, "observation.images.wrist": (48, 32)}


def _features(names=("height", "width", "channels")):
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
    }
    for key, (height, width) in CAMERAS.items():
        sizes = {"height": height, "width": width, "channels": 3}
        features[key] = {
            "dtype": "video",
            "shape": [sizes[name] for name in names],
            "names": list(names),
            "info": {"video.fps": FPS, "video.codec": "h264", "has_audio": False},
        }
    for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        dtype = "float32" if key == "timestamp" else "int64"
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    return features


def _info(version, data_path, video_path, **more):
    return {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": "0:3", "test": "3:4"},
        "data_path": data_path,
        "video_path": video_path,
        "features": _features(),
        **more,
    }


def table(episode: int) -> pa.Table:
    length, first = LENGTHS[episode], sum(LENGTHS[:episode])
    rng = np.random.default_rng(episode)
    steps = np.arange(length)
    smooth = np.cumsum(rng.normal(size=(length, 5)), axis=0).astype(np.float32)
    return pa.table(
        {
            "observation.state": pa.FixedSizeListArray.from_arrays(smooth[:, :3].ravel(), 3),
            "action": pa.FixedSizeListArray.from_arrays(smooth[:, 3:].ravel(), 2),
            "next.reward": smooth[:, 0],
            "next.done": steps == length - 1,
            "timestamp": (steps / FPS).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, episode),
            "index": first + steps,
            "task_index": np.full(length, episode % 2),
        }
    )


def _stats(tables):
    stats = {}
    for key in ("observation.state", "action"):
        values = np.concatenate([np.stack(t[key].to_pylist()) for t in tables]).astype(float)
        quantiles = {f"q{q:02d}": np.quantile(values, q / 100, axis=0) for q in (1, 10, 50, 90, 99)}
        found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0)}
        found |= {"std": values.std(0), "count": np.array([len(values)]), **quantiles}
        stats[key] = {name: value.tolist() for name, value in found.items()}
    return stats


def write_v3(root: Path) -> Path:
    """Two data files; the top camera in two video files, the wrist camera in one."""
    template = "{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    info = _info(
        "v3.0",
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        f"videos/{template}",
        data_files_size_in_mb=100,
        video_files_size_in_mb=200,
    )
    groups = {
        "observation.images.top": [(0, 1), (2, 3)],
        "observation.images.wrist": [(0, 1, 2, 3)],
    }
    rows = [
        {
            "episode_index": e,
            "tasks": [TASKS[e % 2]],
            "length": LENGTHS[e],
            "data/chunk_index": 0,
            "data/file_index": e // 2,
            "dataset_from_index": sum(LENGTHS[:e]),
            "dataset_to_index": sum(LENGTHS[: e + 1]),
            "stats/action/mean": [0.0, 0.0],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for e in range(len(LENGTHS))
    ]
    for key, files in groups.items():
        for number, members in enumerate(files):
            # One after another in one file; frame numbers go on across episodes.
            total = sum(LENGTHS[e] for e in members)
            name = template.format(video_key=key, chunk_index=0, file_index=number)
            first = sum(LENGTHS[: members[0]])
            write_video(root / "videos" / name, total, CAMERAS[key], FPS, first)
            for e in members:
                start = sum(LENGTHS[members[0] : e])
                rows[e] |= {
                    f"videos/{key}/chunk_index": 0,
                    f"videos/{key}/file_index": number,
                    f"videos/{key}/from_timestamp": start / FPS,
                    f"videos/{key}/to_timestamp": (start + LENGTHS[e]) / FPS,
                }
    tables = [table(e) for e in range(len(LENGTHS))]
    for number in (0, 1):
        path = root / info["data_path"].format(chunk_index=0, file_index=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(tables[2 * number : 2 * number + 2]), path)
    episodes = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    episodes.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), episodes)
    tasks = pa.table({"task_index": [0, 1], "task": list(TASKS)})
    pq.write_table(tasks, root / "meta" / "tasks.parquet")
    (root / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    (root / "meta" / "stats.json").write_text(json.dumps(_stats(tables), indent=4))
    (root / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- LeRobot\n---\n# Test\n")
    return root


def write_v21(root: Path) -> Path:
    """One data file and one video file per episode and camera; metadata in JSON lines."""
    info = _info(
        "v2.1",
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        total_chunks=1,
        total_videos=len(LENGTHS) * len(CAMERAS),
    )
    episodes = []
    for e, length in enumerate(LENGTHS):
        first = sum(LENGTHS[:e])
        places = {"episode_chunk": 0, "episode_index": e}
        path = root / info["data_path"].format(**places)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(e), path)
        for key, shape in CAMERAS.items():
            name = info["video_path"].format(**places, video_key=key)
            write_video(root / name, length, shape, FPS, first)
        episodes.append({"episode_index": e, "tasks": [TASKS[e % 2]], "length": length})
    stats = [{"episode_index": e, "stats": _stats([table(e)])} for e in range(len(LENGTHS))]
    tasks = [{"task_index": k, "task": task} for k, task in enumerate(TASKS)]
    (root / "meta").mkdir()
    for name, lines in (("episodes", episodes), ("tasks", tasks), ("episodes_stats", stats)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / "meta" / f"{name}.jsonl").write_text(text)
    (root / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    return root
