"""Datasets in other forms: one file per target."""
