"""Synthetic video with known motion: textures moved by smooth warps, and moving occluders.

Every layer maps frame pixels to its texture by a map that is smooth in space and time, so the
true track of a point is that map, inverted at every frame: exact to 1e-4 px, occlusion known.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Layer:
    """One moving texture; ``radii`` None fills the frame, else it is an ellipse of that size.

    Points are (..., 2) continuous (x, y) pixels.
    """

    texture: np.ndarray
    centre: np.ndarray  # (2,) frame px about which it turns and, for an ellipse, lies
    path: np.ndarray  # (T, 2) px: where it has moved to
    angle: np.ndarray  # (T,) rad
    zoom: np.ndarray  # (T,)
    waves: np.ndarray  # (K, 6): wave vector x y (rad/px), amplitude x y (px), phase, rad per frame
    radii: np.ndarray | None = None  # (2,)

    def local(self, t: int, xy: np.ndarray) -> np.ndarray:
        """Frame pixels at time t -> the layer's own coordinates (its centre is the origin)."""
        offset = xy - self.centre - self.path[t]
        cos, sin = np.cos(self.angle[t]), np.sin(self.angle[t])
        turned = np.stack(
            [
                cos * offset[..., 0] + sin * offset[..., 1],
                cos * offset[..., 1] - sin * offset[..., 0],
            ],
            axis=-1,
        )
        turned /= self.zoom[t]
        return turned + self._wave(t, turned)

    def frame(self, t: int, local: np.ndarray) -> np.ndarray:
        """Invert ``local``: the layer's coordinates -> frame pixels at time t."""
        turned = local.copy()
        for _ in range(40):  # a contraction, since the waves are gentle
            turned = local - self._wave(t, turned)
        turned = turned * self.zoom[t]
        cos, sin = np.cos(self.angle[t]), np.sin(self.angle[t])
        offset = np.stack(
            [
                cos * turned[..., 0] - sin * turned[..., 1],
                cos * turned[..., 1] + sin * turned[..., 0],
            ],
            axis=-1,
        )
        return offset + self.centre + self.path[t]

    def covers(self, t: int, xy: np.ndarray) -> np.ndarray:
        """How far inside the layer each point lies, in px, roughly; positive is inside."""
        if self.radii is None:
            return np.full(xy.shape[:-1], np.inf)
        scaled = np.linalg.norm(self.local(t, xy) / self.radii, axis=-1)
        return (1 - scaled) * self.radii.min()

    def draw(self, t: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Colours (H, W, 3) float32 and opacity (H, W, 1) of the layer at time t."""
        grid = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), axis=-1) + 0.5
        local = self.local(t, grid)
        middle = np.array(self.texture.shape[1::-1]) / 2
        map_x, map_y = np.moveaxis((local + middle - 0.5).astype(np.float32), -1, 0)
        texture = self.texture.astype(np.float32)
        colours = cv2.remap(texture, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        opacity = np.clip(self.covers(t, grid) + 0.5, 0, 1)[..., None].astype(np.float32)
        return np.asarray(colours), opacity

    def _wave(self, t: int, local: np.ndarray) -> np.ndarray:
        total = np.zeros_like(local)
        for wave_x, wave_y, amplitude_x, amplitude_y, phase, speed in self.waves:
            swing = np.sin(wave_x * local[..., 0] + wave_y * local[..., 1] + phase + speed * t)
            total += swing[..., None] * (amplitude_x, amplitude_y)
        return total


@dataclass(frozen=True)
class Scene:
    """Layers, the last one in front, seen through a frame of ``shape`` (H, W)."""

    shape: tuple[int, int]
    layers: tuple[Layer, ...]
    noise: float = 0.0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.layers[0].path)

    def frames(self) -> np.ndarray:
        """Draw all frames, (T, H, W, 3) uint8."""
        rng = np.random.default_rng(self.seed)
        frames = []
        for t in range(len(self)):
            picture = np.zeros((*self.shape, 3), np.float32)
            for layer in self.layers:
                colours, opacity = layer.draw(t, self.shape)
                picture += (colours - picture) * opacity
            if self.noise:
                picture += rng.normal(0, self.noise, picture.shape)
            frames.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
        return np.stack(frames)

    def truth(
        self, start: int, queries_xy: np.ndarray, horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """True tracks (horizon, N, 2) float64 and visibility (horizon, N) bool from ``start``.

        A point belongs to the front layer that covers it at ``start``.  Steps past the last
        frame repeat it.
        """
        queries = np.asarray(queries_xy, np.float64)
        owner = self._front(start, queries)
        tracks = np.empty((horizon, *queries.shape))
        visible = np.empty(tracks.shape[:2], bool)
        for step in range(horizon):
            t = min(start + step, len(self) - 1)
            for k, layer in enumerate(self.layers):
                mine = owner == k
                tracks[step, mine] = layer.frame(t, layer.local(start, queries[mine]))
            inside = ((tracks[step] >= 0) & (tracks[step] <= self.shape[::-1])).all(axis=-1)
            visible[step] = inside & (self._front(t, tracks[step]) <= owner)
        return tracks, visible

    def _front(self, t: int, xy: np.ndarray) -> np.ndarray:
        """Return the number of the front layer that covers each point."""
        front = np.zeros(xy.shape[:-1], int)
        for k, layer in enumerate(self.layers):
            front[layer.covers(t, xy) > 0] = k
        return front


def random_texture(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Make a picture (H, W, 3) uint8 with detail at every scale."""
    picture = np.zeros((*shape, 3), np.float32)
    for cells, weight in ((6, 60), (14, 45), (34, 35), (80, 25)):
        noise = rng.normal(0, weight, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def random_scene(
    rng: np.random.Generator,
    textures: list[np.ndarray],
    shape: tuple[int, int] = (256, 256),
    length: int = 24,
    speed: float = 2.8,
    occluders: int = 2,
    noise: float = 2.0,
) -> Scene:
    """Make a scene whose points move ``speed`` px per frame on average.

    The first texture is the background; the others (in turn) make the occluders, which move
    on paths of their own.
    """
    scale = 1.0
    state = rng.bit_generator.state
    for _ in range(4):  # speed is almost linear in scale
        rng.bit_generator.state = state
        layers = [_random_layer(rng, textures[0], shape, length, scale * speed, None)]
        for k in range(occluders):
            radii = rng.uniform(0.08, 0.2, 2) * min(shape)
            texture = textures[1 + k % (len(textures) - 1)]
            layers.append(_random_layer(rng, texture, shape, length, scale * speed, radii))
        scene = Scene(shape, tuple(layers), noise, int(rng.integers(2**31)))
        scale *= speed / max(mean_speed(scene), 1e-6)
    return scene


def mean_speed(scene: Scene) -> float:
    """Mean step length, px per frame, of a grid of points tracked from the first frame."""
    height, width = scene.shape
    grid = np.stack(np.meshgrid(np.linspace(8, width - 8, 16), np.linspace(8, height - 8, 16)), -1)
    tracks, _ = scene.truth(0, grid.reshape(-1, 2), len(scene))
    return float(np.linalg.norm(np.diff(tracks, axis=0), axis=-1).mean())


def _random_layer(
    rng: np.random.Generator,
    texture: np.ndarray,
    shape: tuple[int, int],
    length: int,
    speed: float,
    radii: np.ndarray | None,
) -> Layer:
    t = np.arange(length)
    size = min(shape)
    heading = rng.uniform(0, 2 * np.pi)
    drift = 0.55 * speed * np.array([np.cos(heading), np.sin(heading)])
    sway = rng.uniform(0.5, 1, 2) * speed * 3
    rate, phase = rng.uniform(0.1, 0.35, 2), rng.uniform(0, 2 * np.pi, 2)
    path = t[:, None] * drift + sway * np.sin(rate * t[:, None] + phase)
    path -= path[length // 2]
    turn = rng.uniform(-1, 1) * speed / size
    angle = turn * (t - length / 2) * 0.5
    zoom = np.exp(rng.uniform(-1, 1) * speed / size * (t - length / 2) * 0.5)
    waves = []
    for _ in range(3):
        cycles = rng.uniform(0.5, 2.0, 2) * rng.choice([-1, 1], 2)
        vector = 2 * np.pi * cycles / size
        amplitude = rng.uniform(-1, 1, 2) * min(speed, 4) * 0.9
        waves.append([*vector, *amplitude, rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)])
    centre = np.array(shape[::-1]) * (0.5 if radii is None else rng.uniform(0.25, 0.75, 2))
    return Layer(texture, centre, path, angle, zoom, np.array(waves), radii)
