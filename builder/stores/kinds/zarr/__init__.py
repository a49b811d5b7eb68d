"""Episodes as Zarr format 3."""
