"""Small episodes in the layouts people have, written by code, faithful to the public ones.

Every frame says which one it is: :func:`picture` puts red at the top left of an upright picture
and the frame's number, as a gray level, into its middle.  All shapes are (H, W), none square.
"""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path

import av
import cv2
import h5py
import numpy as np

SHAPE = (36, 48)
_CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".avi": "avi", ".webm": "webm"}


def picture(index: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Upright picture (H, W, 3) uint8 RGB of frame ``index``; its number is told up to 49."""
    height, width = shape
    image = np.full((height, width, 3), 60, np.uint8)
    image[: height // 2, : width // 2] = (240, 20, 20)
    image[height // 4 : height - height // 4, width // 4 : width - width // 4] = 5 * (index % 50)
    return image


def pictures(count: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.stack([picture(index, shape) for index in range(count)])


def number_of(image: np.ndarray) -> int:
    """Which frame a picture (H, W, 3) shows, whatever way up; right after lossy coding too."""
    height, width = image.shape[:2]
    middle = image[height // 3 : height - height // 3, width // 3 : width - width // 3]
    return round(float(np.median(middle)) / 5)


def is_upright(image: np.ndarray) -> bool:
    height, width = image.shape[0] // 4, image.shape[1] // 4
    redness = image[..., 0].astype(int) - image[..., 1]
    rest = [redness[:height, -width:], redness[-height:, :width], redness[-height:, -width:]]
    return redness[:height, :width].mean() > 100 > 50 > max(corner.mean() for corner in rest)


def rgb(frame) -> np.ndarray:
    """Pixels of a frame as a source yields them, (H, W, 3) uint8, not yet upright."""
    image = frame.image
    return image if isinstance(image, np.ndarray) else image.to_ndarray(format="rgb24")


def numbers(stream) -> list[int]:
    return [number_of(rgb(frame)) for frame in stream]


def episodes(source):
    """Open every episode of a source, one after another; yields (ref, episode)."""
    for ref in source.refs():
        with source.open(ref) as episode:
            yield ref, episode


def write_video(
    path: Path,
    count: int = 12,
    shape: tuple[int, int] = SHAPE,
    fps: int = 10,
    first: int = 0,
    codec: str = "libx264",
    gop: int = 4,
) -> Path:
    """Write frames ``first`` ... ``first + count - 1``, no B-frames, a keyframe every ``gop``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"file:{path}", "w", format=_CONTAINERS[path.suffix]) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = shape
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.codec_context.options = {"crf": "6"}
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = 0
        stream.codec_context.time_base = Fraction(1, fps)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(first + index, shape), format="rgb24")
            frame.pts = index
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_videos(root: Path) -> Path:
    """Videos in folders, of several containers and sizes."""
    write_video(root / "kitchen" / "take 2.mp4", 9)
    write_video(root / "kitchen" / "take 10.mkv", 7, (48, 36))
    write_video(root / "b.avi", 5, codec="mpeg4")
    return root


def write_images(folder: Path, count: int = 12, pattern: str = "im_{}.png", shape=SHAPE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        bgr = cv2.cvtColor(picture(index, shape), cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / pattern.format(index)), bgr)
    return folder


def write_episode_folders(root: Path) -> Path:
    """Two episodes of two views that differ in size, aspect and container."""
    for number, length in ((2, 9), (10, 7)):
        folder = root / "kitchen" / f"episode_{number}"
        write_video(folder / "front.mp4", length)
        write_video(folder / "wrist cam.mkv", length, (48, 36))
        np.save(folder / "actions.npy", np.arange(length * 7.0).reshape(length, 7))
        (folder / "text.txt").write_text("open the drawer\n", encoding="utf-8")
    return root


def write_image_folders(root: Path) -> Path:
    """One folder of images per view; numbers without leading zeros."""
    for episode, pattern in (("e1", "{}.png"), ("e2", "im_{}.jpg")):
        for view, shape in (("front", SHAPE), ("wrist", (24, 40))):
            write_images(root / episode / view, 12, pattern, shape)
        np.save(root / episode / "actions.npy", np.arange(12, dtype=">f4"))
    return root


