"""For training: windows, AMPLIFY-compatible normalization, metrics.  Importing it loads no torch."""
