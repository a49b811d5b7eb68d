"""On the robot: live camera frames into what the model saw in training, and back."""

from typing import TYPE_CHECKING

from builder.core.lazy import lazy_names

if TYPE_CHECKING:
    from builder.inference.live import LiveWindows as LiveWindows
    from builder.inference.preprocess import Preprocessor as Preprocessor

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
