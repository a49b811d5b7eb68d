"""How often the built-in tracker moves points that stand still, by texture.

Written by scripts/measure_false_motion.py; do not edit.  Of each way to set the tracker: what tells
it (``tracker``), and by preset one rate per bin of ``builder.report.still_points.EDGES``.  The
default comes first.
"""

from typing import Any

MEASURED: tuple[dict[str, Any], ...] = (
    {
        "rates": {
            "balanced": (0.0033, 0.0085, 0.007, 0.0038, 0.001, 0.0003, 0.0001, 0.0),
            "best": (0.004, 0.0089, 0.0061, 0.0015, 0.0016, 0.0002, 0.0002, 0.0),
            "fast": (0.006, 0.011, 0.0035, 0.0023, 0.0009, 0.0003, 0.0, 0.0002),
        },
        "tracker": {
            "kind": "dis",
            "name": "DIS optical flow, held to its query",
            "own": {"anchored": True, "colour_threshold": 30.0, "fb_threshold": 1.5},
        },
    },
    {
        "rates": {
            "balanced": (0.4411, 0.4411, 0.3259, 0.1641, 0.114, 0.052, 0.052, 0.052),
            "best": (0.4859, 0.4859, 0.3591, 0.1816, 0.1295, 0.0519, 0.0519, 0.0519),
            "fast": (0.3177, 0.3177, 0.2376, 0.1148, 0.0805, 0.0457, 0.0457, 0.0457),
        },
        "tracker": {
            "kind": "dis",
            "name": "DIS optical flow, chained",
            "own": {"colour_threshold": 30.0, "fb_threshold": 1.5},
        },
    },
)
