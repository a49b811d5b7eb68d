"""Episodes as HDF5 files."""
