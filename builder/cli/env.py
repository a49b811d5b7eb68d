"""Print what a bug report needs: versions, machine, and which extras are there."""

import argparse
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from builder.cli.common import say
from builder.core.cores import available_cores

HELP = "print versions and machine, for a bug report"
EXAMPLE = """\
  letterset env
"""
NEXT = "paste all of this into the bug report"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare that there are no options."""


def run(args: argparse.Namespace) -> int:
    """Print it; returns 0."""
    say(f"letterset   {version('letterset')}, in {Path(__file__).parents[1]}")
    say(f"python      {platform.python_version()}, in {sys.prefix}")
    encoding = sys.stdout.encoding
    say(f"machine     {platform.platform()}, {available_cores()} cores, encoding {encoding}")
    for name in _packages():
        try:
            say(f"{name:27} {version(name)}")
        except PackageNotFoundError:
            say(f"{name:27} -")
    return 0


def _packages() -> list[str]:
    """Return the packages that letterset needs or can use, as it declares them."""
    found: dict[str, None] = {}
    for line in requires("letterset") or ():
        name = re.match(r"[\w.-]+", line)
        if name and not re.search("extra == .(dev|docs)", line):
            found.setdefault(name[0])
    return sorted(found)
