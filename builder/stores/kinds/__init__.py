"""One module per format that episodes are stored in."""
