"""Map predicted points back to source pixels.

POINTS is a .npy, .npz, .csv or .json file, or - for JSON or CSV from standard input, with points
(..., 2). The geometry is a JSON file (from export --to inference, a Letterbox, a Stretch, or an
episode's metadata), or a dataset folder with --episode. Results are (x, y) source pixels. It is an
error when the points contradict the options: a CSV heading (x,y or row,col, also with norm or px)
or an array's name (pred_rc) of the other order or space, or numbers that look like the other.
"""

import argparse
from pathlib import Path
from typing import Any

from builder.cli.common import declare, one_of, warn
from builder.core.errors import ConfigError
from builder.core.messages import ASSUMED

HELP = "map predicted points back to source pixels"
EXAMPLE = """\
  letterset decode prediction.npy --geometry dataset --episode bikes-c8000a48 \\
      --order rc --space norm --out pixels.npy
  echo '[[0.0, 0.0]]' | letterset decode - --geometry box.json --order xy --space norm
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("points", metavar="POINTS", help="npy, npz, csv or json; - for stdin")
    parser.add_argument(
        "--geometry", required=True, metavar="PATH", help="geometry JSON, or a dataset folder"
    )
    declare(parser, "--episode")
    declare(parser, "--view", help="view to decode for; default: the only one")
    parser.add_argument(
        "--order",
        required=True,
        choices=("xy", "rc"),
        help="order of each input point: x y, or row col",
    )
    parser.add_argument(
        "--space",
        required=True,
        choices=("norm", "img"),
        help="what the numbers are: norm is [-1, 1], img is pixels of img_shape",
    )
    parser.add_argument(
        "--pixels",
        choices=("oriented", "coded"),
        default="oriented",
        help="upright source pixels, or pixels as stored in a rotated file (needs the metadata)",
    )
    parser.add_argument(
        "--far-outside", action="store_true", help="allow points far outside the picture"
    )
    parser.add_argument("--out", metavar="FILE", help="npy, npz, csv or json; default: stdout")


def run(args: argparse.Namespace) -> int:
    """Decode the points; returns the exit code."""
    from builder.inference.points_file import check_order, check_space, read_points, write_points
    from schemas.geometry import swap_xy

    geometry, to_coded = _geometry(args)
    points, form = read_points(args.points, args.order, args.space)
    points_xy = swap_xy(points) if args.order == "rc" else points
    if not args.far_outside:
        if args.space == "img":
            check_order(points_xy, args.order, geometry.img_shape)
        check_space(points_xy, args.space, geometry.img_shape)
    source_xy = (
        geometry.decode(points_xy) if args.space == "norm" else geometry.to_source(points_xy)
    )
    write_points(to_coded(source_xy) if to_coded else source_xy, args.out, form)
    return 0


def _geometry(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the geometry, and the map to coded pixels when it was asked for."""
    from builder.inference.points_file import read_geometry

    path = Path(args.geometry)
    if path.is_dir():
        from builder.dataset.opening import open_dataset

        dataset = open_dataset(path)
        if args.episode is None:
            first = one_of(dataset.ids, None, "episode", path)
            raise ConfigError(
                f"{path} is a dataset: say which episode with --episode; the first is {first}"
            )
        found: Any = dataset[dataset.find(args.episode)].meta
    else:
        found = read_geometry(path)
    if not hasattr(found, "views"):
        if args.pixels == "coded":
            raise ConfigError(f"{path} holds no orientation: --pixels coded needs episode metadata")
        return found, None
    views, place = {view.name: view for view in found.views}, getattr(found, "id", path)
    if args.view is None and len(views) > 1:
        raise ConfigError(f"{place} has several views, choose one with --view: {[*views]}")
    view = views[one_of([*views], args.view, "view", place)]
    if view.source_shape_assumed:
        warn(f"note: {place}, view {view.name}: {ASSUMED}")
    return view.geometry, view.to_coded if args.pixels == "coded" else None
