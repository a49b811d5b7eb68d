"""The ``letterset`` command: parse, call, print."""

from builder.cli.main import main

__all__ = ["main"]
