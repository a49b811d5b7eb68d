"""Every option of every verb, misspelled and fed what is wrong, and the words around them."""

from __future__ import annotations

import argparse

import pytest

from builder.cli import main
from builder.cli.common import number, percentage, shape_of, whole
from builder.cli.main import GROUPS, SYNONYMS, VERBS, parser

PARSERS = next(each for each in parser()._actions if each.dest == "verb").choices
OPTIONS = [
    (verb, action)
    for verb in VERBS
    for action in PARSERS[verb]._actions
    if action.option_strings and action.dest != "help"
]


def refused(capsys, verb, *words):
    """Return what is said of a command that has all that is needed, and these words."""
    argv = [verb]
    for action in PARSERS[verb]._actions:
        if not action.option_strings and action.nargs in (None, "+"):
            argv.append("x")
        elif action.option_strings and action.required and action.option_strings[0] not in words:
            argv += [action.option_strings[0], (action.choices or ["a=1"])[0]]
    with pytest.raises(SystemExit) as caught:
        main([*argv, *words])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"letterset {verb}: ")
    assert said.endswith(f"\nTry: letterset {verb} --help\n")
    assert len(said.splitlines()) == 2
    assert "Traceback" not in said
    assert "http" not in said
    return said


@pytest.mark.parametrize(("verb", "action"), OPTIONS, ids=lambda each: getattr(each, "dest", each))
def test_an_option_says_what_it_takes(verb, action, capsys):
    name = action.option_strings[-1]
    if len(name) > 5:
        wrong = name[:-3] + name[-2:]
        assert f"no option {wrong} (did you mean " in refused(capsys, verb, wrong)
    if action.nargs == 0:
        return
    if action.nargs != "?":
        assert f"{name}: expected " in refused(capsys, verb, name)
    if action.choices:
        near = f"{action.choices[0]}x"
        said = refused(capsys, verb, name, near)
        assert f"{name}: expected {' or '.join(action.choices)}, got {near!r} (did you" in said
    expected = {
        whole: "a whole number, got 'wide'",
        number: "a number, got 'wide'",
        percentage: "a percentage such as 5%, got 'wide'",
        shape_of: "height and width in whole pixels, such as 256 256, got wide",
    }
    if action.type is not None:
        assert f"{name}: expected {expected[action.type]}\n" in refused(capsys, verb, name, "wide")


@pytest.mark.parametrize(("word", "verb"), SYNONYMS.items())
def test_what_others_call_it_is_known(word, verb, capsys):
    assert verb in VERBS
    assert word not in VERBS
    with pytest.raises(SystemExit):
        main([word, "videos"])
    assert f"no verb {word!r} (did you mean {verb!r}?)" in capsys.readouterr().err


def test_help_has_every_verb_once_in_its_group(capsys):
    assert main(["help"] if main([]) else []) == 0
    text = capsys.readouterr().out
    for group, verbs in GROUPS.items():
        after = text.split(f"\n{group}:\n")[1]
        assert [line.split()[0] for line in after.splitlines()[: len(verbs)]] == [*verbs]
    with pytest.raises(SystemExit):
        main(["help", "split"])
    assert "usage: letterset split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (["--img-shape", "240", "320"], (240, 320)),
        (["--img-shape=240", "320"], (240, 320)),
        (["--img-shape", "240x320"], (240, 320)),
        (["--img-shape", "240,320"], (240, 320)),
    ],
)
def test_a_shape_takes_no_more_than_its_words(words, shape):
    found = parser().parse_args(["build", *words, "videos", "out", "tracker.horizon=8"])
    assert found.img_shape == shape
    assert found.given == ["videos", "out", "tracker.horizon=8"]


def test_options_of_several_words_may_stand_before_what_is_read():
    found = parser().parse_args(["migrate", "--tracked", "48", "64", "old", "new"])
    assert (found.tracked, found.legacy, found.out) == ("48 64", "old", "new")
    found = parser().parse_args(["migrate", "--tracked", "a=4x6", "b=8x6", "old", "new"])
    assert (found.tracked, found.legacy) == ("a=4x6 b=8x6", "old")
    found = parser().parse_args(["split", "--shares", "train=0.9", "val=0.1", "data"])
    assert (found.shares, found.dataset) == ("train=0.9 val=0.1", "data")


def test_an_option_that_takes_all_words_behind_it_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--to", "card", "--views", "front", "data", "out"])
    said = capsys.readouterr().err
    assert "are required: DATASET, OUT (before --views, which takes all the words" in said


def test_types_say_what_was_expected():
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected height and width .* got 256"):
        shape_of("256")
