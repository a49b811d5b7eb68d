"""What the scale mismatch does to a motion tokenizer, and what a stored geometry cures.

    python scripts/collapse_experiment.py --videos DIR [--seeds 3] [--steps 1000]

The same videos are prepared five ways (see ``collapse_data``), a small FSQ tokenizer is trained
on each from several seeds, on the CPU, and the metrics AMPLIFY's users watch are written as
JSON and as a plot.  Also measures what a stretched picture costs a tracker.
Needs: pip install 'letterset[build,torch]' vector-quantize-pytorch matplotlib
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from collapse_data import IMG_SHAPE, Condition, conditions
from collapse_model import train
from collapse_stretch import stretch_cost

from builder.training.metrics import MotionStats

CURVES = {
    "train_unique_codes_step": "unique codes in the batch",
    "train_entropy_norm_step": "entropy / log(codebook size)",
    "train_perplexity_step": "perplexity",
    "loss": "loss (nats)",
}
TABLE = {
    "unique_codes": ("codes used", 0),
    "entropy_norm": ("entropy, normalized", 3),
    "perplexity": ("perplexity", 1),
    "accuracy": ("class accuracy", 3),
    "moving_accuracy": ("accuracy on moving steps", 3),
    "error_percent": ("error, % of source height", 3),
    "error_if_still_percent": ("error if always still", 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--videos", type=Path, required=True, help="folder of .mp4 clips")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--grid", type=int, default=10, help="points per side")
    parser.add_argument("--jobs", type=int, default=2, help="seeds trained at a time")
    parser.add_argument("--every", type=int, default=20, help="steps between log lines")
    parser.add_argument("--work", type=Path, help="keep the datasets here")
    parser.add_argument("--out", type=Path, default=Path("collapse"), help="writes OUT.json, .png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        results = [run(found, args) for found in conditions(args.videos, work, args.grid)]
    stretch = stretch_cost(args.videos)
    kept = ("seeds", "steps", "batch", "grid", "every")
    settings = {key: getattr(args, key) for key in kept}
    data = {"settings": settings, "conditions": results, "stretch": stretch}
    args.out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    plot(results, args.out.with_suffix(".png"))
    sys.stdout.write(table(results) + "\n\n" + json.dumps(stretch, indent=1) + "\n")


def run(condition: Condition, args: argparse.Namespace) -> dict[str, Any]:
    motion = MotionStats(IMG_SHAPE)
    motion.update(condition.unclipped)
    train_one = partial(train, condition, steps=args.steps, batch=args.batch, every=args.every)
    seeds = []
    # One thread each: equal sums in equal order, so a seed repeats to the bit.
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for seed, (log, final) in enumerate(pool.map(train_one, range(args.seeds))):
            seeds.append({"seed": seed, "log": log, "final": final})
            sys.stderr.write(f"{condition.key} seed {seed}: {final}\n")
    return {
        "key": condition.key,
        "label": condition.label,
        "windows": len(condition.windows),
        "motion": motion.metrics(),
        "seeds": seeds,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table: data first, then mean and range over seeds."""
    lines = ["| | " + " | ".join(f"({r['key']}) {r['label']}" for r in results) + " |"]
    lines.append("|---" * (len(results) + 1) + "|")
    for name in results[0]["motion"]:
        cells = [f"{r['motion'][name]:.3f}" for r in results]
        lines.append(f"| data: {name} | " + " | ".join(cells) + " |")
    for name, (label, digits) in TABLE.items():
        cells = []
        for result in results:
            values = [seed["final"][name] for seed in result["seeds"]]
            mean, low, high = statistics.mean(values), min(values), max(values)
            cells.append(f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the curves: mean over seeds, the range shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(4 * len(CURVES), 3.4))
    for axis, (name, label) in zip(axes, CURVES.items(), strict=True):
        for result in results:
            logs = [seed["log"] for seed in result["seeds"]]
            steps = [line["step"] for line in logs[0]]
            values = torch.tensor([[line[name] for line in log] for log in logs], dtype=torch.float)
            axis.plot(steps, values.mean(0), label=f"({result['key']}) {result['label']}")
            axis.fill_between(steps, values.amin(0), values.amax(0), alpha=0.15)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("step")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
