"""For training: windows, AMPLIFY-compatible normalization, metrics; importing it loads no torch."""
