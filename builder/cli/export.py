"""Write a dataset in another form, chosen by --to.

- inference: one JSON file to keep beside a checkpoint (views in order, geometry, queries, tracker,
  action statistics), for letterset.Decoder and letterset.LiveWindows.
- amplify: a tree that AMPLIFY's public LiberoDataset loads unchanged.
- amplify-attrs: its track files alone, with height and width.
- segments: one track file per video, at the video's own path, as the older route keeps them.
- lerobot: a LeRobot v3.0 dataset with tracks as features.
- tapvid: a pickle of clips in TAP-Vid's convention.
- card: a README.md for the Hugging Face hub; give the dataset's own folder as OUT to upload that.

Episodes are verified first: damaged ones are listed and left out, and the exit code is 1.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from builder.cli.common import declare, say, shape_of
from builder.core.errors import ConfigError, OutputError
from builder.core.messages import count, failed

Failures = dict[str, str]

HELP = "write a dataset in another form"
EXAMPLE = """\
  letterset export dataset checkpoint/inference.json --to inference
  letterset export dataset amplify_data --to amplify --views agentview eye_in_hand
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    declare(parser, "dataset")
    declare(parser, "out", help="file or folder to write; must not exist")
    parser.add_argument("--to", required=True, choices=sorted(TARGETS), help="what to write")
    declare(parser, "--views", help="views, in the model's order")
    parser.add_argument("--tracks", metavar="LAYER", help="take the tracks of this layer")
    shape_help = "inference: only for videos of this size (default: a file for each size)"
    parser.add_argument("--coded-shape", type=shape_of, metavar="H W", help=shape_help)
    parser.add_argument(
        "--suite", default="libero_letterset", metavar="NAME", help="suite of an amplify tree"
    )
    parser.add_argument(
        "--view-name", metavar="NAME", help="segments: name of the view (default: default)"
    )
    parser.add_argument(
        "--split",
        metavar="TRAIN:VAL",
        help="amplify: two parts of a split, a suite for each, such as train:val of "
        "splits/default.json or tasks/train:tasks/val",
    )


def next_step(args: argparse.Namespace) -> str:
    """Say what reads it; some of the others say so with their result."""
    if args.to == "inference":
        return "letterset.Decoder.load(FILE), letterset.LiveWindows.load(FILE); " + shlex.join(
            ["letterset", "parity", args.dataset]
        )
    return f"letterset inspect {shlex.quote(args.out)}" if args.to == "lerobot" else ""


def run(args: argparse.Namespace) -> int:
    """Export; returns 1 when episodes are damaged, each listed, and 3 when all are."""
    from builder.dataset.opening import open_dataset

    out = Path(args.out)
    into_dataset = args.to == "card" and out.exists() and out.samefile(args.dataset)
    if out.exists() and not into_dataset:
        raise ConfigError(f"{out} exists already; choose another name or move it away")
    dataset = open_dataset(args.dataset, tracks=args.tracks)
    if args.split is not None and TARGETS[args.to] is not _amplify:
        raise ConfigError(f"--split is for amplify and amplify-attrs, not for {args.to}")
    failures: dict[str, str] = {}
    try:
        said = TARGETS[args.to](dataset, out, args, failures)
    finally:
        for episode_id, reason in failures.items():
            say(failed(episode_id, reason))
    say(said)
    return 1 if failures else 0


def _inference(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.inference import inference_meta, inference_metas

    if args.coded_shape:
        shape = args.coded_shape
        metas = [inference_meta(dataset, args.views, coded_shape=shape, failures=failures)]
    else:
        metas = inference_metas(dataset, args.views, failures=failures)
    places = [out] if len(metas) == 1 else _places(out, metas)
    said = []
    for place, meta in zip(places, metas, strict=True):
        shown = ", ".join(f"{view.name} {view.coded_shape}" for view in meta.views)
        said.append(f"{_write(place, meta.model_dump_json(indent=1))}: views {shown}")
    if len(said) > 1:
        said.append("one file per set of cameras: keep the one that has your robot's")
    return "\n".join(said)


def _places(out: Path, metas: list[Any]) -> list[Path]:
    """Name one file per record by the shapes of its views; refuse those that exist."""
    places: list[Path] = []
    for meta in metas:
        shapes = dict.fromkeys(view.coded_shape for view in meta.views)
        name = "-".join([out.stem, *(f"{height}x{width}" for height, width in shapes)])
        again = sum(place.stem.partition("_")[0] == name for place in places)
        places.append(out.with_name(f"{name}{f'_{again + 1}' if again else ''}{out.suffix}"))
    for place in places:
        if place.exists():
            raise ConfigError(f"{place} exists already; choose another name or move it away")
    return places


def _amplify(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.amplify import export_amplify

    target: Any = "attrs" if args.to == "amplify-attrs" else "upstream"
    notes: list[str] = []
    demos = export_amplify(
        dataset,
        out,
        target,
        views=args.views,
        suite=args.suite,
        split=args.split,
        failures=failures,
        notes=notes,
    )
    tasks = count(len({demo.task for demo in demos}), "task")
    said = f"wrote {out}: {count(len(demos), 'demonstration')} of {tasks}"
    if target == "upstream":
        said += f"; train with --config-dir {out}/cfg +letterset=dataset root_dir={out}"
    return _noted(notes, said)


def _segments(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.segments import export_segments

    notes: list[str] = []
    written = export_segments(
        dataset, out, args.views, view_name=args.view_name, failures=failures, notes=notes
    )
    return _noted(notes, f"wrote {out}: {count(len(written), 'file')}")


def _lerobot(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.lerobot import export_lerobot

    left_out = export_lerobot(dataset, out, args.views, failures=failures)
    rest = f"; arrays left out: {', '.join(left_out)}" if left_out else ""
    return f"wrote {out}: {count(len(dataset) - len(failures), 'episode')}{rest}"


def _tapvid(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.tapvid import export_tapvid

    notes: list[str] = []
    clips = export_tapvid(dataset, out, args.views, failures=failures, notes=notes)
    return _noted(notes, f"wrote {out}: {count(len(clips), 'clip')}")


def _card(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.card import dataset_card, put_card

    text = dataset_card(dataset, failures=failures)
    if not out.exists():
        return _write(out, text)
    notes = put_card(out, text)
    upload = (
        f"hf upload YOU/NAME {shlex.quote(str(out))} . --repo-type dataset --exclude 'runs/*' "
        "--exclude 'replaced/*'"  # which tell of machines, and what is there no more
    )
    return _noted(notes, f"wrote {out / 'README.md'}; to publish: {upload}")


def _noted(notes: list[str], said: str) -> str:
    return "\n".join([said, *(f"note: {note}" for note in notes)])


def _write(out: Path, text: str) -> str:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error}") from None
    return f"wrote {out}"


TARGETS = {
    "inference": _inference,
    "amplify": _amplify,
    "amplify-attrs": _amplify,
    "card": _card,
    "lerobot": _lerobot,
    "segments": _segments,
    "tapvid": _tapvid,
}
