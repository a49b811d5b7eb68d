"""One file per layout that is read."""