def _demo(data: h5py.Group, name: str, length: int, images: dict[str, np.ndarray], **options):
    rng = np.random.default_rng(length)
    demo = data.create_group(name)
    demo.attrs["num_samples"] = length
    demo.create_dataset("actions", data=rng.normal(size=(length, 7)))
    demo.create_dataset("states", data=rng.normal(size=(length, 11)))
    demo.create_dataset("rewards", data=np.eye(1, length, length - 1, dtype=np.uint8)[0])
    demo.create_dataset("dones", data=np.eye(1, length, length - 1, dtype=np.uint8)[0])
    obs = demo.create_group("obs")
    for key, stack in images.items():
        obs.create_dataset(key, data=stack, **options)
    return demo, obs


def write_libero(root: Path, lengths: tuple[int, ...] = (9, 12, 7)) -> Path:
    """Two files of a suite; pictures upside-down, as LIBERO stores them; no compression."""
    for task in ("KITCHEN_SCENE3_turn_on_the_stove", "pick_up_the_black_bowl"):
        path = root / "libero_90" / f"{task}_demo.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            data = file.create_group("data")
            data.attrs["env_name"] = "Libero_Kitchen_Tabletop_Manipulation"
            kwargs = {"camera_names": ["agentview", "robot0_eye_in_hand"], "control_freq": 20}
            data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": kwargs})
            data.attrs["problem_info"] = json.dumps({"language_instruction": task})
            data.attrs["num_demos"], data.attrs["total"] = len(lengths), sum(lengths)
            # 0, 1, 10: natural order is not the order of HDF5.
            for number, length in zip((0, 1, 10), lengths, strict=False):
                upside_down = pictures(length)[:, ::-1]
                images = {"agentview_rgb": upside_down, "eye_in_hand_rgb": upside_down}
                demo, obs = _demo(data, f"demo_{number}", length, images)
                demo.create_dataset("robot_states", data=np.zeros((length, 9)))
                for name, width in (
                    ("ee_pos", 3), ("ee_ori", 3), ("ee_states", 6),
                    ("gripper_states", 2), ("joint_states", 7),
                ):  # fmt: skip
                    obs.create_dataset(name, data=np.full((length, width), number, np.float64))
    return root


def write_robomimic(root: Path, lengths: tuple[int, ...] = (9, 12, 7)) -> Path:
    """One file: upright pictures, depth, ``next_obs``, gzip, and masks."""
    path = root / "lift" / "ph" / "image.hdf5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "env_kwargs": {"control_freq": 10}}
        )
        data.attrs["total"] = sum(lengths)
        for number, length in enumerate(lengths):
            images = {"agentview_image": pictures(length)}
            demo, obs = _demo(data, f"demo_{number}", length, images, compression="gzip")
            depth = np.linspace(0.1, 2, length * SHAPE[0] * SHAPE[1], dtype=np.float32)
            obs.create_dataset("agentview_depth", data=depth.reshape(length, *SHAPE, 1))
            obs.create_dataset("robot0_eef_pos", data=np.zeros((length, 3)))
            demo.create_group("next_obs").create_dataset("agentview_image", data=pictures(length))
        for split, demos in (("train", [b"demo_0", b"demo_2"]), ("valid", [b"demo_1"])):
            file.create_dataset(f"mask/{split}", data=np.array(demos, "S8"))
    return root


def write_tapvid(root: Path) -> Path:
    """A dict of arrays, as DAVIS comes, and a list of JPEG frames, as Kinetics comes."""
    rng = np.random.default_rng(0)

    def sample(video, count):
        points = rng.uniform(0, 1, (5, count, 2)).astype(np.float32)
        return {"video": video, "points": points, "occluded": rng.uniform(size=(5, count)) < 0.3}

    davis = {name: sample(pictures(count), count) for name, count in (("cow", 9), ("dog", 6))}
    (root / "tapvid_davis.pkl").write_bytes(pickle.dumps(davis))
    jpegs = [cv2.imencode(".jpg", picture(k)[..., ::-1])[1].tobytes() for k in range(7)]
    (root / "kinetics.pkl").write_bytes(pickle.dumps([sample(jpegs, 7)]))
    return root
