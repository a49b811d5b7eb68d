"""On the robot: live camera frames into what the model saw in training, and back."""

from builder.inference.preprocess import Preprocessor

__all__ = ["Preprocessor"]
