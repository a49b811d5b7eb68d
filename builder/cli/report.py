"""Write one page that shows a dataset: what was built, how it looks, whether it suits training.

The page needs no network. It has a player that shows the points move, the doctor's findings, the
geometry with its numbers, distributions, failures and a table of episodes. Of more than 5000
episodes it shows 5000, spread evenly, and says how many it left out.

The exit code is 1 when episodes cannot be read, or there are none; the page lists what failed.
"""

import argparse
from pathlib import Path

from builder.cli.common import check_positive, check_suffix, declare, number, say, whole
from builder.cli.waiting import show_count

HELP = "write one page that shows a dataset"
EXAMPLE = """\
  letterset report dataset --out report.html
"""
NEXT = "open {out}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    parser.add_argument("--out", default="report.html", help="page to write")
    parser.add_argument(
        "--episodes", type=whole, default=6, metavar="N", help="episodes in the player"
    )
    parser.add_argument(
        "--budget-mb", type=number, default=24.0, metavar="MB", help="size of the player's pictures"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report; returns 1 when episodes of it cannot be read."""
    from builder.dataset.opening import open_dataset
    from builder.report.report import write_report

    check_positive(args, "episodes", "budget_mb")
    out = Path(args.out)
    check_suffix(out, [".html", ".htm"])
    dataset = open_dataset(args.dataset)
    diagnosis = write_report(
        dataset, out, episodes=args.episodes, budget_mb=args.budget_mb, on_progress=show_count
    )
    say(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB): {diagnosis.text().splitlines()[-1]}")
    return int(bool(diagnosis.problems) or not len(dataset))
