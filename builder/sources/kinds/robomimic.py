"""robomimic, and what others keep in its form: HDF5 demonstrations, depth, splits in ``mask``."""

from typing import ClassVar

from builder.sources.kinds.hdf5_demos import Demos, DemosConfig


class RobomimicConfig(DemosConfig):
    """Settings of the ``robomimic`` source."""


class Robomimic(Demos):
    """Demonstrations in robomimic's form; ``next_obs`` repeats ``obs`` and is left out."""

    Config: ClassVar = RobomimicConfig
    evidence: ClassVar = "pictures in data/<demo>/obs"
