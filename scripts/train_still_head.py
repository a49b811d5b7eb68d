r"""Fit the numbers by which ``dis`` tells what stands still, on rendered scenes with exact truth.

    MUJOCO_GL=osmesa python scripts/robot_scenes.py SCENES --seeds 9001 9002 9004 9005 \
        9006 9007 9008
    python scripts/train_still_head.py SCENES

Writes builder/trackers/still_head.json.  The first round follows the scenes as a rule by hand
decides, the next ones as the head that was fitted before; each fit is to the last two.  Every
scene is followed with noise of several strengths, and some of them packed.  The head learns to
stay where staying is nearer to the truth than the chain, weighed by how much nearer, and when a
point shows.  Needs torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from robot_views import RobotView, folders, followed

from builder.trackers.anchored import Anchor, Judge
from builder.trackers.kinds.dis import DisConfig, DisTracker
from builder.trackers.second_look import SecondLook
from builder.trackers.still_head import FEATURES, LEADS, WEIGHTS, Network

RECORDINGS: tuple[tuple[float, int | None], ...] = ((1.5, None), (0.5, None), (2.0, 23))
"""Noise in grey levels and H.264's quality; every scene has the first, and some of the others."""

STILL_PX = 0.05
NEAR_PX = 4.0
MARGIN = 0.3  # px: below it, neither staying nor going is the better answer
ROUNDS, BATCH = 2, 4096
SURE = 9.0  # logarithm of the odds of what the rule by hand says
KEPT, KEPT_STILL = 0.3, 0.075  # shares of the points; of those that stand and get covered, all
SHARES = {(False, False): 1.0, (False, True): 1.3, (True, False): 1.2, (True, True): 0.8}
"""Weight of points by whether the camera moves and whether they stand still."""

Fitted = tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]
"""Means, scales and layers, as ``Network`` takes them."""


class How(NamedTuple):
    """How to fit a network.

    ``hidden``: weights of hidden points where the camera stands, and where it moves: not to tell
    of one is better than to tell wrongly.  ``covered``: how much more than others points count
    that stand, while they are covered.  ``leads``: whether it also tells where the camera's motion
    leads nearer than the chain.
    """

    width: int
    epochs: int
    hidden: tuple[float, float]
    covered: float
    leads: bool = False


FIRST = How(width=48, epochs=3, hidden=(4.0, 4.0), covered=3.0)


