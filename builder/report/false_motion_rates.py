"""How often the built-in tracker moves points that stand still, by texture.

Written by scripts/measure_false_motion.py; do not edit.  One rate per bin of
``builder.report.still_points.EDGES``, by preset; ``TRACKER`` is what they hold for.
"""

from typing import Any

TRACKER: dict[str, Any] = {
    "kind": "dis",
    "name": "DIS optical flow, chained",
    "own": {"colour_threshold": 30.0, "fb_threshold": 1.5},
}
RATES: dict[str, tuple[float, ...]] = {
    "balanced": (0.4411, 0.4411, 0.3259, 0.1641, 0.114, 0.052, 0.052, 0.052),
    "best": (0.4859, 0.4859, 0.3591, 0.1816, 0.1295, 0.0519, 0.0519, 0.0519),
    "fast": (0.3177, 0.3177, 0.2376, 0.1148, 0.0805, 0.0457, 0.0457, 0.0457),
}
