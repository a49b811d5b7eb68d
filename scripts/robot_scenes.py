"""Render scenes with a robot in which the motion of every point is known exactly, with MuJoCo.

    MUJOCO_GL=osmesa python scripts/robot_scenes.py OUT --kinds plain print --seeds 0 1 2

A scene is drawn at random from its kind and seed: a room, a table, an arm that reaches, carries
and pushes things, a fixed camera and one at the wrist.  Each camera gives OUT/KIND-SEED-CAMERA/
with ``clean.mkv`` (FFV1, without noise: who measures adds it) and ``truth.npz``, exact by casting
rays against the bodies themselves:

- ``queries_xy`` (N, 2): a grid of source pixels (corner (0, 0)), the same for every window;
- ``starts`` (S,), ``tracks_xy`` (S, horizon, N, 2), ``visible`` (S, horizon, N);
- ``known`` (S, N): whether the query shows a body at all; ``fixed``: whether the camera stands.

Needs ``mujoco`` (PyPI) and a software renderer (Debian: libosmesa6); nothing else here does.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "osmesa")

import av
import cv2
import mujoco
import numpy as np

TABLE = 0.7
"""Height of the table, in metres."""

HORIZON, GRID = 16, 20

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"table": "plain", "arm": "plain"},
    "print": {"table": "print", "arm": "print"},
    "mixed": {"table": "wood", "arm": "plain", "printed_things": True},
    "gloss": {"table": "check", "arm": "print", "gloss": True, "pace": 2.0, "blur": 2},
    "lamp": {"table": "plain", "arm": "print", "printed_things": True, "low_light": True},
    "belt": {"table": "plain", "arm": "plain", "printed_things": True, "belt": True},
    "walk": {"table": "wood", "arm": "plain", "printed_things": True, "walk": True},
}


# Pictures on surfaces


def texture(path: Path, rng: np.random.Generator, how: str, size: int = 512) -> None:
    """Write the picture of a surface: print, wood, check, or the faint clouds of a wall."""
    base = rng.uniform(80, 190, 3)
    rows, columns = np.indices((size, size)) / size
    if how == "check":
        count = int(rng.integers(8, 24))
        odd = (np.floor(rows * count) + np.floor(columns * count)) % 2
        picture = np.where(odd[..., None] == 1, base, rng.uniform(40, 230, 3))
        picture += noise(rng, size, size // 4, 6)
    elif how == "wood":
        waves = noise(rng, size, 5, 1.2)[..., :1] + 40 * rows[..., None]
        picture = base * (0.75 + 0.12 * np.sin(waves)) + noise(rng, size, 90, 5)
    elif how == "print":
        cells = np.array([5, 12, 33, 100]) * rng.uniform(0.7, 1.4)
        picture = base + sum(
            noise(rng, size, int(c), w) for c, w in zip(cells, (40, 32, 26, 18), strict=True)
        )
    else:
        picture = base.mean() + 50 + noise(rng, size, 4, 5)
    cv2.imwrite(str(path), np.clip(picture, 0, 255).astype(np.uint8))


def noise(rng: np.random.Generator, size: int, cells: int, weight: float) -> np.ndarray:
    """Return smooth noise (size, size, 3) of ``cells`` cells a side, grey levels."""
    coarse = rng.normal(0, weight, (cells, cells, 1)) + rng.normal(0, weight / 2, (cells, cells, 3))
    return cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)


# The model


@dataclass
class Things:
    """XML of materials and of free things; each look is made once."""

    folder: Path
    rng: np.random.Generator
    assets: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)

    def look(self, how: str, gloss: bool = False) -> str:
        """Return the attribute that gives a geom its look."""
        name = f"look{len(self.assets)}"
        shine = 'specular=".8" shininess=".7" reflectance=".25"' if gloss else 'specular=".1"'
        if how == "plain":
            colour = self.rng.uniform(0.15, 0.95, 3)
            if self.rng.random() < 0.5:
                colour[:] = colour.mean()
            rgba = " ".join(f"{each:.2f}" for each in colour)
            self.assets.append(f'<material name="{name}" rgba="{rgba} 1" {shine}/>')
        else:
            path = self.folder / f"{name}.png"
            texture(path, self.rng, how)
            self.assets.append(
                f'<texture name="{name}" type="cube" file="{path}"/>'
                f'<material name="{name}" texture="{name}" {shine}/>'
            )
        return f'material="{name}"'

    def add(self, name: str, look: str) -> float:
        """Add a thing of a random form; returns how far its centre lies above its foot."""
        x, y, z = self.rng.uniform(0.02, 0.045, 3)
        form = self.rng.choice(["box", "cylinder", "sphere", "ellipsoid"])
        size = {"box": f"{x} {y} {z}", "cylinder": f"{x} {z}", "sphere": f"{z}"}
        text = size.get(form, f"{x} {y} {z}")
        self.bodies.append(
            f'<body name="{name}" mocap="true"><geom type="{form}" size="{text}" {look}/></body>'
        )
        return float(z)


def facing(eye: np.ndarray, target: np.ndarray) -> str:
    """Return the attributes of a camera at ``eye`` that looks at ``target``, upright."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross((0, 0, 1), back)
    right /= np.linalg.norm(right)
    axes = " ".join(f"{each:.5f}" for each in (*right, *np.cross(back, right)))
    return f'pos="{eye[0]:.3f} {eye[1]:.3f} {eye[2]:.3f}" xyaxes="{axes}"'


