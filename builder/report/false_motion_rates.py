"""How often the built-in tracker moves points that stand still, by texture.

Written by scripts/measure_false_motion.py; do not edit.  Of each way to set the tracker: what tells
it (``tracker``), and by preset one rate per bin of ``builder.report.still_points.EDGES``.  The
default comes first.
"""

from typing import Any

MEASURED: tuple[dict[str, Any], ...] = (
    {
        "rates": {
            "balanced": (0.003, 0.0049, 0.0013, 0.0009, 0.0004, 0.0001, 0.0001, 0.0001),
            "best": (0.004, 0.0057, 0.0013, 0.0005, 0.0007, 0.0001, 0.0001, 0.0001),
            "fast": (0.0035, 0.006, 0.0018, 0.0016, 0.001, 0.0003, 0.0005, 0.0),
        },
        "tracker": {
            "kind": "dis",
            "name": "DIS optical flow, held to its query",
            "own": {"anchored": True, "colour_threshold": 30.0, "fb_threshold": 1.5},
        },
    },
    {
        "rates": {
            "balanced": (0.3223, 0.3996, 0.1804, 0.0978, 0.0491, 0.0142, 0.0085, 0.0033),
            "best": (0.3594, 0.4005, 0.1946, 0.1192, 0.0557, 0.0142, 0.008, 0.0018),
            "fast": (0.2333, 0.3199, 0.1366, 0.0683, 0.0332, 0.0124, 0.008, 0.0046),
        },
        "tracker": {
            "kind": "dis",
            "name": "DIS optical flow, chained",
            "own": {"colour_threshold": 30.0, "fb_threshold": 1.5},
        },
    },
)
