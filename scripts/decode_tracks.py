"""Decode points to source pixels: ``letterset decode`` for those who start scripts."""

import sys

from builder.cli import main

if __name__ == "__main__":
    sys.exit(main(["decode", *sys.argv[1:]]))
