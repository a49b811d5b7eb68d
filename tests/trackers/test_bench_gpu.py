"""What is prepared for a GPU runs on a CPU, at tiny sizes: every part of it, to its end."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("cotracker")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the script itself")
def test_every_part_runs(root):
    command = [sys.executable, str(root / "scripts/bench_gpu.py"), "--tiny", "--minutes", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line]
    found = {row[0] for row in table[2:]}
    assert found == {"tests", "windows", "memory", "copies", "feeding"}
    assert "NOT FINISHED" not in done.stdout
    assert "6 skipped" in done.stdout
    rates = [float(row[2].split()[0]) for row in table if row[0] == "windows"]
    assert len(rates) == 4
    assert min(rates) > 0
