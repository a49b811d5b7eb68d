"""Small examples of DROID, Bridge, Something-Something v2 and ATM, written by code."""

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
from source_fixtures import SHAPE, pictures, write_images, write_video


def write_droid(root: Path, short_by: int = 1) -> Path:
    """Two episodes; the recordings are a frame short and claim another rate."""
    for name, steps in (("Fri_Jul__7_09:42:23_2023", 9), ("Fri_Jul__7_10:01:00_2023", 12)):
        folder = root / "AUTOLab" / "success" / "2023-07-07" / name
        for serial, shape in (("22008760", SHAPE), ("18026681", (24, 40)), ("24400334", SHAPE)):
            path = folder / "recordings" / "MP4" / f"{serial}.mp4"
            write_video(path, steps - short_by, shape, fps=60)
        write_video(folder / "recordings" / "MP4" / "22008760-stereo.mp4", 3, fps=60)
        described = {
            "uuid": f"AUTOLab+0d4edc83+{name}",
            "lab": "AUTOLab",
            "current_task": "Move object into container",
            "wrist_cam_serial": "18026681",
            "ext1_cam_serial": "22008760",
            "ext2_cam_serial": "24400334",
            "trajectory_length": steps,
        }
        (folder / f"metadata_AUTOLab+0d4edc83+{name}.json").write_text(json.dumps(described))
        with h5py.File(folder / "trajectory.h5", "w") as file:
            rng = np.random.default_rng(steps)
            for place, width in (
                ("action/cartesian_position", 6),
                ("action/joint_velocity", 7),
                ("observation/robot_state/joint_positions", 7),
                ("observation/camera_extrinsics/18026681_left", 6),
            ):
                file[place] = rng.normal(size=(steps, width))
            file["action/gripper_position"] = rng.uniform(size=steps)
            jitter = rng.integers(-2, 3, steps)
            start = 1_688_748_143_000 + np.arange(steps) * 67 + jitter
            file["observation/timestamp/control/step_start"] = start
            file["action/robot_state/joint_positions"] = rng.normal(size=(steps, 7))
    return root


def write_bridge(root: Path) -> Path:
    for name, length in (("traj0", 9), ("traj10", 7)):
        folder = root / "toykitchen1" / "00" / "raw" / "traj_group0" / name
        for camera in ("images0", "images1"):
            write_images(folder / camera, length, "im_{}.jpg")
        write_images(folder / "depth_images0", 2)
        (folder / "lang.txt").write_text("put the pot on the stove\nconfidence: 0.9\n")
        actions = [
            {"actions": np.full(7, float(t)), "policy_type": "Vive"} for t in range(length - 1)
        ]
        (folder / "policy_out.pkl").write_bytes(pickle.dumps(actions))
        observations = {
            "state": np.arange(length * 7.0).reshape(length, 7),
            "qpos": [np.zeros(6) for _ in range(length)],
            "env_done": np.zeros(length, bool),
            "high_bound": np.ones(5),
        }
        (folder / "obs_dict.pkl").write_bytes(pickle.dumps(observations))
    return root


def write_something(root: Path) -> Path:
    for number, length in ((78687, 9), (42326, 7), (100904, 5)):
        path = root / "20bn-something-something-v2" / f"{number}.webm"
        write_video(path, length, (24, 42), fps=12, codec="libvpx-vp9")
    for split, entries in {
        "train": [
            {
                "id": "78687",
                "label": "holding potato next to vicks vaporub bottle",
                "template": "Holding [something] next to [something]",
                "placeholders": ["potato", "vicks vaporub bottle"],
            }
        ],
        "validation": [
            {"id": "42326", "label": "closing a door", "template": "Closing [something]"}
        ],
        "test": [{"id": "100904"}],
    }.items():
        path = root / "labels" / f"something-something-v2-{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entries))
    return root


def write_atm(root: Path, embedding: int = 768) -> Path:
    for number, length in ((0, 9), (10, 6)):
        folder = root / "libero_goal" / "open_the_drawer_demo"
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        with h5py.File(folder / f"demo_{number}.hdf5", "w") as file:
            file["root/actions"] = rng.normal(size=(length, 7))
            file["root/task_emb_bert"] = rng.normal(size=embedding).astype(np.float32)
            file["root/extra_states/joint_states"] = rng.normal(size=(length, 7))
            for view in ("agentview", "eye_in_hand"):
                file[f"root/{view}/video"] = pictures(length).transpose(0, 3, 1, 2)[None]
                tracks = rng.uniform(0, 1, (1, length, 20, 2)).astype(np.float32)
                file[f"root/{view}/tracks"] = tracks
                file[f"root/{view}/vis"] = (rng.uniform(size=(1, length, 20)) > 0.3).astype("f4")
    (root / "env_meta.json").write_text("{}")
    return root
