"""Configs: safe, strict, and errors that say what to do."""

from __future__ import annotations

import sys

import pytest

from builder.build.backends import check_backends
from builder.build.config_file import load_config
from builder.core.errors import ConfigError

MINIMAL = "img_shape: [240, 320]\nsource: {path: videos}\nstore: {path: out}\n"


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_file_options_and_overrides_in_that_order(tmp_path):
    config = load_config(
        write(tmp_path, MINIMAL + "tracker: {horizon: 4}\n"),
        ["tracker.horizon=8", "store.frames.codec=jpeg"],
        {"tracker.horizon": 6, "source.path": "elsewhere"},
    )
    assert config.img_shape == (240, 320)
    assert config.tracker.horizon == 8
    assert config.store.frames.codec == "jpeg"
    assert config.source.path == "elsewhere"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINIMAL + "tracker: {horzon: 4}\n", ["horzon", "did you mean 'tracker.horizon'"]),
        (MINIMAL + "qeries: {}\n", ["qeries", "did you mean 'queries'"]),
        ("img_shape: [0, 5]\n", ["img_shape[0]: expected a whole number from 1 to 1000000, got 0"]),
        ("img_shape: [-3, 5]\n", ["img_shape[0]", "got -3"]),
        ("img_shape: [2.5, 5]\n", ["img_shape[0]", "whole", "got 2.5"]),
        ("img_shape: ['4', 5]\n", ["img_shape[0]", "whole", "got '4'"]),
        ("img_shape: 256\n", ["expected a list of 2, each", "got 256; for example img_shape=["]),
        ("img_shape: !!python/object/apply:os.getcwd []\n", ["not plain YAML", "refused"]),
        ("- a list\n", ["mapping", "list"]),
        ("img_shape: [1, 2\n", ["not plain YAML", "line 2, column 1: while parsing a flow"]),
        ("img_shape: [1, 2]\n", ["source: this must be given", "source.path=", "store: this must"]),
    ],
)
def test_bad_configs_are_named(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        check_backends(load_config(path))
    for word in [*words, *([] if "horzon" in text else ["config.yaml"])]:
        assert word in str(caught.value)


def test_missing_config_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_folder_given_as_config_is_told_where_to_go(tmp_path):
    with pytest.raises(ConfigError, match=r"is a folder, not a config; .* letterset build "):
        load_config(tmp_path)


@pytest.mark.parametrize("override", ["horizon", "=4", "img_shape.0.1=4"])
def test_bad_overrides_are_named(tmp_path, override):
    with pytest.raises(ConfigError, match=r"key=value|not a group|horizon"):
        load_config(write(tmp_path, MINIMAL), [override])


def test_unknown_kind_names_the_near_one(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), ["tracker.kind=diss"])
    with pytest.raises(ConfigError, match=r"unknown tracker kind 'diss' \(did you mean 'dis'\?"):
        check_backends(config)


def test_content_leaves_out_where_things_lie_and_who_works(tmp_path):
    path = write(tmp_path, MINIMAL)
    one = load_config(path, ["executor.workers=1"])
    two = load_config(path, ["executor.workers=2", "source.path=a", "store.path=b"])
    assert one.content() == two.content()
    assert load_config(path, ["tracker.horizon=3"]).content() != one.content()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "img_shape: [240, 321]\n", "line 4: the key 'img_shape' is there twice"),
        (MINIMAL + "tracker: {horizon: 4, kind: dis, horizon: 5}\n", "'horizon' is there twice"),
        (MINIMAL + "tracker:\n  horizon: 4\n  horizon: 4\n", "line 6: the key 'horizon'"),
        (MINIMAL + "tracker: " + "[" * 100_000, "nested too deeply"),
        (MINIMAL + "tracker: " + "[" * 200 + "]" * 200, "nested too deeply"),
        (MINIMAL + "tracker: " + "{a: " * 5_000 + "1" + "}" * 5_000, "nested too deeply"),
        (MINIMAL + "tracker: &t {horizon: [*t]}\n", "nested too deeply"),
        (
            MINIMAL
            + "a0: &a0 [1, 1]\n"
            + "".join(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]\n" for at in range(1, 30)),
            "holds too much",
        ),
    ],
    ids=range(8),
)
@pytest.mark.usefixtures("recursion_limit")
def test_what_is_there_twice_or_endless_is_refused(tmp_path, text, says):
    with pytest.raises(ConfigError, match=rf"config\.yaml.*{says}"):
        load_config(write(tmp_path, text))


@pytest.fixture(params=[None, 20_000])
def recursion_limit(request):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(request.param or limit)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("recursion_limit")
@pytest.mark.parametrize("override", ["tracker=" + "[" * 5_000, "a." * 3_000 + "b=1", "a=&x [*x]"])
def test_overrides_without_an_end_are_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="nested too deeply") as caught:
        load_config(write(tmp_path, MINIMAL), [override])
    assert len(str(caught.value)) < 20_000


def test_merge_keys_are_no_duplicates(tmp_path):
    text = MINIMAL + "tracker: {<<: &t {horizon: 4, kind: dis}, horizon: 5}\n"
    assert load_config(write(tmp_path, text)).tracker.horizon == 5
