"""How much zero, saturated and clipped motion a motion tokenizer bears: dose-response curves.

    python scripts/collapse_dose.py run [--seeds 3] [--only edge=0.8 canvas=512]
    python scripts/collapse_dose.py draw --out docs/images/collapse_dose.png

Scenes are simulated, so that one share can be changed while the motion stays the same and the
truth is exact: 20 x 20 points, 16 frames, a camera that pans and zooms, an object that moves by
itself, 0.03 px of noise.  A small tokenizer with AMPLIFY's input (velocities) and output (15 x 15
classes per point and step), width 48, FSQ levels 8, 8, 6, 5, is trained on 1024 windows of each
dose, 250 updates of 16 windows, and evaluated on 128 other windows.  A seed is that of the model
and of the order of windows; the scenes are the same for all.  ``run`` appends one line per training
to scripts/collapse_dose.jsonl and leaves out those that are there; ``draw`` makes the picture and
prints the table.
Needs: pip install 'letterset[torch]' vector-quantize-pytorch matplotlib
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from collapse_model import CENTRE, Tokenizer, displacement
from torch.nn import functional

from builder.report.motion_findings import CLIPPED, SATURATED, ZERO, Bounds
from builder.training.metrics import CodeUsage, displacement_classes

SIZE = 256
"""Rows and columns of the canvas on which scenes are made; the loss may use another."""
GRID, STEPS = 20, 15
NOISE_PX = 0.03
LEVELS = [8, 8, 6, 5]
HIDDEN = 48
LARGER = 8  # the classes are taken on a canvas so many times larger, where nothing is clamped
TRAIN, TEST = 1024, 128
UPDATES, BATCH = 250, 16
DECODED = 8  # points of the 400 that are decoded in an update, drawn anew each time
RATE = 1e-2  # of learning, at its highest
MOVES_PX = 4.0  # windows whose points move less from first to last frame are not evaluated


class Dose(NamedTuple):
    """One preparation of the scenes."""

    curve: str
    value: float
    loss_size: int = SIZE
    moving_area: float = 1.0
    still_windows: float = 0.0
    edge: float = math.inf

    @property
    def name(self) -> str:
        """What ``--only`` calls it."""
        return f"{self.curve}={self.value:g}"


DOSES = (
    Dose("none", 0),
    # The loss's canvas: small ones round motion to zero, large ones saturate the window.
    *(Dose("canvas", size, loss_size=size) for size in (16, 32, 64, 128, 384, 512, 768, 1024)),
    # Only a rectangle of this share of the picture moves, elsewhere in every window.
    *(Dose("moving area", area, moving_area=area) for area in (0.5, 0.2, 0.05, 0.02)),
    # This share of the windows stands still; the evaluation is on windows that move.
    *(Dose("still windows", share, still_windows=share) for share in (0.8, 0.95)),
    # Coordinates are clipped at this share of the canvas's half side; 1 is its own edge.
    *(Dose("edge", edge, edge=edge) for edge in (1.0, 0.95, 0.8, 0.65)),
)
EDGES = tuple(dose.edge for dose in DOSES if dose.curve == "edge")


class Scenes(NamedTuple):
    """Windows: tracks with noise and the true ones, (W, 16, 400, 2), (row, col) px of SIZE."""

    noisy: torch.Tensor
    true: torch.Tensor
    still: torch.Tensor
    """(W, 400) bool: points that stand still by the dose."""


@lru_cache(maxsize=2)
def scenes(count: int, moving_area: float, still_windows: float, seed: int) -> Scenes:
    """Simulate ``count`` windows.  A seed gives the same motion for every dose."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def velocity(median: float, spread: float) -> torch.Tensor:
        speed = median * torch.exp(spread * normal(count, 1))
        angle = uniform(count, 1) * 2 * math.pi
        steady = torch.cat([angle.sin(), angle.cos()], 1) * speed
        return steady[:, None] + 0.15 * speed[:, None] * normal(count, STEPS, 2).cumsum(1)

    centres = (torch.arange(GRID) + 0.5) * SIZE / GRID
    rows, columns = torch.meshgrid(centres, centres, indexing="xy")  # rows vary fastest
    start = torch.stack([columns, rows], -1).reshape(1, -1, 2).repeat(count, 1, 1)
    camera, own = velocity(1.2, 0.7), velocity(1.5, 0.7)
    zoom = 0.003 * torch.exp(normal(count, 1, 1)) * normal(count, 1, 1).sign()
    middle, radius = uniform(count, 1, 2) * SIZE, SIZE * (0.1 + 0.2 * uniform(count, 1, 1))
    on_object = ((start - middle).norm(dim=-1, keepdim=True) < radius).float()
    corner, idle = uniform(count, 1, 2), uniform(count, 1)
    side = math.sqrt(moving_area) * SIZE
    inside = ((start - corner * (SIZE - side) - side / 2).abs() <= side / 2).all(-1)
    still = ~inside | (idle < still_windows)
    moves = (~still).float()[..., None]
    places, at = [start], start
    for step in range(STEPS):
        moved = camera[:, step, None] + zoom * (at - SIZE / 2) + on_object * own[:, step, None]
        at = at + moves * moved
        places.append(at)
    true = torch.stack(places, 1)
    return Scenes(true + NOISE_PX * normal(*true.shape), true, still)


