"""robomimic: HDF5 demonstrations, pictures upright, depth beside them, splits in ``mask``."""

from typing import ClassVar

from builder.sources.kinds.hdf5_demos import DemoLayout, Demos, DemosConfig


class RobomimicConfig(DemosConfig):
    """Settings of the ``robomimic`` source."""


class Robomimic(Demos):
    """Demonstrations of robomimic; ``next_obs`` repeats ``obs`` and is left out."""

    Config: ClassVar = RobomimicConfig
    layout: ClassVar = DemoLayout(
        image_suffix="_image", orientation="none", map_suffixes=("_depth", "_segmentation")
    )
