"""Where episodes go in AMPLIFY's tree: suites, file names of tasks and numbers of demos."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count

from builder.core.errors import ConfigError
from builder.dataset.episodes import Dataset, EpisodeData
from builder.inputs.listing import natural_key

DEMOS_PER_TASK = 50
"""LiberoDataset looks for demos 0 to 49 of a task."""
NAME_BYTES = 150

# LIBERO's own names; the loader counts on a scene of one digit, or on 10.
_SCENE = re.compile(r"[A-Z][A-Z0-9_]*SCENE(\d|10)_\w+")
# As LIBERO, AMPLIFY and ATM name them, in a file or as a file.
_DEMO = re.compile(r"(?:.*/)?demo_(\d{1,9})(?:\.\w+)?", re.DOTALL)


@dataclass(frozen=True)
class Demo:
    """Where an episode goes: a suite, a task and a number below 50."""

    suite: str
    task: str
    number: int
    episode: str
    moved: bool = False
    """Whether its source calls it ``demo_N`` and it could not become demo N of the suite."""

    @property
    def place(self) -> str:
        """Its place in the tree: ``<suite>/<task>_demo/demo_<number>``."""
        return f"{self.suite}/{self.task}_demo/demo_{self.number}"


def instruction(episode: EpisodeData) -> str:
    """Return what an episode's task is called, in words or in LIBERO's form."""
    return episode.meta.task or episode.meta.text or "task"


def plan_demos(dataset: Dataset, suite: str, validation: Collection[str] = ()) -> list[Demo]:
    """Give every episode a number within its task; those of ``validation`` go to ``<suite>_val``.

    What the source calls ``demo_N`` stays demo N, so that held-out shares and LIBERO's own files
    mean the same demos; the others take the numbers left, in natural order of their sources.
    From 50 on, and where two would share a number, they go on in ``<suite>_2`` and so on.

    Raises ConfigError for a suite, or naming a task, that the loader could not read.
    """
    if "libero" not in suite or not re.fullmatch(r"[\w.-]+", suite):
        raise ConfigError(
            f"AMPLIFY loads suites whose name contains 'libero', of letters, digits, '_', '-' "
            f"and '.'; got {suite!r}"
        )
    names: dict[str, str] = {}
    paths, tasks = {}, {}
    for key in dataset.ids:
        episode = dataset[key]
        paths[key] = episode.meta.source.path
        tasks[key] = _file_name(instruction(episode), names)
    found = {key: _DEMO.fullmatch(path) for key, path in paths.items()}
    numbers = {key: int(match[1]) for key, match in found.items() if match}
    order = sorted(paths, key=lambda key: (natural_key(paths[key]), key))
    taken: dict[tuple[str, str], set[int]] = defaultdict(set)
    free: dict[tuple[str, str], Iterator[int]] = defaultdict(count)
    demos = {}
    # Those that have a number come first: no other may take it.
    for key in sorted(order, key=lambda key: key not in numbers):
        part = f"{suite}_val" if key in validation else suite
        group = part, tasks[key]
        tried = count(numbers[key], DEMOS_PER_TASK) if key in numbers else free[group]
        position = next(each for each in tried if each not in taken[group])
        taken[group].add(position)
        more, number = divmod(position, DEMOS_PER_TASK)
        name = part if more == 0 else f"{part}_{more + 1}"
        demos[key] = Demo(name, tasks[key], number, key, moved=key in numbers and more > 0)
    return [demos[key] for key in order]


def _file_name(text: str, names: dict[str, str]) -> str:
    """Return a file name that AMPLIFY turns into ``text`` again: words joined by underscores.

    LIBERO's own names, which begin with a scene in capitals, are kept.  ``names`` are those
    taken, with the words they stand for; texts that would share one get a number.
    """
    name = text
    if not _SCENE.fullmatch(text):
        words = re.sub(r"[\W_]+", "_", text.lower()).strip("_")
        name = words.encode()[:NAME_BYTES].decode(errors="ignore") or "task"
    if "_demo" in name:
        raise ConfigError(
            f"task {text!r}: AMPLIFY cuts '_demo' out of file names, so it would look for the "
            f"wrong ones; leave it out (letterset subset) or rename the task"
        )
    words, number, wanted = re.sub(r"[\W_]+", " ", text.lower()).strip(), 1, name
    while names.setdefault(name, words) != words:
        number += 1
        name = f"{wanted}_{number}"
    return name
