"""What the bench scripts share: facts of the machine, and their sections of BENCHMARKS.md."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "BENCHMARKS.md"


def machine_facts(*packages: str) -> str:
    """Say in one line what was measured on: cores, architecture, versions; no names."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    head = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return ", ".join([head, *found]) + "."


def load_note() -> str:
    """Say how busy the machine was in the last minutes, the measurement itself included."""
    return f"Load average meanwhile: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores."


def write_section(name: str, title: str, text: str) -> None:
    """Put text between the marks of ``name`` in BENCHMARKS.md, under ``title`` when it is new."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = BENCHMARKS.read_text() if BENCHMARKS.exists() else "# Benchmarks\n"
    if begin not in old:
        old = f"{old.rstrip()}\n\n## {title}\n\n{begin}\n{end}\n"
    before, _, rest = old.partition(begin)
    after = rest.partition(end)[2]
    BENCHMARKS.write_text(f"{before}{begin}\n{text}\n{end}{after}")
