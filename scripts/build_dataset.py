"""Build a dataset: ``letterset build`` for those who start scripts."""

import sys

from builder.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
