"""What convert, merge and subset share: they make a dataset of the episodes of others.

Episodes are taken one by one; then the failures, splits, layers and rows of the window table that
belong to them follow.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from builder.core.errors import DatasetError, NewerFormatError, StoreError
from builder.core.messages import count
from builder.core.records import record_data
from builder.core.result import Result
from builder.dataset.folder import DatasetWriter, read_failures, read_index
from builder.dataset.layers import LayerWriter, layer_names, layer_store, load_layer
from builder.dataset.splits import FOLDER, Splits, read_splits, write_splits
from builder.dataset.window_table import carry_window_stats
from builder.stores.atomic import make_folders
from builder.transform.finalize import replace_lines
from schemas.base import json_sha256
from schemas.dataset import FailureLine, IndexLine


@dataclass
class Gathered(Result):
    """What a merge or a subset brought together."""

    done_word: ClassVar[str] = "taken"

    out: str
    episodes: int = 0
    there: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Why an episode, or a part of a layer, could not be taken."""
    notes: list[str] = field(default_factory=list)

    @property
    def any_done(self) -> bool:
        """Whether any episode is there in the end."""
        return bool(self.episodes or self.there)

    def lines(self) -> list[str]:
        """List failures and notes."""
        return [*super().lines(), *(f"note: {note}" for note in self.notes)]

    def summary(self) -> str:
        """Count the episodes."""
        return (
            f"{count(self.episodes, 'episode')} {self.done_word}, {self.there} already there, "
            f"{len(self.failures)} failed"
        )


def gather(
    catalog: DatasetWriter, ids: Iterable[str], take: Callable[[str], IndexLine], result: Gathered
) -> None:
    """Take the episodes that are not in ``catalog`` yet, and list them there.

    Those for which ``take`` raises are listed as failures, in ``result`` and in ``catalog``.
    """
    done = catalog.index()
    for episode_id in ids:
        if episode_id in done:
            result.there += 1
            continue
        try:
            line = take(episode_id)
        except (DatasetError, NewerFormatError, StoreError) as error:
            result.failures[episode_id] = reason = str(error)
            stage = getattr(error, "stage", "open")
            catalog.fail(FailureLine(id=episode_id, path=episode_id, stage=stage, reason=reason))
            continue
        catalog.add(line)
        result.episodes += 1


def carry_along(sources: Iterable[Path], out: Path, failures: dict[str, str]) -> list[str]:
    """Bring failures, splits and layers of the datasets at ``sources`` to the one made of them.

    What has one name is united; episodes that are not in ``out`` are left out.  What is damaged
    is added to ``failures``, with the reason; returns a sentence for each thing that does not fit.
    """
    sources, built = list(sources), read_index(out)
    lines: dict[str, FailureLine] = {}
    notes = []
    for each in (out, *sources):
        lines |= read_failures(each)
    if lines:
        make_folders(out / "failures")
        replace_lines(out, "failures", [lines[key] for key in sorted(lines) if key not in built])
    for name in sorted({path.stem for each in sources for path in (each / FOLDER).glob("*.json")}):
        try:
            found = [
                read_splits(each, name)
                for each in sources
                if (each / FOLDER / f"{name}.json").exists()
            ]
        except DatasetError as error:
            failures[f"splits/{name}.json"] = str(error)
            continue
        if (key := _disputed(found, built)) is not None:
            notes.append(f"splits {name} are left out: the datasets put {key} into different parts")
            continue
        write_splits(out, name, _united(found, built))
    for name in sorted({name for each in sources for name in layer_names(each)}):
        there = [each for each in sources if name in layer_names(each)]
        try:
            notes += _layer(there, out, name, built, failures)
        except DatasetError as error:
            failures[f"layers/{name}"] = str(error)
    carry_window_stats(sources, out)
    return notes


def _layer(
    sources: list[Path],
    out: Path,
    name: str,
    built: Mapping[str, IndexLine],
    failures: dict[str, str],
) -> Iterator[str]:
    """Link the files of a layer that still fit; yield a sentence for what is left out."""
    metas = [load_layer(each, name) for each in sources]
    if len({json_sha256(record_data(meta)["tracks"]) for meta in metas}) > 1 or any(
        meta.made_by != metas[0].made_by for meta in metas
    ):
        yield f"layer {name} is left out: the datasets made it in different ways"
        return
    left = 0
    with LayerWriter(out, name, metas[0].made_by, metas[0].tracks) as layer:
        for source in sources:
            store = layer_store(source, name)
            for episode_id in store.ids():
                if episode_id not in built or layer.store.has(episode_id):
                    continue
                try:
                    with closing(store.open(episode_id)) as reader:
                        record: Any = reader.meta
                except (DatasetError, NewerFormatError) as error:
                    failures[f"layers/{name}/{episode_id}"] = str(error)
                    continue
                if record.base == built[episode_id].digest:
                    layer.store.adopt(store, episode_id)
                else:
                    left += 1
    if left:
        again = f"letterset {'track' if metas[0].tracks else 'embed'} {out} --name {name} ..."
        yield (
            f"layer {name}: {count(left, 'episode')} left out, made for an episode of another "
            f"digest; to make them again: {again}"
        )


def _disputed(found: list[Splits], built: Iterable[str]) -> str | None:
    """Return an episode that is, say, in train for one dataset and in val for another."""
    named = [{name: set(ids) for name, ids in splits.splits.items()} for splits in found]
    for key in built:
        parts = {frozenset(name for name in each if key in each[name]) for each in named}
        if len(parts - {frozenset()}) > 1:
            return key
    return None


def _united(found: list[Splits], built: Mapping[str, object]) -> Splits:
    united: dict[str, list[str]] = {}
    for splits in found:
        for name, ids in splits.splits.items():
            united[name] = sorted({*united.get(name, ()), *(key for key in ids if key in built)})
    # What they were made by no longer tells how they came about, unless it is the same.
    same = all(
        (s.by, s.shares, s.salt) == (found[0].by, found[0].shares, found[0].salt) for s in found
    )
    data = found[0].model_dump() if same else {}
    return Splits.model_validate({**data, "splits": united})
