"""Datasets made the older way: read as they lie, or migrated."""
