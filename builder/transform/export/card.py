"""The dataset card: a README.md with the YAML header that the Hugging Face hub expects."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

import yaml

from builder.canvas.windows import window_counts
from builder.core.messages import count, pictures, points
from builder.core.spacing import spread
from builder.dataset.array_stats import array_stats
from builder.dataset.episodes import Dataset
from builder.dataset.folder import read_failures
from builder.transform.export.common import damage_of, plan_undamaged
from schemas.dataset import EpisodeMeta

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")
"""The hub's size classes: where each ends, and what it is called."""

MAX_EPISODES = 5000


def dataset_card(dataset: Dataset, *, failures: dict[str, str] | None = None) -> str:
    """Return the card's text, from metadata, licences and statistics alone.

    ``failures`` takes the episodes of which these are damaged, with the reason; without it they
    are refused with a DatasetError.
    """
    dataset, metas = plan_undamaged(dataset, _metas, failures, damage_of("actions"))
    licences = sorted({meta.source.licence for meta in metas if meta.source.licence})
    header = {
        "pretty_name": dataset.path.name,
        "license": licences[0].lower() if len(licences) == 1 else "other",
        "task_categories": ["robotics"],
        "tags": ["letterset", "point-tracking", "motion-prior"],
        "size_categories": [SIZE_NAMES[bisect_right(SIZES, _windows(dataset))]],
    }
    shapes = Counter(
        f"{view.name}: {view.geometry.source_shape[0]} x {view.geometry.source_shape[1]}"
        for meta in metas
        for view in meta.views
    )
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n" + "\n".join(_body(dataset, licences, shapes)) + "\n"


def _metas(dataset: Dataset) -> list[EpisodeMeta]:
    """Return metadata of episodes spread evenly over the dataset."""
    return [dataset[dataset.ids[k]].meta for k in spread(len(dataset), MAX_EPISODES)]


def _body(dataset: Dataset, licences: list[str], shapes: Counter[str]) -> Iterator[str]:
    meta = dataset.meta
    frames = sum(line.length for line in dataset.index.values())
    yield f"# {dataset.path.name}\n"
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
    yield f"- licences of the sources: {', '.join(licences) or 'not recorded'}\n"
    yield "## Tracks\n"
    yield f"- tracker: {meta.tracker.name} {meta.tracker.version}, {meta.tracker.licence}"
    yield f"- a point counts as visible when: {meta.tracker.visibility.rule}"
    if notice := meta.tracker.settings.get("note"):
        yield f"- note: {notice}"
    stats = array_stats(dataset, "actions")
    if stats is not None:
        yield "\n## Actions\n"
        yield "| dimension | mean | std | min | max |\n|--:|--:|--:|--:|--:|"
        table = zip(stats.mean, stats.std, stats.min, stats.max, strict=True)
        for index, numbers in enumerate(table):
            yield f"| {index} | " + " | ".join(f"{number:.4g}" for number in numbers) + " |"
    yield "\n## Reading it\n"
    yield "```python"
    yield "from builder import open_dataset\n"
    yield f'dataset = open_dataset("{dataset.path.name}")'
    yield "```\n"
    yield f"letterset format version {meta.format_version}; digest `{meta.digest}`."


def _windows(dataset: Dataset) -> int:
    return int(window_counts(dataset.meta, dataset.index.lengths).sum())
