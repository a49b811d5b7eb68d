"""What the filesystem of an output folder cannot do; said, because we cannot make up for it."""

from collections.abc import Iterator
from pathlib import Path

from builder.stores.atomic import stage, try_lock

# Object stores shown as folders: a rename is a copy and a deletion there, and may be half done.
_OBJECT_STORES = ("s3", "gcsfuse", "goofys", "geesefs", "rclone", "blobfuse", "ossfs", "cosfs")


def weaknesses(folder: Path) -> list[str]:
    """Return a sentence for each thing that the filesystem of a dataset folder lacks.

    Raises OutputError when the folder cannot be written.
    """
    found = []
    with stage(folder / "tmp", ".probe") as probe:
        knows_locks = try_lock(probe.descriptor) is not None
    if not knows_locks:
        found.append(
            f"the filesystem of {folder} knows no locks: nothing notices a second run of the same "
            "build or shard, so see to it that there is only one"
        )
    kind = filesystem_type(folder)
    if any(name in kind for name in _OBJECT_STORES):
        found.append(
            f"{folder} is on {kind}, where a rename is not one step: a run that is killed may "
            "leave half an episode. Build on a local or cluster disk and copy the result, or run "
            "letterset repair after an interruption"
        )
    return found


def filesystem_type(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the filesystem that holds a folder; empty where that is not known."""
    place = folder.resolve()
    # Of nested mounts the deepest counts, of mounts over each other the last.
    holding = ((at, kind) for at, kind in _mounts(mounts) if place.is_relative_to(at))
    found = [(len(at.parts), kind) for at, kind in holding]
    return max(reversed(found), key=lambda mount: mount[0], default=(0, ""))[1]


def _mounts(mounts: Path) -> Iterator[tuple[Path, str]]:
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        _, point, kind, *_ = line.decode("utf-8", "surrogateescape").split(" ")
        yield Path(_unescaped(point)), kind


def _unescaped(point: str) -> str:
    for code, char in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        point = point.replace(code, char)
    return point