def room(kind: dict[str, Any], things: Things) -> str:
    """Return the MJCF of a scene, with ``things`` already in it."""
    rng = things.rng
    wall = things.look("plain" if rng.random() < 0.5 else "wall")
    table = things.look(kind["table"], bool(kind.get("gloss")))
    link = [things.look(kind["arm"]) for _ in range(4)]
    angle, away = rng.uniform(-0.9, 0.9), rng.uniform(0.75, 1.3)
    eye = np.array([away * np.cos(angle), away * np.sin(angle), TABLE + rng.uniform(0.3, 0.8)])
    camera = facing(eye, np.array([-0.08, rng.uniform(-0.08, 0.08), TABLE + 0.12]))
    lamp = rng.uniform((0.2, -1.0, 1.6 if kind.get("low_light") else 2.3), (0.8, 1.0, 2.6))
    beam = np.array([0, 0, TABLE]) - lamp
    upper, lower, thick = rng.uniform((0.28, 0.26, 0.8), (0.36, 0.33, 1.25))
    return f"""
<mujoco><compiler angle="radian"/>
<visual><quality shadowsize="2048" offsamples="4"/><map znear="0.02" zfar="12"/>
<headlight ambient=".35 .35 .35" diffuse=".25 .25 .25"/></visual>
<statistic extent="1" center="0 0 .7"/>
<asset>{"".join(things.assets)}<material name="rubber" rgba=".15 .15 .16 1"/></asset>
<default><geom group="1" contype="0" conaffinity="0"/></default>
<worldbody>
<light pos="{" ".join(map(str, lamp))}" dir="{" ".join(map(str, beam))}" diffuse=".6 .6 .6"/>
<light pos="-1 1 2" dir=".5 -.5 -1" diffuse=".2 .2 .2" castshadow="false"/>
<geom type="box" pos="0 0 -.05" size="3 3 .05" {wall}/>
<geom type="box" pos="-1.6 0 1.5" size=".05 3 1.6" {wall}/>
<geom type="box" pos="3 0 1.5" size=".05 3 1.6" {wall}/>
<geom type="box" pos="0 3 1.5" size="3 .05 1.6" {wall}/>
<geom type="box" pos="0 -3 1.5" size="3 .05 1.6" {wall}/>
<geom type="box" pos="0 0 {TABLE - 0.02}" size=".6 .8 .02" {table}/>
<body name="agent" mocap="true"><camera name="agent" fovy="{rng.uniform(40, 55)}" {camera}/></body>
<body pos="-.45 0 {TABLE}"><geom type="cylinder" size=".07 .05" pos="0 0 .05" {link[0]}/>
<body pos="0 0 .1"><joint name="j1" axis="0 0 1" range="-2.8 2.8"/>
<geom type="cylinder" size="{0.055 * thick} .09" pos="0 0 .08" {link[1]}/>
<body pos="0 0 .18"><joint name="j2" axis="0 1 0" range="-1.7 1.7"/>
<geom type="box" size="{0.045 * thick} {0.04 * thick} {upper / 2}" pos="0 0 {upper / 2}" {link[2]}/>
<body pos="0 0 {upper}"><joint name="j3" axis="0 1 0" range="-.2 2.8"/>
<geom type="cylinder" size=".04 .05" quat=".7071 .7071 0 0" {link[0]}/>
<geom type="{rng.choice(["box", "ellipsoid"])}" pos="0 0 {lower / 2}"
 size="{0.035 * thick} {0.035 * thick} {lower / 2}" {link[3]}/>
<body pos="0 0 {lower}"><joint name="j4" axis="0 0 1" range="-2.9 2.9"/>
<joint name="j5" axis="0 1 0" range="-2.2 2.2"/>
<geom type="cylinder" size=".035 .045" quat=".7071 .7071 0 0" {link[1]}/>
<body name="hand" pos="0 0 .07"><joint name="j6" axis="0 0 1" range="-6 6"/>
<geom type="box" size=".03 .06 .025" pos="0 0 .02" {link[2]}/>
<camera name="wrist" pos="{rng.uniform(0.07, 0.1)} {rng.uniform(-0.02, 0.02)} -.03"
 xyaxes="0 -1 0 -1 0 -{rng.uniform(0.2, 0.4)}" fovy="{rng.uniform(60, 80)}"/>
<body pos="0 0 .045"><joint name="left" type="slide" axis="0 1 0"/>
<geom type="box" size=".012 .006 .04" pos="0 .008 .035" material="rubber"/></body>
<body pos="0 0 .045"><joint name="right" type="slide" axis="0 -1 0"/>
<geom type="box" size=".012 .006 .04" pos="0 -.008 .035" material="rubber"/></body>
<site name="tip" pos="0 0 .11"/>
</body></body></body></body></body></body>
{"".join(things.bodies)}
</worldbody></mujoco>"""


