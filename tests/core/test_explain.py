"""Every key of a config, fed what is wrong: what was got and expected, what would be right."""

from __future__ import annotations

import math
import shlex

import pytest
from pydantic import ValidationError

from builder.build.backends import check_backends
from builder.build.config_file import load_config, read_overrides
from builder.core.errors import ConfigError, MissingExtraError
from builder.core.explain import explain
from builder.core.registry import config_keys
from builder.training.window_options import WindowOptions, given_options

GOOD = {"img_shape": [256, 320], "source.path": "videos", "store.path": "dataset"}
KEYS = config_keys()
WRONG = (True, -1, 7, 2.5, math.nan, "mpxq", "", None, [], [3, 4, 5], ["a", 1.5], {"a": {"b": 1}})
RAW = ("http", "Input should", "input should", "[type=", "valid tuple", "Traceback", "\n")


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch):
    """Looking for plug-ins takes longer than all else here."""
    monkeypatch.setattr("builder.core.registry.entry_points", lambda group: ())


def settings_for(key):
    """Return what makes a config that has the key: its backend, and what that cannot do without.

    Following the examples of messages leads to it.
    """
    part = key.partition(".")[0]
    settings = {**GOOD, **({f"{part}.kind": KEYS[key][0]} if KEYS[key] else {})}
    if key == "source.clip.overlap":
        settings["source.clip.frames"] = 9
    if said := refused(settings):
        for example in said.split("; for example ")[1:]:
            name, _, value = example.split("; ")[0].partition("=")
            settings[name] = value
        assert not refused(settings)
    return settings


def refused(settings, overrides=()):
    try:
        check_backends(load_config(None, overrides, settings))
    except MissingExtraError:
        return None
    except ConfigError as error:
        return str(error)
    return None


def test_there_are_keys_of_all_levels():
    assert {"img_shape", "store.frames.codec", "source.frame_step", "tracker.weights"} <= {*KEYS}
    assert KEYS["source.frame_step"] == KEYS["tracker.horizon"] == []


def test_keys_of_trackers_that_need_torch_are_there():
    pytest.importorskip("torch")
    assert KEYS["tracker.support_grid"] == ["cotracker"]


@pytest.mark.parametrize("key", KEYS)
def test_what_is_wrong_gets_a_sentence_and_an_example_that_is_right(key):
    for wrong in WRONG:
        said = refused({**settings_for(key), key: wrong})
        if said is None:
            continue
        assert not any(raw in said for raw in RAW), said
        assert key in said, said
        parts = [part for part in said.split("; ") if not part.startswith("for example")]
        assert all(
            any(word in part for word in ("got ", "must be given", "unknown", "there are", "needs"))
            for part in parts
        ), said
        for example in said.split("; for example ")[1:]:
            (override,) = shlex.split(example.split("; ")[0])
            group, _, _ = key.rpartition(".")
            mended = {**settings_for(key)} if override.startswith(f"{key}=") else GOOD
            again = refused(mended, [override]) or ""
            assert f"{override.partition('=')[0]}: expected" not in again, (said, again, group)


@pytest.mark.parametrize("key", KEYS)
def test_a_near_name_is_guessed_at_its_level_and_the_name_at_any(key):
    group, _, name = key.rpartition(".")
    if len(name) > 4:
        for other in (name[:2] + name[3:], f"{name[:-1]}x"):
            misspelled = f"{group}.{other}".lstrip(".")
            said = refused({**settings_for(key), misspelled: 1})
            assert f"{misspelled}: unknown key" in said
            assert "did you mean" in said
    elsewhere = f"limits.{name}" if group != "limits" else f"queries.{name}"
    said = refused({**settings_for(key), elsewhere: 1}) or ""
    assert elsewhere in KEYS or f"{elsewhere}: unknown key (did you mean" in said


def test_a_key_of_another_kind_is_told():
    said = refused({**GOOD, "tracker.folder": "t"})
    assert said == (
        "tracker.folder: unknown key of this kind; tracker.kind=precomputed may have it"
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("source.orientation=180", "or a mapping to these, or null, got 180; for example "),
        ("img_shape=256", "each a whole number from 1 to 1000000, got 256; for example "),
        ("queries.grid=20", "for example queries.grid=[20,20]"),
        ("source.include=x*", "source.include: expected a list (of text), got 'x*'; for example '"),
        ("source.include=*.mp4", "put quotes around text with special characters, as in "),
        ("horizon=8", "horizon: unknown key (did you mean 'tracker.horizon'?)"),
        ("frame_step=2", "frame_step: unknown key (did you mean 'source.frame_step'?)"),
        ("path=x", "path: unknown key (did you mean 'source.path' or 'store.path'?)"),
        ("tracker=lk", "got 'lk'; for example tracker.kind=lk"),
        ("store.frames.codec=jpg", "got 'jpg'; for example store.frames.codec=jpeg"),
        ("tracker.input={short_side: 4}", "short_side: expected a whole number from 16 to 8192"),
        ("xyzzy=1", "xyzzy: unknown key; there are img_shape, geometry, "),
    ],
)
def test_what_newcomers_wrote(override, words):
    assert words in refused(GOOD, [override])


def test_spaces_around_the_sign_are_no_part_of_it():
    assert read_overrides(["tracker.horizon = 8"]) == {"tracker": {"horizon": 8}}


def test_options_of_python_are_written_as_in_python():
    with pytest.raises(ConfigError, match=r"got 256; for example img_shape=\[256, 256\]$"):
        given_options(None, {"img_shape": 256})
    with pytest.raises(ConfigError, match=r"split: expected FILE/PART.*'default/val'.*got 'val'"):
        given_options(None, {"split": "val"})
    with pytest.raises(ValidationError) as caught:
        WindowOptions.model_validate({"horizn": 3, "seed": -1})
    said = explain(caught.value, WindowOptions)
    assert "horizn: unknown key (did you mean 'horizon'?)" in said
    assert "seed: expected a whole number from 0, got -1; for example seed=0" in said
