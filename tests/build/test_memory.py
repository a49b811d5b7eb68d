"""Many episodes in one worker: memory and open files stay flat.

That memory does not grow with the length of a video is promised in test_promises.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from source_fixtures import write_video

CODE = """
import os, sys
from builder.build.backends import open_source
from builder.build.episode import Job, build_episode
from builder.build.config_file import load_config

config = load_config(None, sys.argv[1:])
for number, ref in enumerate(open_source(config).refs(), 1):
    build_episode(Job(config, ref), lambda done, total: None)
    if number in (60, 240):
        pages = int(open("/proc/self/statm").read().split()[1])
        print(pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd")))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_many_episodes_run_flat_in_memory_and_open_files(tmp_path):
    first = write_video(tmp_path / "videos" / "0.mp4", count=4, shape=(48, 64))
    for number in range(1, 240):
        os.link(first, first.with_name(f"{number}.mp4"))
    settings = [
        "img_shape=[48, 80]",
        "queries.grid=[2, 3]",
        "tracker.horizon=2",
        f"source.path={first.parent}",
        f"store.path={tmp_path / 'out'}",
    ]
    command = [sys.executable, "-c", CODE, *settings]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    (early, files), (late, more_files) = (map(int, x.split()) for x in done.stdout.splitlines())
    assert more_files == files
    # A leak of one frame buffer (11 kB) an episode would be 2 MB, of one file's cache far more.
    assert late - early < 2_000_000
