"""What belongs to a dataset besides its episodes, and goes with them: failures and splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.catalog import read_failures, read_index
from builder.errors import DatasetError
from builder.finalize import replace_lines
from builder.splits import FOLDER, Splits, read_splits, write_splits
from builder.stores.staging import make_folders
from schemas.dataset import FailureLine


def carry_along(sources: Iterable[Path], out: Path) -> list[str]:
    """Bring failures and splits of the datasets at ``sources`` to the one made of them.

    Splits of one name are united; episodes that are not in ``out`` are left out of them.
    Returns a sentence for each thing that could not be brought.
    """
    sources, built = list(sources), read_index(out)
    failures: dict[str, FailureLine] = {}
    notes = []
    for source in sources:
        failures |= read_failures(source)
    if failures:
        lines = [failures[key] for key in sorted(failures) if key not in built]
        make_folders(out / "failures")
        replace_lines(out, "failures", lines)
    for name in sorted({path.stem for each in sources for path in (each / FOLDER).glob("*.json")}):
        try:
            found = [
                read_splits(each, name)
                for each in sources
                if (each / FOLDER / f"{name}.json").exists()
            ]
        except DatasetError as error:
            notes.append(f"splits {name} were left behind: {error}")
            continue
        write_splits(out, name, _united(found, built))
    return notes


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
