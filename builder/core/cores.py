"""How many processor cores this process may use: of its affinity, its scheduler, its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath


def available_cores(
    environ: Mapping[str, str] = os.environ, proc: Path = Path("/proc/self")
) -> int:
    """How many cores this process may use: the least of what limits it, and at least 1.

    That is its affinity; ``SLURM_CPUS_PER_TASK``, which counts also where SLURM binds nothing; and
    the quotas of its control groups (version 1 and 2), a part of a core counted as one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    asked = environ.get("SLURM_CPUS_PER_TASK", "")
    task = int(asked) if asked.isascii() and asked.isdecimal() else cores
    return max(1, min(cores, task, *(math.ceil(quota) for quota in _quotas(proc))))


def _quotas(proc: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control groups and of those above them."""
    lines = _text(proc / "cgroup").splitlines()
    groups = dict(line.split(":", 2)[1:] for line in lines if line.count(":") >= 2)
    for line in _text(proc / "mounts").splitlines():
        _, mount, kind, options, *_ = f"{line}    ".split(" ")
        if kind == "cgroup2":
            name, files = groups.get(""), ["cpu.max"]
        elif kind == "cgroup" and "cpu" in options.split(","):
            name = next((groups[key] for key in groups if "cpu" in key.split(",")), None)
            files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        if name is None:
            continue
        # In a container the path may be that of the host, of which only the root is mounted.
        path = PurePosixPath("/", name).relative_to("/")
        for group in (path, *path.parents):
            words = " ".join(_text(Path(mount, group, file)) for file in files).split()
            if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
                yield int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # not Linux, or nothing of that kind
        return ""
