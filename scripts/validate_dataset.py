"""Validate a dataset: ``letterset validate`` for those who start scripts."""

import sys

from builder.cli import main

if __name__ == "__main__":
    sys.exit(main(["validate", *sys.argv[1:]]))
