"""Older track files into a dataset of format version 1."""
