"""The folder for what lies here for a moment, on its way from a URL or to one."""

import os
import stat
import tempfile
from pathlib import Path

from builder.core.errors import OutputError
from builder.stores.atomic import output_errors


def scratch_folder() -> Path:
    """Return a folder that is ours alone, below that for temporary files (TMPDIR).

    Raises OutputError where somebody else made it.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"letterset-{user}"
    with output_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (user and found.st_uid != user):
        raise OutputError(f"{folder} is not a folder of yours: set TMPDIR to another place")
    return folder
