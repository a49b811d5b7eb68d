"""Verifying a dataset: what is stored against what is said about it."""
