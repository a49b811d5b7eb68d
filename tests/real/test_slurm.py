"""The SLURM guide's script under a real SLURM of two nodes, both on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from source_fixtures import write_video
from waiting import wait_until

from builder.build.coverage import undone
from builder.dataset.folder import read_index
from builder.transform.finalize import finalize

if "LETTERSET_REAL_SLURM" not in os.environ:
    pytest.skip(".ci/run starts a SLURM where it can", allow_module_level=True)

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool-%n
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/%n.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AuthInfo=socket={at}/munge.socket
MpiDefault=none
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2
PartitionName=all Nodes=n[1-2] Default=YES State=UP
"""


def free_ports():
    """Three free ports, of which the last two follow each other."""
    for first in range(21000, 31000, 3):
        ports = (first, first + 1, first + 2)
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return ports
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which a cluster answers."""
    at = tmp_path_factory.mktemp("slurm")
    at.chmod(0o755)
    (at / "state").mkdir()
    host = socket.gethostname().partition(".")[0]
    (at / "slurm.conf").write_text(CONF.format(host=host, at=at, ports=free_ports()))
    env = {**os.environ, "SLURM_CONF": str(at / "slurm.conf")}
    subprocess.run(["mungekey", "--create", f"--keyfile={at}/key"], check=True)
    munge = [f"--{name}={at}/munge.{name[:4]}" for name in ("pid-file", "log-file", "seed-file")]
    places = [f"--key-file={at}/key", f"--socket={at}/munge.socket"]
    commands = [
        ["munged", "--foreground", "--force", *places, *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]
    running = []
    try:
        for command in commands:
            with (at / f"{command[0]}{len(running)}.out").open("wb") as log:
                running.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            if command[0] == "munged":
                wait_until((at / "munge.socket").exists)
        told = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        wait_until(lambda: subprocess.check_output(told, env=env, text=True).strip() == "2")
        yield env
    finally:
        subprocess.run(["scancel", "--user=root"], env=env)
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def test_the_script_of_the_guide(slurm, root, tmp_path):
    """Three tasks on two nodes build all of it, and nothing is left of their work."""
    for number in range(6):
        write_video(tmp_path / "videos" / f"{number}.mp4", count=5 + number, shape=(48, 90))
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "letterset"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m builder.cli "$@"\n')
    command.chmod(0o755)
    guide = Path(root, "docs/guides/slurm.md").read_text()
    out = tmp_path / "out"
    ours = f"--source {tmp_path}/videos --out {out} --img-shape 48 100 tracker.horizon=4"
    prepare = [sys.executable, "-m", "builder.cli", "build", *ours.split(), "--prepare"]
    token = subprocess.check_output(prepare, text=True).strip()
    changes = {
        "--cpus-per-task=8": "--cpus-per-task=2",
        "#SBATCH --mem=24G\n": "",
        "cfg/quickstart.yaml store.path=/shared/dataset": ours,
    }
    script = guide.split("```sh\n")[1].split("```")[0]
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    (tmp_path / "job.sh").write_text(script)
    path = f"{tmp_path / 'bin'}{os.pathsep}{slurm['PATH']}"
    env = {**slurm, "PATH": path, "PYTHONPATH": str(root)}

    submit = ["sbatch", "--wait", "--array=0-2", "--output=log-%a.txt", "job.sh", token]
    done = subprocess.run(submit, cwd=tmp_path, env=env, timeout=200)
    assert done.returncode == 0, [log.read_text() for log in tmp_path.glob("log-*.txt")]
    assert len(read_index(out)) == 6
    assert undone(out) == []
    assert finalize(out).problems == ()
    assert sorted(path.name for path in (out / "tmp").iterdir()) == []
