"""One folder per format that episodes are stored in."""
