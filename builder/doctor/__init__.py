"""Tells whether a dataset suits an img_shape."""
