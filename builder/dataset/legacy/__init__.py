"""Datasets of the older route, opened like any other, without converting them.

The *older route* is the preprocessing of AMPLIFY and ATM before letterset: frames are resized to
a shorter side, tracked at that size, and the tracks stored in its pixels.  AMPLIFY keeps the size
as the attributes ``height`` and ``width`` of each view (or not at all), ATM stores shares of the
picture instead.  Loaders of that route stretch the tracks to ``img_shape``, normalize them and
clip them.  An *older file* is one HDF5 file of that route.
"""
