"""On the robot: live camera frames into what the model saw in training, and back."""

from builder.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