class Rows(NamedTuple):
    """Points at steps: features (M, F), and of each what is true.

    ``query_px``, ``chain_px`` and ``led_px``: how far the query, the chain and where the camera's
    motion leads are from the truth; ``stands_for``: how many points each row stands for.
    """

    features: np.ndarray
    query_px: np.ndarray
    chain_px: np.ndarray
    led_px: np.ndarray
    visible: np.ndarray
    still: np.ndarray
    moving_camera: np.ndarray
    stands_for: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("robot_frames"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    views = list(recorded(folders(arguments.scenes)))
    judge: Judge = rule
    rows: list[Rows] = []
    for number in range(arguments.rounds):
        rows = rows[-len(views) :]
        tasks = [
            (view, judge, preset, arguments.cache, (number, name))
            for name, view in enumerate(views)
            for preset in (("best",) if name % 8 else ("fast",))
        ]
        with ProcessPoolExecutor(arguments.workers) as pool:
            for done, row in enumerate(pool.map(follow, *zip(*tasks, strict=True))):
                rows.append(row)
                if done % 20 == 0:
                    print(f"  {done} of {len(tasks)} followed", flush=True)
        every = Rows(*(np.concatenate(each) for each in zip(*rows, strict=True)))
        print(f"round {number}: {len(every.features)} rows of {len(views)} recordings", flush=True)
        fitted = fit(every, FIRST)
        judge = Network(*fitted)
        write(fitted, FEATURES, arguments.scenes, len(every.features), arguments.out)


def recorded(scenes: list[Path]) -> Iterator[RobotView]:
    """Yield the recordings to learn from."""
    for folder in scenes:
        for noise, crf in RECORDINGS:
            if noise == RECORDINGS[0][0] or zlib.crc32(f"{folder.name}{noise}".encode()) % 3 == 0:
                yield RobotView(folder, noise, crf)


def rule(features: np.ndarray) -> np.ndarray:
    """Judge by hand: stay unless the chain's patch explains much better what is seen."""
    column = dict(zip(FEATURES, features.T, strict=True))
    here, along = (
        np.expm1(column[f"change {where}"]) for where in ("at the query", "along the chain")
    )
    same = (here < 4) & (column["gain at the query since it last showed"] < 0.12)
    goes = (column["found"] > 0) & (along < here / 2) & (along < 30) & (here >= 4)
    goes = (goes & (column["distance from the query"] > 0.4)) | (column["went before"] > 0)
    goes &= ~(same & (column["distance from the query"] < 0.9))
    each = ~goes, same, (column["found"] > 0) & (along < 60)
    return np.where(np.stack(each, axis=1), SURE, -SURE).astype(np.float32)


class FirstLook(DisTracker):
    """The tracker with a judge of one's own, and without a second look."""

    def __init__(self, judge: Judge, config: DisConfig | None = None) -> None:
        super().__init__(config)
        self._judge = judge

    def judges(self) -> tuple[Judge, SecondLook | None]:
        """Return that judge alone."""
        return self._judge, None


def follow(view: RobotView, judge: Judge, preset: str, cache: Path, seed: tuple[int, int]) -> Rows:
    """Track one recording and keep some points of its windows."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    tracker, found = FirstLook(judge, DisConfig.model_validate({"preset": preset})), []
    for at, anchor in followed(view, tracker, cache):
        still, covered = stands(view, at)
        share = np.where(covered, 1.0, np.where(still, KEPT_STILL, KEPT))
        features = anchor.kept[1:, :, : len(FEATURES)].astype(np.float32)
        found.append(rows_of(view, at, anchor, features, share, KEPT, rng))
    return Rows(*(np.concatenate(each) for each in zip(*found, strict=True)))


def stands(view: RobotView, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which points of a window stand still (N,), and which of them get hidden."""
    truth = view.truth
    away = np.linalg.norm(truth.tracks_xy[at] - view.queries_xy, axis=-1)
    still = (away < STILL_PX).all(axis=0)
    return still, still & (~truth.visible[at]).any(axis=0)


def rows_of(
    view: RobotView,
    at: int,
    anchor: Anchor,
    features: np.ndarray,
    share: np.ndarray,
    usual: float,
    rng: np.random.Generator,
) -> Rows:
    """Keep a ``share`` (N,) of the points of a window, given ``features`` (T, N, F) from step 1.

    A row stands for one of them where the share is the ``usual`` one.
    """
    steps = slice(1, len(features) + 1)
    true_xy, visible = view.truth.tracks_xy[at, steps], view.truth.visible[at, steps]
    still = np.broadcast_to(stands(view, at)[0], visible.shape)
    query_px, chain_px, led_px = (
        np.linalg.norm(true_xy - each, axis=-1)
        for each in (view.queries_xy, anchor.moved_xy[steps], anchor.led_xy[steps])
    )
    chosen = view.truth.known[at] & (visible | still | (query_px < 40))
    chosen &= rng.random(chosen.shape) < share
    moves = np.full(chosen.shape, not view.truth.fixed)
    stands_for = np.broadcast_to(usual / share, chosen.shape)
    every = Rows(features, query_px, chain_px, led_px, visible, still, moves, stands_for)
    return Rows(*(each[chosen] for each in every))


def fit(rows: Rows, how: How) -> Fitted:
    """Fit a network."""
    still, moves = rows.still, rows.moving_camera
    mean, scale = rows.features.mean(axis=0), rows.features.std(axis=0) + 1e-3
    better = nearer(rows.query_px, rows.chain_px)
    better = np.where(still, np.maximum(better, 0.7), better)
    better = np.where(rows.visible | still, better, 0.3 * better)
    led = rows.visible & (rows.led_px != rows.query_px)
    led_better = np.where(led, nearer(rows.led_px, rows.chain_px), 0)
    per_row = rows.stands_for * np.where(still & ~rows.visible, how.covered, 1)
    stay_weight = np.minimum(np.abs(better) * per_row, 10)
    lead_weight = np.minimum(np.abs(led_better) * per_row, 10)
    show_weight = per_row * np.where(rows.visible, 1, np.where(moves, how.hidden[1], how.hidden[0]))
    for (camera, stands), share in SHARES.items():
        group = (moves == camera) & (still == stands)
        if group.any():
            stay_weight[group] *= share * len(group) / max(stay_weight[group].sum(), 1e-9)
            show_weight[group] *= len(group) / show_weight[group].sum()
    lead_weight *= len(lead_weight) / max(lead_weight.sum(), 1e-9)
    inputs, stay, lead, stay_by, lead_by, show_by, there, along, led_there = (
        torch.tensor(np.asarray(each, np.float32))
        for each in (
            (rows.features - mean) / scale,
            better > 0,
            led_better > 0,
            stay_weight,
            lead_weight,
            show_weight,
            rows.visible & (rows.query_px < NEAR_PX),
            rows.visible & (rows.chain_px < NEAR_PX),
            rows.visible & (rows.led_px < NEAR_PX),
        )
    )
    network = torch.nn.Sequential(
        torch.nn.Linear(len(mean), how.width), torch.nn.ReLU(),
        torch.nn.Linear(how.width, how.width), torch.nn.ReLU(),
        torch.nn.Linear(how.width, 5 if how.leads else 3),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    steps = how.epochs * len(inputs) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps + 1)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    for step in range(steps):
        chosen = torch.randint(0, len(inputs), (BATCH,))
        out, stays = network(inputs[chosen]), stay[chosen]
        weight = show_by[chosen]
        loss = loss_of(out[:, 0], stays, stay_by[chosen])
        loss = loss + 0.7 * loss_of(out[:, 1], there[chosen], weight * (0.1 + 0.9 * stays))
        loss = loss + 0.7 * loss_of(out[:, 2], along[chosen], weight * (1 - 0.9 * stays))
        if how.leads:
            by = lead_by[chosen] * (1 - 0.9 * stays)
            loss = loss + loss_of(out[:, LEADS], lead[chosen], by)
            by = weight * (1 - 0.9 * stays)
            loss = loss + 0.7 * loss_of(out[:, LEADS + 1], led_there[chosen], by)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 5) == 0:
            print(f"  {step} of {steps}: {loss.item():.3f}", flush=True)
    numbers = [each.detach().numpy().T for each in network.parameters()]
    return mean, scale, [[numbers[at], numbers[at + 1]] for at in range(0, len(numbers), 2)]


def nearer(one_px: np.ndarray, other_px: np.ndarray) -> np.ndarray:
    """Return by how much one place is nearer to the truth; 0 where it matters little."""
    apart = np.minimum(other_px, 8) - np.minimum(one_px, 8)
    return np.where(np.abs(apart) < MARGIN, 0, apart)


def write(fitted: Fitted, features: Sequence[str], scenes: Path, rows: int, out: Path) -> None:
    """Write the numbers, and what they were fitted on."""
    mean, scale, layers = fitted

    def short(array: np.ndarray) -> list[object]:
        return [float(f"{each:.5g}") if np.ndim(each) == 0 else short(each) for each in array]

    kept = {
        "fitted_by": f"scripts/{Path(sys.argv[0]).name}",
        "scenes": sorted({path.name.rsplit("-", 1)[0] for path in folders(scenes)}),
        "recordings": RECORDINGS,
        "rows": rows,
        "features": features,
        "mean": short(mean),
        "scale": short(scale),
        "layers": [[short(each) for each in layer] for layer in layers],
    }
    out.write_text(
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items()) + "\n}\n"
    )


if __name__ == "__main__":
    main()
