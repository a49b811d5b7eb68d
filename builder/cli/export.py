"""Write a dataset, or what is needed of it, in another form.

inference: one JSON to keep beside a checkpoint (views in order, geometry, queries, action
statistics), read with schemas.inference.Decoder. amplify: a tree that AMPLIFY's public
LiberoDataset loads unchanged. amplify-attrs: its track files alone, with the height and width
attributes of the older route. lerobot: a LeRobot v3.0 dataset with tracks as features. tapvid: a
pickle of clips in TAP-Vid's convention. card: a README.md for the Hugging Face hub.

Episodes are verified first: damaged ones are listed and left out, and the exit code is 1.
"""

import argparse
from pathlib import Path
from typing import Any

from builder.cli.common import declare, say
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
    parser.add_argument(
        "--tracks", metavar="LAYER", help="take the tracks that letterset track added"
    )
    parser.add_argument(
        "--suite", default="libero_letterset", metavar="NAME", help="suite of an amplify tree"
    )


def run(args: argparse.Namespace) -> int:
    """Export; returns 1 when episodes are damaged, each listed, and 3 when all are."""
    from builder.dataset.opening import open_dataset

    out = Path(args.out)
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another name or move it away")
    dataset = open_dataset(args.dataset, tracks=args.tracks)
    failures: dict[str, str] = {}
    try:
        said = TARGETS[args.to](dataset, out, args, failures)
    finally:
        for episode_id, reason in failures.items():
            say(failed(episode_id, reason))
    say(said)
    return 1 if failures else 0


def _inference(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.inference import inference_meta

    meta = inference_meta(dataset, args.views, failures=failures)
    views = ", ".join(view.name for view in meta.views)
    return f"{_write(out, meta.model_dump_json(indent=1))}: views {views}"


def _amplify(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.amplify import export_amplify

    target: Any = "attrs" if args.to == "amplify-attrs" else "upstream"
    demos = export_amplify(
        dataset, out, target, views=args.views, suite=args.suite, failures=failures
    )
    tasks = count(len({demo.task for demo in demos}), "task")
    said = f"wrote {out}: {count(len(demos), 'demonstration')} of {tasks}"
    if target == "attrs":
        return said
    return f"{said}; train with --config-dir {out}/cfg +letterset=dataset root_dir={out}"


def _lerobot(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.lerobot import export_lerobot

    left_out = export_lerobot(dataset, out, args.views, failures=failures)
    rest = f"; arrays left out: {', '.join(left_out)}" if left_out else ""
    return f"wrote {out}: {count(len(dataset) - len(failures), 'episode')}{rest}"


def _tapvid(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.tapvid import export_tapvid

    clips = export_tapvid(dataset, out, args.views, failures=failures)
    return f"wrote {out}: {count(len(clips), 'clip')}"


def _card(dataset: Any, out: Path, args: argparse.Namespace, failures: Failures) -> str:
    from builder.transform.export.card import dataset_card

    return _write(out, dataset_card(dataset, failures=failures))


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
    "tapvid": _tapvid,
}
