"""The reference is what the code says; the site builds offline, without a warning."""

import os
import re
import subprocess
import sys
from importlib import import_module

import pytest
from places import ROOT

from builder.core.errors import LettersetError


def _script(name):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def reference():
    make_reference = _script("make_reference")
    try:
        return make_reference, make_reference.pages()
    except LettersetError as error:
        pytest.skip(f"not every backend can load here: {error}")


def test_the_reference_is_what_the_code_says(reference):
    _, pages = reference
    committed = {path.name: path.read_text("utf-8") for path in ROOT.glob("docs/reference/*.md")}
    assert committed.keys() == pages.keys()
    stale = [name for name, text in pages.items() if committed[name] != text]
    assert not stale, f"{stale}: run python scripts/make_reference.py and commit docs/reference"


def test_the_reference_names_every_verb_and_every_option(reference):
    module, pages = reference
    for verb, parser in module.verbs().items():
        section = pages["cli.md"].split(f"## letterset {verb}\n")[1].split("\n## ")[0]
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                assert all(
                    f"`{name}" in section or name in section for name in action.option_strings
                ), (verb, action.option_strings)
        assert section.split("```sh\n")[1].split()[:2] == ["letterset", verb]


def test_a_changed_default_would_be_noticed(reference, monkeypatch):
    module, pages = reference
    from schemas.config import FrameStorage

    schema = FrameStorage.model_json_schema()
    schema["properties"]["quality"]["default"] = 90
    changed = module.fields_table(schema)
    assert changed not in pages["config.md"]
    assert changed.replace("`90`", "`95`") in pages["config.md"]


@pytest.mark.parametrize("name", ["geometry", "older_grid"])
def test_drawn_pictures_are_current(name):
    drawn = _script(f"{name}_picture").svg()
    assert (ROOT / "docs" / "images" / f"{name}.svg").read_text("utf-8") == drawn


def test_the_site_builds_offline_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    blocked = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, **blocked},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    written = {
        path.relative_to(ROOT / "docs").with_suffix("") for path in ROOT.glob("docs/**/*.md")
    }
    assert written <= {path.relative_to(tmp_path / "site").with_suffix("") for path in pages}
    for page in pages:
        text = page.read_text("utf-8")
        fetched = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(http[^"]*)', text
        )
        assert not fetched, f"{page.name} fetches {fetched}"
        assert "no-run" not in text
