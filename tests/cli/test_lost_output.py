"""Output that nobody reads is lost; the job and its exit code are not.  Real shells run these."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from legacy_fixtures import write_amplify
from source_fixtures import write_video

from builder.cli.main import VERBS, main
from builder.stores.kinds.hdf5 import Hdf5Store
from builder.testing.samples import Sample, sample_dataset
from schemas import Letterbox

COMMANDS = {
    "init": ("init videos --out c.yaml", 0),
    "preview": ("preview videos --out p.html --img-shape 30 50", 1),
    "plan": ("plan videos/good.mp4 img_shape=[30,50] store.path=none", 0),
    "build": ("build --source videos --out built --img-shape 30 50 tracker.kind=none", 1),
    "status": ("status data", 0),
    "finalize": ("finalize data", 0),
    "validate": ("validate bad", 1),
    "repair": ("repair bad", 1),
    "inspect": ("inspect videos", 1),
    "doctor": ("doctor data", 0),
    "stats": ("stats data", 0),
    "decode": ("decode points.json --geometry box.json --order xy --space norm", 0),
    "parity": ("parity data", 2),
    "track": ("track data --name again tracker.kind=lk tracker.horizon=3", 0),
    "embed": ("embed data --encoder json:dumps", 2),
    "convert": ("convert data converted kind=hdf5 frames.codec=jpeg", 0),
    "merge": ("merge data other merged", 0),
    "subset": ("subset data part --id a", 0),
    "split": ("split data --shares train=1", 0),
    "migrate": ("migrate old migrated --img-shape 30 50 --tracked 40 60", 0),
    "export": ("export data card.md --to card", 0),
    "report": ("report bad --out r.html", 1),
    "render": ("render data sheet.png --to contact-sheet", 0),
    "schema": ("schema EpisodeMeta", 0),
    "env": ("env", 0),
}

# By bash: "$@" is the command.
LOST = {
    "left": '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}',
    "full": '"$@" >/dev/full 2>&1',
    "closed": '"$@" >&- 2>&- <&-',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    write_video(folder / "videos" / "good.mp4", count=20)
    (folder / "videos" / "broken.mp4").write_bytes(b"this is no video")
    for name in ("data", "bad"):
        sample_dataset(folder / name, Hdf5Store(folder / name), [Sample("a"), Sample("b", seed=1)])
    sample_dataset(folder / "other", Hdf5Store(folder / "other"), [Sample("c")])
    damaged = folder / "bad" / "episodes" / "b.hdf5"
    damaged.write_bytes(damaged.read_bytes()[:-3000])
    write_amplify(folder / "old" / "demo_0.hdf5", {"front": (40, 60)}, attrs=False)
    box = Letterbox.fit(source_shape=(48, 90), img_shape=(30, 50))
    (folder / "box.json").write_text(box.model_dump_json())
    (folder / "points.json").write_text("[[0.5, 0.25]]")
    return folder


def files(folder):
    """What a command left; names of logs tell the moment."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if "runs" not in path.parts
    )


def test_every_verb_is_tried():
    assert set(COMMANDS) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_lost_output_loses_neither_the_job_nor_its_code(verb, folder, tmp_path, monkeypatch):
    words, code = COMMANDS[verb]
    running = {}
    for name, script in LOST.items():
        own = shutil.copytree(folder, tmp_path / name)
        command = ["bash", "-c", script, "bash", sys.executable, "-m", "builder.cli"]
        running[name] = subprocess.Popen(
            [*command, *words.split()], cwd=own, stdout=subprocess.DEVNULL
        )
    shutil.copytree(folder, tmp_path / "read")
    monkeypatch.chdir(tmp_path / "read")
    codes = {"read": main(words.split())}
    codes |= {name: each.wait() for name, each in running.items()}
    assert codes == dict.fromkeys(["read", *LOST], code)
    for name in LOST:
        assert files(tmp_path / name) == files(tmp_path / "read"), name


CHATTY = """
import sys
from builder.build.executors.kinds.processes import Processes
from builder.core.standard_streams import outlast_readers

def chatter(task, report):
    for stream in (sys.stdout, sys.stderr):
        stream.write("x" * 100_000)
        stream.flush()
        stream.write("left for the end")
    return task

if __name__ == "__main__":
    outlast_readers()
    found = [each.result for each in Processes(Processes.Config(), 1, 60.0).run(chatter, range(3))]
    sys.exit(found != [0, 1, 2])
"""


@pytest.mark.parametrize("way", LOST)
def test_a_worker_whose_output_is_lost_works_on(way, tmp_path):
    script = tmp_path / "chatty.py"
    script.write_text(CHATTY)
    run = ["bash", "-c", LOST[way], "bash", sys.executable, str(script)]
    assert subprocess.run(run, stdout=subprocess.DEVNULL, check=False).returncode == 0
