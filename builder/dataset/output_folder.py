"""Which folders a dataset may be written to: an empty one, or one that letterset made."""

from pathlib import Path

from builder.core.errors import ConfigError, OutputError
from builder.core.own_files import META_NAME
from builder.core.paths import is_url, shown_url

# What an earlier or a concurrent run may have left before dataset.json was written.
_OURS = {META_NAME, "index", "failures", "tmp", "runs", "stats", "splits", "layers"}
_PASSED = _OURS | {"replaced", "lost+found"}


def check_output_folder(folder: Path | str) -> None:
    """Check that a dataset may be written to a folder; changes nothing.

    Raises ConfigError for a URL and for a folder that holds something other than a dataset, and
    OutputError for a file.
    """
    if is_url(folder):
        raise ConfigError(
            f"{shown_url(folder)}: writing to object stores is not supported: build into a "
            "local folder and copy it"
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder: choose another output folder")
    if not folder.is_dir() or (folder / META_NAME).exists():
        return
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return  # writing will tell what is wrong
    # Stores keep episodes under names of their own, such as episodes.zarr; damaged.2 may exist.
    begins = (".", "episodes", "damaged")
    foreign = [name for name in names if not (name in _PASSED or name.startswith(begins))]
    if foreign:
        raise ConfigError(
            f"{folder} is not empty and holds no dataset (there is {foreign[0]}): choose another "
            "output folder"
        )
