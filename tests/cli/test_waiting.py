"""The line on a terminal while a verb is silent; elsewhere there is none."""

from __future__ import annotations

import io
import sys

from waiting import wait_until

from builder.cli import waiting as module
from builder.cli.common import say
from builder.cli.waiting import show_count, stop_waiting, waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch):
    """Not a fixture: between those and the test pytest sets the streams once more."""
    monkeypatch.setattr(module, "AFTER_SECONDS", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_silent_verb_shows_that_it_works_and_how_far(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with waiting("validate"):
        wait_until(lambda: "validate: " in terminal.getvalue())
        show_count(3, 9)
        wait_until(lambda: "validate: 3/9, " in terminal.getvalue())
    assert terminal.getvalue().endswith("\r\033[K")


def test_what_is_printed_gets_a_line_of_its_own(monkeypatch):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stdout", terminal)
    with waiting("report"):
        wait_until(lambda: "report: " in terminal.getvalue())
        monkeypatch.setattr(module, "AFTER_SECONDS", 3600.0)
        say("found something")
    assert "\r\033[Kfound something\n" in terminal.getvalue()


def test_nothing_is_shown_elsewhere(capsys):
    with waiting("plan"):
        show_count(1, 2)
        say("done")
        stop_waiting()
        show_count(2, 2)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("done\n", "")
