"""Standard streams that outlast their readers, and text that commands no terminal."""

import io
import os
import subprocess
import sys

import pytest

from builder.core.standard_streams import escaped, write_line

pytestmark = pytest.mark.core

SCHEMA = [sys.executable, "-m", "builder.cli", "schema", "EpisodeMeta"]


def test_why_output_is_lost_is_told_where_it_still_can_be():
    run = ["bash", "-c", '"$@" >/dev/full', "bash", *SCHEMA]
    done = subprocess.run(run, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == "letterset: output is lost: standard output: No space left on device\n"


def test_a_reader_of_a_pipe_that_never_blocks_gets_all():
    expected = subprocess.run(SCHEMA, stdout=subprocess.PIPE, check=True).stdout
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(SCHEMA, stdout=writing) as run, open(reading, "rb") as stream:
        os.close(writing)
        read = stream.read(1)  # the rest when the pipe is full
        read += stream.read()
    assert run.returncode == 0
    assert read == expected


def test_no_file_gets_the_number_of_a_closed_stream():
    show = "import os; print(sorted(os.readlink(f'/proc/self/fd/{n}') for n in range(3)))"
    code = f"from builder.core.standard_streams import *; outlast_readers(); {show}"
    run = ["bash", "-c", '"$@" <&- 2>&-', "bash", sys.executable, "-c", code]
    done = subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.count("/dev/null") == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\rb\bc\x7f", r"a\rb\x08c\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("user\u202egpj.exe", r"user\u202egpj.exe"),
        ("ze\u200bro\ufeff", r"ze\u200bro\ufeff"),
        ("lines\n\tand tabs", "lines\n\tand tabs"),
        ("naïve Ωμέγα 文字\u3000क्\u200dष", "naïve Ωμέγα 文字\u3000क्\u200dष"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert escaped(text) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_no_encoding_brings_an_escape_back(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    write_line(stream, "\x9b2J \udc9b \x1b[2J 文")
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    assert shown.startswith(r"\x9b2J \udc9b \x1b[2J")
