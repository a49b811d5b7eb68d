"""The dataset card: a README.md with the YAML header that the Hugging Face hub expects."""

import json
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

from builder.core.errors import ConfigError
from builder.core.messages import count, pictures, points
from builder.core.paths import printable_path
from builder.core.spacing import spread
from builder.core.standard_streams import escaped
from builder.dataset.array_stats import array_stats
from builder.dataset.episodes import Dataset
from builder.dataset.folder import read_failures
from builder.stores.atomic import publish_text
from builder.transform.export.common import damage_of, plan_undamaged
from schemas.dataset import EpisodeMeta

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
"""The hub's size classes: where each ends, and what it is called."""

MAX_EPISODES = 5000

OURS = "letterset format version"

FILES_IN_A_FOLDER, FILES_IN_ALL = 10_000, 100_000
"""What the hub recommends a repository to have at most."""

LICENCES = {
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "wtfpl"),
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
    *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    *("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0"),
    *("odc-by", "odbl", "pddl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "unknown"),
}
"""The hub's names of licences, as far as data have them: https://hf.co/docs/hub/repositories-licenses."""


def dataset_card(dataset: Dataset, *, failures: dict[str, str] | None = None) -> str:
    """Return the card's text, from metadata, licences and statistics alone.

    ``failures`` takes the episodes of which these are damaged, with the reason; without it they
    are refused with a DatasetError.
    """
    dataset, metas = plan_undamaged(dataset, _metas, failures, damage_of("actions"))
    licences = sorted({meta.source.licence for meta in metas if meta.source.licence})
    header = {
        "pretty_name": printable_path(dataset.path.name),
        **_licence(licences),
        "task_categories": ["robotics"],
        "tags": ["letterset", "point-tracking", "motion-prior"],
        "size_categories": [SIZE_NAMES[bisect_right(SIZES, _windows(dataset))]],
        "viewer": False,  # the hub's reads tables, not episodes
    }
    shapes = Counter(
        f"{view.name}: {view.geometry.source_shape[0]} x {view.geometry.source_shape[1]}"
        for meta in metas
        for view in meta.views
    )
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n" + "\n".join(_body(dataset, licences, shapes)) + "\n"


def put_card(folder: Path, text: str) -> list[str]:
    """Write a card into the folder of its dataset, which is then ready for the hub.

    Returns what the hub will not like about the folder, in sentences.  Raises ConfigError when
    there is a README.md that letterset did not write, and OutputError.
    """
    card = folder / "README.md"
    if card.exists() and OURS not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"{card} is not a card that letterset wrote; move it away")
    publish_text(folder, card, text, replace=True)
    per_folder = Counter(path.parent for path in folder.rglob("*") if path.is_file())
    fullest, most = max(per_folder.items(), key=lambda item: item[1])
    said = []
    if most > FILES_IN_A_FOLDER:
        said.append(f"{fullest} has {most:,} files, and the hub takes {FILES_IN_A_FOLDER:,}")
    if per_folder.total() > FILES_IN_ALL:
        said.append(f"{per_folder.total():,} files, and the hub recommends {FILES_IN_ALL:,}")
    return [f"{each}: letterset subset makes parts of it" for each in said]


def _licence(licences: list[str]) -> dict[str, str]:
    """Return the header's lines on the licence, with a name of the hub's where it is one."""
    one = licences[0].strip().lower().replace(" ", "-") if len(licences) == 1 else ""
    if one in LICENCES:
        return {"license": one}
    named = re.sub(r"[^a-z0-9.]+", "-", one).strip("-")
    return {"license": "other", **({"license_name": named} if named else {})}


def _metas(dataset: Dataset) -> list[EpisodeMeta]:
    """Return metadata of episodes spread evenly over the dataset."""
    return [dataset[dataset.ids[k]].meta for k in spread(len(dataset), MAX_EPISODES)]


def _body(dataset: Dataset, licences: list[str], shapes: Counter[str]) -> Iterator[str]:
    meta = dataset.meta
    frames = sum(line.length for line in dataset.index.values())
    name = printable_path(dataset.path.name)
    yield f"# {_plain(name)}\n"
    steps = "a whole episode" if meta.mode == "episode" else count(meta.horizon, "step")
    contents = f"{count(len(dataset), 'episode')}, {count(frames, 'frame')}"
    yield (
        f"{contents}, {count(_windows(dataset), 'window')} of {steps}; "
        f"every frame {pictures(meta.img_shape, meta.config.get('geometry'))} (height x width), "
        f"points: {points(meta.queries.grid, meta.queries.region)}.\n"
    )
    yield "## Where it came from\n"
    yield from (f"- {shape} px, {count(views, 'view')}" for shape, views in shapes.most_common(20))
    failed = count(len(read_failures(dataset.path)), "source")
    yield f"- {failed} could not be built (see `failures/`)"
    yield f"- licences of the sources: {_plain(', '.join(licences)) or 'not recorded'}\n"
    yield "## Tracks\n"
    tracker = meta.tracker
    yield _plain(f"- tracker: {tracker.name} {tracker.version}, {tracker.licence}")
    yield _plain(f"- a point counts as visible when: {tracker.visibility.rule}")
    if notice := meta.tracker.settings.get("note"):
        yield _plain(f"- note: {notice}")
    stats = array_stats(dataset, "actions")
    if stats is not None:
        yield "\n## Actions\n"
        yield "| dimension | mean | std | min | max |\n|--:|--:|--:|--:|--:|"
        table = zip(stats.mean, stats.std, stats.min, stats.max, strict=True)
        for index, numbers in enumerate(table):
            yield f"| {index} | " + " | ".join(f"{number:.4g}" for number in numbers) + " |"
    yield "\n## Reading it\n"
    yield "```python"
    yield "from letterset import open_dataset\n"
    yield f"dataset = open_dataset({json.dumps(name, ensure_ascii=False)})"
    yield "```\n"
    yield f"{OURS} {meta.format_version}; digest `{meta.digest}`."


def _plain(text: str) -> str:
    """Return a line of text in which nothing is markup, a link or HTML, whoever wrote it."""
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", escaped(" ".join(text.split())))


def _windows(dataset: Dataset) -> int:
    return int(dataset.window_counts().sum())
