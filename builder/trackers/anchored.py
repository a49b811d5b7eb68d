"""Chains of motion that are held to the picture each window began with.

Flow between two frames cannot tell noise from motion where there is little texture, and a chain
adds its errors up.  So every point is also compared with its own patch of the window's first
frame, at the query and where the chain has led: what stands still stays exactly where it is, what
is covered is hidden until the patch is seen again, and what moves goes along its chain.  When a
window is whole, all its steps are looked at once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from builder.trackers.base import BaseSession, Window
from builder.trackers.camera import RASTER, led
from builder.trackers.chained import DARK, LINK_COST, Link, Observation, Observe
from builder.trackers.evidence import Evidence, Relief, quiet_variance
from builder.trackers.patches import difference, mismatch, patches, structure
from builder.trackers.second_look import QUANTITIES, STAYED, SecondLook, keep
from builder.trackers.still_head import FEATURES, Verdict
from builder.trackers.surround import surround

_BLUR = 1.0  # px: patches are compared after it, so that sampling between pixels changes little
_SAME = 12.0  # change up to which a patch that stays is what its chain goes on from
_LOST = 5.0  # px: forward-backward errors beyond it are all the same
_FAR = 64.0  # px: beyond it, the camera's motion is no guide
_CHANNELS = 3
_LIT = 64  # points that tell how the light has changed

Judge = Callable[[np.ndarray], np.ndarray]
"""Given features (N, F), the odds (N, 3) of which ``Verdict.of`` decides."""


class Look(NamedTuple):
    """What is kept of a frame: blurred, its patches at the queries (N, K), and its detail."""

    blurred: np.ndarray
    at_queries: np.ndarray
    relief: Relief

    @classmethod
    def at(cls, frame_rgb: np.ndarray, queries_xy: np.ndarray) -> Look:
        """Look at a frame (H, W, 3) uint8."""
        blurred = cv2.GaussianBlur(frame_rgb.astype(np.float32), (0, 0), _BLUR)
        grey = cv2.transform(blurred, np.full((1, 3), 1 / 3, np.float32))
        return cls(blurred, patches(blurred, queries_xy), Relief.of(grey))


class Change(NamedTuple):
    """The newest frame and the one before it, and how far they differ where nothing moves.

    ``speeds``: log(1 + px) by which flow moves each query (N,), and their median (N,).
    """

    now: Look
    before: Look
    noise: float
    detail_noise: float
    speeds: tuple[np.ndarray, np.ndarray]


class Followed(NamedTuple):
    """The chains of a window followed to the newest frame, and what is seen there.

    ``xy`` (N, 2); ``found`` and ``cost`` (N,) as of ``Anchor``; ``error`` (N,) forward and
    backward, in px of the raster; ``there`` (N, K) patches; ``colour`` (N,) change of colour as a
    share of what is allowed; ``around`` (N, 6), see ``surround``.
    """

    xy: np.ndarray
    found: np.ndarray
    cost: np.ndarray
    error: np.ndarray
    there: np.ndarray
    colour: np.ndarray
    around: np.ndarray


@dataclass(eq=False)
class Anchor:
    """An open window: its tracks so far, the chain behind them, and the patches it began with.

    ``chain_xy``, ``found`` and ``cost`` (horizon, N) are the chain's, as ``ChainedSession`` has
    them; a chain goes on from the query while its point stays there.  ``moved_xy`` is where each
    step of it led, ``led_xy`` where the ``camera`` did, whose motion since the window began is a
    homography (3, 3) or None, and ``kept`` (horizon, N, K) what a second look needs.
    """

    window: Window
    chain_xy: np.ndarray
    found: np.ndarray
    cost: np.ndarray
    patch: np.ndarray
    colour: np.ndarray
    gradient: np.ndarray
    weakest: np.ndarray
    colours: np.ndarray | None
    evidence: Evidence
    went: np.ndarray
    gain: np.ndarray
    most: np.ndarray
    least: np.ndarray
    last: np.ndarray
    camera: np.ndarray | None
    moved_xy: np.ndarray
    led_xy: np.ndarray
    kept: np.ndarray


@dataclass(eq=False)
class AnchoredSession(BaseSession):
    """A tracker session that holds chains of motion to the picture their window began with.

    ``max_error``: forward-backward error, in pixels of a raster of 256, beyond which a chain has
    lost its point.  Holds the open windows and what ``observe`` keeps.
    """

    observe: Observe
    judge: Judge
    look_again: SecondLook | None
    max_error: float
    max_colour: float | None = None
    gives_conf: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._open: deque[Anchor] = deque()
        self._last: Look | None = None
        self._raster = max(1.0, max(self.shape) / RASTER)

    def _add(self, frame_rgb: np.ndarray) -> list[Window]:
        newest, seen = self._pushed - 1, self.observe(frame_rgb)
        look = Look.at(frame_rgb, self.queries_xy)
        colours_at = seen.colours_at if self.max_colour is not None else None
        if self._open and self._last is not None:
            self._step(newest, seen, look, self._last)
        self._last = look
        if newest % self.start_every == 0:
            self._open.append(self._begin(newest, look, colours_at))
        if self._open and self._pushed - self._open[0].window.start == self.horizon:
            return [self._whole(self._open.popleft(), self.horizon - 1)]
        return []

    def finish(self) -> list[Window]:
        """Return the windows still open, their tail padded by repeating the last frame."""
        windows = []
        for anchor in self._open:
            last = self._pushed - anchor.window.start - 1
            window = self._whole(anchor, last)
            windows.append(window)
            for array in (window.tracks_xy, window.vis, window.conf):
                if array is not None:
                    array[last + 1 :] = array[last]
        self._open.clear()
        return windows

    def _whole(self, anchor: Anchor, last: int) -> Window:
        """Return a window that was followed up to a step, looked at once more.

        What never seemed to go, nor to be hidden, needs no second look.
        """
        window, rows = anchor.window, slice(1, last + 1)
        kept = anchor.kept[rows]
        if self.look_again is None or not len(kept):
            return window
        stood = ((kept[..., STAYED] == 1) & (window.vis[rows] == 1)).all(axis=0)
        points = np.flatnonzero(~stood | self.gives_conf)
        if len(points):
            kept, stood = kept.take(points, axis=1), stood[points]
            moved_xy, led_xy = (
                each[rows].take(points, axis=1) for each in (anchor.moved_xy, anchor.led_xy)
            )
            stays, leads, odds = verdict = self.look_again(kept)
            stays |= stood
            gone_xy = np.where(leads[..., None], led_xy, moved_xy)
            inside = stays | self._inside(gone_xy)
            placed_xy = np.where(stays[..., None], self.queries_xy[points], gone_xy)
            window.tracks_xy[rows, points] = placed_xy
            window.vis[rows, points] = ((odds > 0) & inside) | stood
            if window.conf is not None:
                conf = self.look_again.conf(kept, verdict)
                window.conf[rows, points] = np.where(inside, conf, 0)
        return window

    def _inside(self, points_xy: np.ndarray) -> np.ndarray:
        """Whether points (..., 2) are in the frame."""
        return np.asarray(((points_xy >= 0) & (points_xy <= self.shape[::-1])).all(axis=-1))

    def _begin(
        self, start: int, look: Look, colours_at: Callable[[np.ndarray], np.ndarray] | None
    ) -> Anchor:
        count = len(self.queries_xy)
        tracks_xy = np.empty((self.horizon, count, 2), np.float32)
        vis = np.zeros((self.horizon, count), np.uint8)
        conf = np.ones(vis.shape, np.float32) if self.gives_conf else None
        chain_xy, found = np.empty_like(tracks_xy), np.zeros(vis.shape, bool)
        tracks_xy[0], chain_xy[0] = self.queries_xy, self.queries_xy
        vis[0], found[0] = 1, True
        gradient, weakest = structure(look.at_queries, _CHANNELS)
        return Anchor(
            window=Window(start, tracks_xy, vis, conf),
            chain_xy=chain_xy,
            found=found,
            cost=np.zeros(vis.shape, np.float32),
            patch=look.at_queries,
            colour=look.at_queries.reshape(count, -1, _CHANNELS).mean(axis=1),
            gradient=gradient,
            weakest=weakest,
            colours=None if colours_at is None else colours_at(self.queries_xy),
            evidence=Evidence(look.relief),
            went=np.zeros(count, bool),
            gain=np.zeros(count, np.float32),
            most=np.zeros(count, np.float32),
            least=np.full(count, np.inf, np.float32),
            last=look.at_queries,
            camera=None,
            moved_xy=np.empty_like(tracks_xy),
            led_xy=np.empty_like(tracks_xy),
            kept=np.empty((self.horizon, count, len(QUANTITIES)), np.float16),
        )

    def _step(
        self,
        newest: int,
        seen: Observation,
        look: Look,
        before: Look,
    ) -> None:
        """Move the points of every open window to the newest frame."""
        links = seen.links
        colours_at = seen.colours_at if self.max_colour is not None else None
        moved, cost, error = self._along(newest, links[0])
        for link in links[1:]:
            other, other_cost, other_error = self._along(newest, link)
            count = len(other)  # the oldest windows come first, and only they reach back so far
            better = other_cost < cost[:count]
            moved[:count][better] = other[better]
            cost[:count][better] = other_cost[better]
            error[:count][better] = other_error[better]
        there = patches(look.blurred, moved)
        around = self._around(newest, seen, look, moved)
        colours = None if colours_at is None else colours_at(moved)
        change = self._change(links[0], look, before)
        count = len(self.queries_xy)
        for number, anchor in enumerate(self._open):
            if seen.camera is not None:
                so_far = np.eye(3) if anchor.camera is None else anchor.camera
                anchor.camera = seen.camera @ so_far
            rows = slice(number * count, (number + 1) * count)
            found = np.isfinite(cost[rows])
            colour: np.ndarray = np.zeros(count, np.float32)
            if colours is not None and anchor.colours is not None and self.max_colour is not None:
                colour = _colour_change(anchor.colours, colours[rows], found) / self.max_colour
                found &= colour < 1
            chain = Followed(
                moved[rows], found, cost[rows], error[rows], there[rows], colour, around[rows]
            )
            self._settle(anchor, newest - anchor.window.start, chain, change)

    def _change(self, link: Link, now: Look, before: Look) -> Change:
        """Compare the newest frame with the one before it, from which ``link`` goes."""
        squares = (now.blurred - before.blurred) ** 2
        square = cv2.transform(squares, np.full((1, 3), 1 / 3, np.float32))
        flow_xy, _ = link.follow(self.queries_xy)
        speed: np.ndarray = np.linalg.norm(flow_xy - self.queries_xy, axis=1) / self._raster
        median = np.full(len(speed), np.log1p(np.median(speed)), np.float32)
        return Change(
            now,
            before,
            quiet_variance(square),
            now.relief.noise(before.relief),
            (np.log1p(speed), median),
        )

    def _along(self, newest: int, link: Link) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow one link; returns points (M, 2), their chains' costs (M,), inf if lost, errors."""
        origins = [
            (anchor, newest - anchor.window.start - link.gap)
            for anchor in self._open
            if newest - anchor.window.start >= link.gap
        ]
        if not origins:
            return np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty(0, np.float32)
        points = np.concatenate([anchor.chain_xy[step] for anchor, step in origins])
        usable = np.concatenate([anchor.found[step] for anchor, step in origins])
        before = np.concatenate([anchor.cost[step] for anchor, step in origins])
        moved, error = link.follow(points)
        error = (error / self._raster).astype(np.float32)
        found = usable & (error < self.max_error) & self._inside(moved)
        cost = np.where(found, before + error + np.float32(LINK_COST), np.inf)
        return moved, cost, np.minimum(error, _LOST)

    def _around(self, newest: int, seen: Observation, look: Look, moved: np.ndarray) -> np.ndarray:
        """See ``surround``, of the points of all open windows."""
        assert seen.goes_to is not None
        assert seen.came_from is not None
        open_ = list(self._open)
        return surround(
            np.concatenate([self.queries_xy] * len(open_)),
            np.concatenate([each.chain_xy[newest - each.window.start - 1] for each in open_]),
            moved,
            self._raster,
            seen.goes_to,
            seen.came_from,
            look.blurred,
            np.concatenate([each.colour for each in open_]),
        )

    def _features(
        self, anchor: Anchor, step: int, chain: Followed, change: Change
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the head is shown (N, F), in the order of FEATURES, and the gain (N,)."""
        queries, gradient = self.queries_xy, anchor.gradient + np.float32(1e-3)
        now, before, noise = change.now.at_queries, change.before.at_queries, change.noise
        here, gain = mismatch(anchor.patch, now, noise, anchor.gradient)
        along, gain_along = mismatch(anchor.patch, chain.there, noise, anchor.gradient)
        last_along = difference(anchor.last, chain.there, noise, anchor.gradient)
        last_here = difference(before, now, noise, anchor.gradient)
        np.maximum(anchor.most, here, out=anchor.most)
        np.minimum(anchor.least, along, out=anchor.least)
        stands, changes, stands_wide, changes_wide, stands_all, changes_all = anchor.evidence.at(
            change.now.relief, change.detail_noise, queries, self.shape
        ).T
        away = np.linalg.norm(chain.xy - queries, axis=1) / self._raster
        length = np.linalg.norm(chain.xy - anchor.chain_xy[step - 1], axis=1) / self._raster
        inner = np.clip(chain.xy, 4, np.maximum(np.array(self.shape[::-1]) - 4, 4))
        beyond = np.minimum(np.linalg.norm(chain.xy - inner, axis=1), 8) / 8
        led_xy = anchor.led_xy[step]
        leads, off = (
            np.minimum(np.linalg.norm(each - led_xy, axis=1) / self._raster, _FAR)
            for each in (queries, chain.xy)
        )
        by_gradient = 100 * (noise / gradient + 0.01)
        ones = np.ones(len(queries), np.float32)
        log = np.log1p
        columns = [
            log(here), log(along), log(last_along), log(last_here),
            np.abs(gain), np.abs(gain - anchor.gain), np.abs(gain_along),
            log(anchor.weakest / noise), log(gradient / noise),
            log(away), chain.found, chain.error,
            stands, changes, stands / (stands + changes + 0.01),
            stands_wide, changes_wide, stands_wide / (stands_wide + changes_wide + 0.003),
            stands_all / (stands_all + changes_all + 0.001), changes_all,
            anchor.went, anchor.window.vis[step - 1], ones * min(step / 15, 1),
            log(anchor.most), log(length), log(here * by_gradient), log(along * by_gradient),
            np.minimum(chain.colour, 2), ones * np.log(noise), *change.speeds,
            log(here) - log(along), beyond, log(anchor.least), *chain.around.T,
            log(leads), log(off),
        ]  # fmt: skip
        features = np.stack(columns, axis=1).astype(np.float32)
        assert features.shape[1] == len(FEATURES)
        return features, gain

    def _settle(self, anchor: Anchor, step: int, chain: Followed, change: Change) -> None:
        """Write a step of a window, and where its chains go on from."""
        window, queries = anchor.window, self.queries_xy
        anchor.led_xy[step] = queries if anchor.camera is None else led(anchor.camera, queries)
        features, gain = self._features(anchor, step, chain, change)
        odds = self.judge(features)
        stays, _, odds_shown = Verdict.of(odds)
        shows, log_change = odds_shown > 0, features[:, 0]
        led_change = log_change
        if anchor.camera is not None:
            there = patches(change.now.blurred, anchor.led_xy[step])
            led_change, _ = mismatch(anchor.patch, there, change.noise, anchor.gradient)
            led_change = np.log1p(led_change)
        anchor.kept[step] = keep(features, odds, stays, led_change)
        anchor.moved_xy[step] = chain.xy
        window.tracks_xy[step] = np.where(stays[:, None], queries, chain.xy)
        window.vis[step] = shows & (stays | self._inside(chain.xy))
        again = stays & shows & (log_change < np.log1p(_SAME))
        anchor.went = ~stays
        anchor.gain = np.where(again, gain, anchor.gain)
        anchor.chain_xy[step] = np.where(again[:, None], queries, chain.xy)
        anchor.found[step] = chain.found | again
        anchor.cost[step] = np.where(again, 0, chain.cost)
        anchor.last = np.where(again[:, None], change.now.at_queries, chain.there)


def _colour_change(start: np.ndarray, now: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Compare colours (N, C), after taking out the light's change common to points found."""
    if not found.any():
        return np.full(len(start), np.inf, np.float32)
    some = np.flatnonzero(found)
    some = some[:: max(1, len(some) // _LIT)]
    light = np.median((now[some] + DARK) / (start[some] + DARK), axis=0)
    return np.asarray(np.abs(now / light - start).max(axis=1), np.float32)
