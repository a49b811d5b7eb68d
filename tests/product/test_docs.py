"""Every code block of the README and the docs is run, in order, as a reader would.

``python`` blocks of one file share their names.  ``bash`` blocks are ``letterset`` commands;
``sh`` blocks are for machines (make, pip) and are not run.  A block that cannot run here is
marked ``no-run`` (as in ```` ```python no-run ````) and counted below.  ``yaml`` blocks are
build configs and are validated.  A block with a title, as in ```` ```py title="mine.py" ````, is
saved under it.
"""

import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from golden_dataset import write_clip
from legacy_fixtures import amplify_folder
from places import ROOT
from pydantic import ValidationError
from source_fixtures import write_libero

from builder.cli import main
from schemas import BuildConfig

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUNNABLE = ("python", "bash", "yaml")
TRIED = ["img_shape=[128,128]", "source.kind=libero", 'source.episodes=["0:1"]']  # libero.md
# Pages to their numbers of blocks that cannot run here: they need weights, or files of the reader.
NO_RUN = {
    "cotracker.md": 1,
    "datasets.md": 1,
    "migrating.md": 2,
    "object-stores.md": 4,
    "other-trackers.md": 4,
    "training-amplify.md": 1,
}


def _blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory: videos, robot data, datasets made of them, ``OLD`` track files."""
    folder = tmp_path_factory.mktemp("docs")
    write_libero(folder / "libero", lengths=(18, 18))
    if find_spec("pyarrow"):
        from lerobot_fixtures import write_v3

        write_v3(folder / "lerobot")
    write_clip(folder / "videos" / "kitchen.mp4", (144, 256), 20)
    write_clip(folder / "videos" / "table.mp4", (96, 120), 18)
    amplify_folder(folder / "OLD")
    argv = ["build", "--source", str(folder / "videos"), "--out", str(folder / "dataset")]
    assert main([*argv, "--img-shape", "256", "256", "--quiet"]) == 0
    tried = {"source.path": folder / "libero", "store.path": folder / "libero_try"}
    parts = [f"{key}={value}" for key, value in tried.items()]
    assert main(["build", "--quiet", *parts, *TRIED]) == 0
    return folder


def test_pages_and_their_blocks_are_found():
    assert {"README.md", "geometry.md", "format.md", "index.md"} <= {page.name for page in PAGES}
    kinds = [info for page in PAGES for info, _ in _blocks(page)]
    assert kinds.count("python") >= 8
    assert kinds.count("bash") >= 2
    fences = sum(page.read_text(encoding="utf-8").count("\n```") for page in PAGES)
    assert fences == 2 * len(kinds)


def test_blocks_that_cannot_run_are_counted():
    marked = {
        page.name: sum(info.endswith(" no-run") for info, _ in _blocks(page)) for page in PAGES
    }
    assert {name: count for name, count in marked.items() if count} == NO_RUN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page, folder, tmp_path, monkeypatch):
    needs_torch = r"^from letterset import .*\b(Monitor|WindowDataset)|^letterset parity"
    if re.search(needs_torch, page.read_text("utf-8"), re.MULTILINE):
        pytest.importorskip("torch")
    if page.name == "lerobot.md":
        pytest.importorskip("pyarrow")
    if page.name == "object-stores.md":
        pytest.importorskip("fsspec")
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "cfg").symlink_to(ROOT / "cfg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {"__name__": "__main__"}
    for info, text in _blocks(page):
        if title := re.fullmatch(r'py title="([\w.]+)"', info):
            Path(title[1]).write_text(text, encoding="utf-8")
        elif info == "python":
            exec(compile(text, str(page), "exec"), names)
        elif info == "bash":
            _run_commands(text)
        elif info == "yaml":
            BuildConfig.model_validate(yaml.safe_load(text))


def _run_commands(text):
    lines = text.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.strip() and not line.startswith("#")]
    for line in commands:
        words = shlex.split(line, comments=True)
        assert words[0] == "letterset", f"only letterset commands are run, got: {line}"
        # The doctor's 1 is its opinion of the data.
        assert main(words[1:]) in ((0, 1) if words[1] == "doctor" else (0,)), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_wrong_config_in_the_docs_would_be_noticed():
    with pytest.raises(ValidationError):
        BuildConfig.model_validate(yaml.safe_load("img_shape: [0, 1]"))
