"""The ``letterset`` command, also as ``python -m letterset``."""

import sys


def main() -> int:
    """Run the command; returns its exit code."""
    from builder.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
