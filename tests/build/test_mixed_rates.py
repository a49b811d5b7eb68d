"""Clips of different frame rates in one dataset are told before, during and after a build."""

from __future__ import annotations

import json

import pytest
from source_fixtures import write_video

from builder.canvas.frame_rates import FrameRates
from builder.cli import main

TOLD = "20 to 60 per second: 16 steps last 0.27 to 0.8 s"
CURE = "source.fps=20"
SETTINGS = ["queries.grid=[3, 4]", "img_shape=[24, 40]"]


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ([], None),
        ([None, None], None),
        ([30.0, None], None),
        ([29.97, 30.0], None),
        ([24.0, 25.0], None),
        ([20, 30, 60, None], "source.fps=20,"),
        ([60, 19.98], "source.fps=19.98,"),
        ([24000 / 1001, 60], "source.fps=23.97,"),  # never above the slowest
        ([0.005, 1], "source.fps=0.005,"),
    ],
)
def test_rates_that_differ_are_told_with_the_slowest(rates, told):
    found = FrameRates()
    for rate in rates:
        found.add(rate)
    said = found.mixed(16)
    assert (said is None) == (told is None)
    assert told is None or told in said


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for fps in (20, 30, 60):
        write_video(folder / f"at{fps}.mp4", 24, (36, 60), fps=fps)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "SOURCE"],
        ["init", "SOURCE", "--out", "TMP/new.yaml"],
        ["plan", "SOURCE", *SETTINGS, "store.path=TMP/out"],
        ["plan", "SOURCE", *SETTINGS, "store.path=TMP/out", "--json"],
        ["build", *SETTINGS, "--source", "SOURCE", "--out", "TMP/out", "--dry-run"],
        ["build", *SETTINGS, "--source", "SOURCE", "--out", "TMP/out"],
    ],
    ids=lambda words: " ".join(words[:1] + words[-1:]),
)
def test_told_before_a_build_with_the_cure(videos, tmp_path, capsys, words):
    words = [w.replace("SOURCE", str(videos)).replace("TMP", str(tmp_path)) for w in words]
    assert main(words) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert TOLD in said
    assert CURE in said
    if words[0] == "init":
        assert TOLD in (tmp_path / "new.yaml").read_text()


def test_the_cure_cures_and_a_dataset_tells(videos, tmp_path, capsys):
    for name, extra in (("mixed", []), ("even", [CURE])):
        out = str(tmp_path / name)
        assert main(["build", *SETTINGS, *extra, "--source", str(videos), "--out", out]) == 0
        said = "".join(capsys.readouterr())
        assert (TOLD in said) == (name == "mixed")
        main(["inspect", out, "--json"])
        assert (TOLD in json.dumps(json.loads(capsys.readouterr().out))) == (name == "mixed")
        main(["doctor", out])
        assert (TOLD in capsys.readouterr().out) == (name == "mixed")
        page = tmp_path / f"{name}.html"
        main(["report", out, "--out", str(page), "--episodes", "1"])
        capsys.readouterr()
        assert (TOLD in page.read_text()) == (name == "mixed")
