"""Builds, reads and checks letterbox-standardized datasets."""
