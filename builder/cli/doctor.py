"""Check before any training whether a dataset suits an img_shape.

Looks at scale, amplitude, the zero, saturated and clipped shares of motion, points in the
bars, the frozen tail and visibility, and says what would degrade a model and how to avoid it.
Works on built datasets and on folders of older files. The exit code is 1 when something would
degrade a model.
"""

import argparse
from functools import partial
from pathlib import Path

from builder.cli.common import declare, say, tracked_sizes, whole
from builder.core.errors import ConfigError

HELP = "check whether a dataset suits an img_shape"
EXAMPLE = """\
  letterset doctor dataset --img-shape 256 256
  letterset doctor preprocessed_data/libero_10 --img-shape 128 128 --tracked 128 128
"""
NEXT = "letterset report {dataset}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset", help="dataset, or folder of older files")
    declare(parser, "--img-shape", help="height and width in training (default: the dataset's)")
    parser.add_argument(
        "--windows",
        type=whole,
        metavar="N",
        help="windows read per episode and view (default: all; of large datasets about "
        "4096 per view)",
    )
    older = parser.add_argument_group("of older files")
    older.add_argument(
        "--pixel-origin",
        choices=("corner", "center"),
        help="center for CoTracker's pixel-centre indices",
    )
    declare(older, "--tracked", "--videos", "--frame-step")
    declare(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Diagnose; returns 1 when training on the dataset would degrade the model."""
    from builder.build.reader import apart
    from builder.dataset.folder import META_NAME, load_meta
    from builder.report.diagnosis import diagnose_path

    path = Path(args.dataset)
    img_shape = args.img_shape
    if img_shape is None:
        if not (path / META_NAME).exists():
            raise ConfigError(
                f"{path} is no letterset dataset: it has no {META_NAME}; for a folder of older "
                "files, give the img_shape of the training: --img-shape H W"
            )
        img_shape = load_meta(path).img_shape
    given = {
        "pixel_origin": args.pixel_origin,
        "tracked": tracked_sizes(args.tracked),
        "videos": args.videos,
        "frame_step": args.frame_step if args.videos else None,
    }
    legacy = {key: value for key, value in given.items() if value is not None}
    report = apart(partial(diagnose_path, path, img_shape, args.windows, **legacy))
    say(report.model_dump_json(indent=2) if args.json else report.text())
    return report.exit_code