def prepare(found: Scenes, dose: Dose) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Return what a trainer sees: velocities, classes; and the shares of the dose."""
    half = SIZE / 2
    outside = (found.noisy - half).abs() > dose.edge * half
    reach = dose.edge * half if math.isfinite(dose.edge) else 1e9
    seen = (found.noisy - half).clamp(-reach, reach) / half
    shape = (LARGER * dose.loss_size, LARGER * dose.loss_size)
    classes, saturated = map(torch.from_numpy, displacement_classes(seen / LARGER, shape))
    shares = {
        "zero": _mean(classes == CENTRE),
        "saturated": _mean(saturated),
        "clipped": _mean(outside),
    }
    return seen.diff(dim=1), classes, shares


def train(dose: Dose, seed: int) -> dict[str, Any]:
    """Train on one dose; returns its shares and what the model can do on unseen windows."""
    found = scenes(TRAIN, dose.moving_area, dose.still_windows, 1)
    velocities, classes, shares = prepare(found, dose)
    torch.manual_seed(seed)
    model = Tokenizer(STEPS, GRID**2, HIDDEN, LEVELS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, UPDATES, pct_start=0.1)
    order = torch.Generator().manual_seed(seed)
    for _ in range(UPDATES):
        picks = torch.randint(TRAIN, (BATCH,), generator=order)
        wanted = torch.randperm(GRID**2, generator=order)[:DECODED]
        logits, _ = model(velocities[picks], wanted)
        truth = classes[picks][:, :, wanted]
        loss = functional.cross_entropy(logits.flatten(0, 2), truth.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {
        "curve": dose.curve,
        "value": dose.value,
        "seed": seed,
        "shares": shares,
        **evaluate(model, dose),
    }


@torch.no_grad()
def evaluate(model: Tokenizer, dose: Dose) -> dict[str, Any]:
    """Return code use, and the share of the motion from first to last frame that is explained.

    ``explained`` is of the points that move, ``kept`` of those of them that no edge clips: by
    edge, since the model without a dose is asked about all of them.  ``possible`` is what right
    classes would explain.
    """
    found = scenes(TEST, dose.moving_area, 0.0, 2)
    velocities, classes, _ = prepare(found, dose)
    points = slice(None, None, 4)  # every fourth: enough, and a fourth of the time
    logits, indices = model(velocities, points)
    usage = CodeUsage(math.prod(LEVELS))
    usage.update(indices)
    px = SIZE / dose.loss_size
    answered, best = (
        displacement(each).sum(1) * px for each in (logits.argmax(-1), classes[:, :, points])
    )
    truth = (found.true[:, -1] - found.true[:, 0])[:, points]
    far = (found.noisy - SIZE / 2).abs().amax((1, 3))[:, points] / (SIZE / 2)
    moves = ~found.still[:, points]
    edges = (dose.edge,) if dose.curve == "edge" else EDGES
    codes = usage.metrics()
    return {
        "explained": _explained(answered, truth, moves),
        "possible": _explained(best, truth, moves),
        "kept": {str(edge): _explained(answered, truth, moves & (far <= edge)) for edge in edges},
        "codes": codes["unique_codes"],
        "entropy": round(codes["entropy_norm"], 4),
    }


def _explained(answered: torch.Tensor, truth: torch.Tensor, of: torch.Tensor) -> float:
    """Return 1 - error / motion, a mean over windows that move; each counts the same."""
    missed = ((answered - truth).norm(dim=-1) * of).sum(1)
    moved = (truth.norm(dim=-1) * of).sum(1)
    enough = moved > MOVES_PX * of.sum(1).clamp(min=1)
    return _mean((1 - missed / moved)[enough])


def _mean(values: torch.Tensor) -> float:
    return round(float(values.float().mean()), 4)


def run(args: argparse.Namespace) -> None:
    """Train every dose and seed that is not in the file yet, seed by seed."""
    torch.set_num_threads(1)  # equal sums in equal order
    found = read(args.data) if args.data.exists() else {}
    done = {(name, line["seed"]) for name, lines in found.items() for line in lines}
    for seed in range(args.seeds):
        for dose in DOSES:
            if (dose.name, seed) in done or (args.only and dose.name not in args.only):
                continue
            line = json.dumps(train(dose, seed))
            with args.data.open("a") as file:
                file.write(line + "\n")
            sys.stderr.write(line + "\n")


def draw(args: argparse.Namespace) -> None:
    """Write the picture and print the table."""
    found = read(args.data)
    plot(found, args.out)
    sys.stdout.write(table(found) + "\n")


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the finished trainings by the name of their dose."""
    found = defaultdict(list)
    for line in map(json.loads, path.read_text().splitlines()):
        found[f"{line['curve']}={line['value']:g}"].append(line)
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table: a row per dose, means with the range over seeds."""
    rows = [
        "| dose | seeds | zero | saturated | clipped | explained | possible | codes used |",
        "|---" * 8 + "|",
    ]
    for dose in DOSES:
        if not (lines := found.get(dose.name)):
            continue
        name = f"{dose.curve} {dose.value:g}" if dose.value else dose.curve
        shares = (f"{share:.1%}" for share in lines[0]["shares"].values())
        explained = _range([line["explained"] for line in lines], ".3f")
        codes = _range([line["codes"] for line in lines], ".0f")
        cells = [name, len(lines), *shares, explained, f"{lines[0]['possible']:.3f}", codes]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def _range(values: list[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    mean, low, high = statistics.mean(values), min(values), max(values)
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


def plot(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw a panel per share: a dot per training, a line through the means, the bounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves_of = {dose.curve: [d for d in DOSES if d.curve == dose.curve] for dose in DOSES}
    smaller = [dose for dose in curves_of["canvas"] if dose.loss_size < SIZE]
    larger = [dose for dose in curves_of["canvas"] if dose.loss_size > SIZE]
    parts = {name: curves_of[name] for name in ("moving area", "still windows")}
    panels: list[tuple[str, Bounds, dict[str, list[Dose]]]] = [
        ("zero", ZERO, {"smaller canvas": smaller, **parts}),
        ("saturated", SATURATED, {"larger canvas": larger}),
        ("clipped", CLIPPED, {"edge": curves_of["edge"]}),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 3.8), sharey=True)
    for axis, (share, bounds, curves) in zip(axes, panels, strict=True):
        for name, bound in bounds._asdict().items():
            axis.axvline(100 * bound, color="0.8", zorder=0)
            where = axis.get_xaxis_transform()
            axis.text(100 * bound, 1.01, name, transform=where, fontsize=7, ha="center")
        for color, (label, doses) in enumerate(curves.items()):
            names = ["none=0", *(dose.name for dose in doses)]
            groups = [found[name] for name in names if name in found]
            groups.sort(key=lambda lines: float(lines[0]["shares"][share]))
            at = [100 * lines[0]["shares"][share] for lines in groups]
            color_of = {"color": f"C{color}"}
            means = [statistics.mean(line["explained"] for line in lines) for lines in groups]
            axis.plot(at, means, label=label, **color_of)
            axis.plot(at, [lines[0]["possible"] for lines in groups], "--", alpha=0.5, **color_of)
            for x, lines in zip(at, groups, strict=True):
                each = [line["explained"] for line in lines]
                axis.plot([x] * len(each), each, ".", **color_of)
        axis.set_xlabel(f"{share}, % (bounds of the doctor in gray)")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("motion explained (dashed: possible)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    data = argparse.ArgumentParser(add_help=False)
    here = Path(__file__).with_suffix(".jsonl")
    data.add_argument("--data", type=Path, default=here, help="JSON lines, one per training")
    verbs = parser.add_subparsers(required=True)
    make = verbs.add_parser("run", parents=[data], help="train what is not in the data yet")
    make.add_argument("--seeds", type=int, default=3)
    make.add_argument("--only", nargs="+", metavar="CURVE=VALUE", help="such as edge=0.8")
    make.set_defaults(call=run)
    show = verbs.add_parser("draw", parents=[data], help="write the picture, print the table")
    show.add_argument("--out", type=Path, required=True, help="the picture, .png or .svg")
    show.set_defaults(call=draw)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