# What happens


def smooth(share: float) -> float:
    """Return how far along a motion of minimum jerk is, of the share of its time."""
    s = float(np.clip(share, 0, 1))
    return s * s * s * (10 - 15 * s + 6 * s * s)


class Play:
    """Moves a scene to any time: an arm visits places, and takes things along or pushes them."""

    def __init__(self, model: Any, kind: dict[str, Any], rng: Any, feet: list[float]) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self.kind, self.feet = kind, feet
        self.joints = [model.joint(f"j{i}").dofadr[0] for i in range(1, 7)]
        self.limits = np.array([model.joint(f"j{i}").range for i in range(1, 7)])
        self.fingers = [model.joint(name).qposadr[0] for name in ("left", "right")]
        self.tip = model.site("tip").id
        self.places = rng.uniform((-0.1, -0.32), (0.3, 0.32), (len(feet), 2))
        self.yaws = rng.uniform(-1.5, 1.5, len(feet))
        self.flow = rng.uniform(-0.12, 0.12, 2) if kind.get("belt") else np.zeros(2)
        self.sway = rng.uniform(0.03, 0.12, 3) if kind.get("walk") else np.zeros(3)
        self.legs = list(self._legs(rng))
        self.data.qpos[self.joints] = (0, -0.3, 1.6, 0, 1.8, 0)
        for _ in range(3):
            self._reach(*self._hand(0.0)[:2], 400)

    def _legs(self, rng: Any) -> Iterator[tuple[float, float, np.ndarray, float, float, int]]:
        """Yield (begin, end, place, yaw, opening, thing held or -1): carry one, then another."""
        pace, now = self.kind.get("pace", 1.0), 0.0
        above = np.array([rng.uniform(-0.05, 0.1), 0, TABLE + 0.3])
        yield 0.0, 0.0, above, 0.0, 1.0, -1
        for thing in rng.permutation(len(self.feet))[:2]:
            from_xy, to_xy = self.places[thing], rng.uniform((-0.05, -0.25), (0.25, 0.25))
            yaw, turned = rng.uniform(-0.8, 0.8, 2)
            low, high = TABLE + self.feet[thing] + 0.02, TABLE + rng.uniform(0.12, 0.25)
            stops = [
                ((*from_xy, high), yaw, 1.0, -1, 1.0), ((*from_xy, low), yaw, 1.0, -1, 0.7),
                ((*from_xy, low), yaw, 0.1, -1, 0.3), ((*from_xy, high), yaw, 0.1, thing, 0.7),
                ((*to_xy, high), turned, 0.1, thing, 1.2), ((*to_xy, low), turned, 0.1, thing, 0.7),
                ((*to_xy, low), turned, 1.0, -1, 0.3), ((*to_xy, high), turned, 1.0, -1, 0.6),
            ]  # fmt: skip
            for place, angle, opening, held, seconds in stops:
                then = now + seconds * rng.uniform(0.7, 1.3) / pace
                yield now, then, np.array(place), angle, opening, held
                now = then

    def _hand(self, seconds: float) -> tuple[np.ndarray, float, float, int]:
        before = self.legs[0]
        for leg in self.legs[1:]:
            if seconds < leg[1]:
                break
            before = leg
        else:
            return (*before[2:5], -1)
        share = smooth((seconds - leg[0]) / (leg[1] - leg[0]))
        ends: Any = zip(before[2:5], leg[2:5], strict=True)
        place, yaw, opening = (a + (b - a) * share for a, b in ends)
        return place, yaw, opening, leg[5]

    def _reach(self, place: np.ndarray, yaw: float, iterations: int = 60) -> None:
        """Turn the joints until the tip is at ``place``, pointing down (damped least squares)."""
        c, s = np.cos(yaw), np.sin(yaw)
        wanted = np.array([[c, s, 0], [s, -c, 0], [0, 0, -1.0]])
        jacobian, quat, turn = np.zeros((6, self.model.nv)), np.empty(4), np.empty(3)
        for _ in range(iterations):
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            now = self.data.site_xmat[self.tip].reshape(3, 3)
            mujoco.mju_mat2Quat(quat, (wanted @ now.T).flatten())
            mujoco.mju_quat2Vel(turn, quat, 1.0)
            error = np.concatenate([place - self.data.site_xpos[self.tip], turn])
            if np.abs(error).max() < 1e-3:
                break
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self.tip)
            own = jacobian[:, self.joints]
            limited = np.clip(error, -0.3, 0.3)
            step = own.T @ np.linalg.solve(own @ own.T + 1e-4 * np.eye(6), limited)
            angles = self.data.qpos[self.joints] + np.clip(step, -0.2, 0.2)
            self.data.qpos[self.joints] = np.clip(angles, *self.limits.T)

    def to(self, seconds: float) -> Any:
        """Move everything to a time, in order; returns the state (MjData)."""
        place, yaw, opening, held = self._hand(seconds)
        self._reach(place, yaw)
        self.data.qpos[self.fingers] = 0.018 + 0.027 * opening
        angle = 2 * np.pi * seconds / 3
        swing = self.sway * (np.sin(angle), 1 - np.cos(angle), np.sin(angle / 2))
        self.data.mocap_pos[0], self.data.mocap_quat[0] = swing, (1, 0, 0, 0)
        if held >= 0:
            self.places[held] = place[:2] - self.flow * seconds
            self.yaws[held] = yaw
        for number, foot in enumerate(self.feet):
            xy, up = self.places[number] + self.flow * seconds, TABLE + foot
            up = max(up, place[2] - 0.02) if number == held else up
            self.data.mocap_pos[1 + number] = (*xy, up)
            half = self.yaws[number] / 2
            self.data.mocap_quat[1 + number] = (np.cos(half), 0, 0, np.sin(half))
        mujoco.mj_forward(self.model, self.data)
        return self.data


