"""Two processes share an epoch, train one model on it, and go on where they stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from source_fixtures import write_video

from builder.cli import main

torch = pytest.importorskip("torch")

TRAIN = """
import json, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from builder import open_dataset
from builder.training import WindowDataset, WindowSampler

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
windows = WindowDataset(open_dataset(sys.argv[1]), images="none")
sampler = WindowSampler(len(windows), seed=1, rank=rank, world_size=world)
if len(sys.argv) > 2:
    sampler.load_state_dict(json.loads(sys.argv[2]))
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(2, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
seen = []
for batch in DataLoader(windows, batch_size=2, sampler=sampler, num_workers=1):
    loss = (model(batch["traj"]) - batch["traj"]).square().mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    seen += list(zip(batch["episode"], batch["t"].tolist()))
weights = [p.detach().clone() for p in model.parameters()]
for weight in weights:
    other = weight.clone()
    dist.broadcast(other, 0)
    assert torch.equal(weight, other), "the ranks' models differ"
print(json.dumps({"rank": rank, "seen": seen, "state": sampler.state_dict(4)}))
dist.destroy_process_group()
"""


def run_ranks(dataset, state=None):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", TRAIN, str(dataset), *([json.dumps(state)] if state else [])]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [json.loads(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return answers


def test_two_ranks_train_on_disjoint_halves_and_resume(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", count=19, shape=(40, 70))
    argv = ["--source", str(tmp_path / "videos"), "--out", str(tmp_path / "out"), "--quiet"]
    settings = ["queries.grid=[2, 3]", "tracker.horizon=4"]
    assert main(["build", *settings, *argv, "--img-shape", "32", "64"]) == 0
    first, second = run_ranks(tmp_path / "out")
    assert len(first["seen"]) == len(second["seen"]) == 8
    shown = {tuple(pick) for rank in (first, second) for pick in rank["seen"]}
    assert len(shown) == 16
    resumed = run_ranks(tmp_path / "out", first["state"])
    assert [rank["seen"] for rank in resumed] == [first["seen"][4:], second["seen"][4:]]