# Pictures and truth


@dataclass
class Camera:
    """One camera: its pictures, and what its truth needs of every frame."""

    model: Any
    number: int
    shape: tuple[int, int]
    states: list[Any] = field(default_factory=list)

    @property
    def focal(self) -> float:
        """In pixels."""
        return self.shape[0] / 2 / np.tan(np.deg2rad(self.model.cam_fovy[self.number]) / 2)

    def pose(self, state: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return where it is (3,) and its axes (3, 3): right, up, back."""
        return state.cam_xpos[self.number], state.cam_xmat[self.number].reshape(3, 3)

    def cast(self, state: Any, points_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the geom (N,) that each pixel shows, -1 for none, its place (N, 3) and depth."""
        eye, axes = self.pose(state)
        centred = (points_xy - np.array(self.shape[::-1]) / 2) / self.focal
        rays = np.column_stack([centred[:, 0], -centred[:, 1], -np.ones(len(centred))]) @ axes.T
        geoms, distances = np.empty(len(rays), np.int32), np.empty(len(rays))
        groups = np.array([0, 1, 0, 0, 0, 0], np.uint8)
        for i, ray in enumerate(rays):
            one = geoms[i : i + 1]
            distances[i] = mujoco.mj_ray(self.model, state, eye, ray, groups, 1, -1, one)
        return geoms, eye + rays * distances[:, None], distances

    def see(self, state: Any, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pixels (N, 2) of places (N, 3), their depths and whether they show."""
        eye, axes = self.pose(state)
        local = (places - eye) @ axes
        depth = np.maximum(-local[:, 2], 1e-3)
        middle = np.array(self.shape[::-1]) / 2
        points_xy = middle + self.focal * local[:, :2] * (1, -1) / depth[:, None]
        inside = (points_xy >= 0).all(1) & (points_xy <= self.shape[::-1]).all(1)
        inside &= -local[:, 2] > 0.01
        _, _, hit = self.cast(state, points_xy)
        return points_xy, depth, inside & (np.abs(hit - depth) < 0.004 + 0.005 * depth)

    def truth(self, every: int) -> dict[str, Any]:
        """Return the arrays of ``truth.npz``."""
        count, (height, width) = len(self.states), self.shape
        y, x = ((np.arange(GRID) + 0.5) / GRID * side for side in (height, width))
        queries = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        starts = np.arange(0, max(1, count - HORIZON + 1), every)
        tracks = np.empty((len(starts), HORIZON, len(queries), 2), np.float32)
        visible = np.zeros(tracks.shape[:3], bool)
        known = np.zeros((len(starts), len(queries)), bool)
        for index, start in enumerate(starts.tolist()):
            first = self.states[start]
            geoms, places, _ = self.cast(first, queries)
            known[index] = geoms >= 0
            axes = first.geom_xmat[geoms].reshape(-1, 3, 3)
            own = np.einsum("nji,nj->ni", axes, places - first.geom_xpos[geoms])
            for step in range(HORIZON):
                state = self.states[min(start + step, count - 1)]
                axes = state.geom_xmat[geoms].reshape(-1, 3, 3)
                now = np.einsum("nij,nj->ni", axes, own) + state.geom_xpos[geoms]
                tracks[index, step], _, visible[index, step] = self.see(state, now)
            visible[index, 0] = True
        eyes = np.array([self.pose(state)[0] for state in self.states])
        return {
            "queries_xy": queries.astype(np.float32), "starts": starts, "tracks_xy": tracks,
            "visible": visible & known[:, None], "known": known,
            "fixed": np.array(np.ptp(eyes, axis=0).max() < 1e-6), "shape": np.array(self.shape),
        }  # fmt: skip


def render(out: Path, name: str, seed: int, shape: tuple[int, int], count: int, fps: int) -> None:
    """Draw one scene by every camera."""
    kind, rng = KINDS[name], np.random.default_rng([seed, *name.encode()])
    folder = out / "textures" / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    things, feet = Things(folder, rng), []
    for number in range(int(rng.integers(3, 7))):
        look = things.look("print" if kind.get("printed_things") or rng.random() < 0.5 else "plain")
        feet.append(things.add(f"thing{number}", look))
    model = mujoco.MjModel.from_xml_string(room(kind, things))
    model.vis.global_.offheight, model.vis.global_.offwidth = shape
    play = Play(model, kind, rng, feet)
    renderer, option = mujoco.Renderer(model, *shape), mujoco.MjvOption()
    option.geomgroup[:] = (0, 1, 0, 0, 0, 0)
    option.sitegroup[:] = 0
    cameras = {each: Camera(model, model.camera(each).id, shape) for each in ("agent", "wrist")}
    films = {
        each: film(out / f"{name}-{seed}-{each}" / "clean.mkv", shape, fps) for each in cameras
    }
    exposures = int(kind.get("blur", 1))
    moments = ((np.arange(exposures) + 0.5) / exposures - 0.5) / 2
    skipped = float(rng.uniform(0, 4))
    for seconds in np.arange(0, skipped, 0.1):  # what is held on the way is taken along
        play.to(seconds)
    for index in range(count):
        sums: dict[str, Any] = dict.fromkeys(cameras, 0.0)
        for moment in moments:
            state = play.to(skipped + (index + moment) / fps)
            for each, camera in cameras.items():
                renderer.update_scene(state, camera.number, option)
                sums[each] = sums[each] + renderer.render().astype(np.float32) / exposures
        state = play.to(skipped + index / fps)
        for each, camera in cameras.items():
            films[each](np.rint(sums[each]).astype(np.uint8))
            kept = mujoco.MjData(model)
            mujoco.mj_copyData(kept, model, state)
            camera.states.append(kept)
    renderer.close()
    for each, camera in cameras.items():
        films[each](None)
        np.savez_compressed(out / f"{name}-{seed}-{each}" / "truth.npz", **camera.truth(4))


def film(path: Path, shape: tuple[int, int], fps: int) -> Callable[[np.ndarray | None], None]:
    """Open a lossless video; returns what writes a frame (H, W, 3) RGB, and None to end it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    container = av.open(str(path), "w")
    stream = container.add_stream("ffv1", rate=fps)
    stream.height, stream.width, stream.pix_fmt = *shape, "bgr0"

    def write(picture: np.ndarray | None) -> None:
        frame = None if picture is None else av.VideoFrame.from_ndarray(picture, "rgb24")
        container.mux(stream.encode(frame))
        if picture is None:
            container.close()

    return write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--shape", nargs=2, type=int, default=(480, 640), help="height, width")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--fps", type=int, default=20)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for name in arguments.kinds:
            begun = time.monotonic()
            shape = (arguments.shape[0], arguments.shape[1])
            render(arguments.out, name, seed, shape, arguments.frames, arguments.fps)
            print(f"{name}-{seed}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
