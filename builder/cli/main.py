"""The parser and the way errors become sentences and exit codes.

Exit codes: 0 good; 1 finished, but inputs failed or problems were found (each listed), or a
folder is no whole dataset; 2 bad usage or config, or an input that is not there, before any work;
3 nothing could be built (a shard: 1); 4 output unusable; 130 or 143 interrupted; 70 a bug of ours.
"""

import argparse
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from shlex import quote
from typing import Any

from builder.cli.common import SHAPES, WORDS, check_inputs, help_text, say
from builder.cli.urls import fetch_url
from builder.cli.waiting import waiting
from builder.core.errors import LettersetError
from builder.core.messages import near
from builder.core.registry import raise_missing_extra
from builder.core.standard_streams import escaped, outlast_readers, write_line

# One verb is one module in builder.cli with HELP, EXAMPLE, arguments(parser) and run(args). What
# to do after it ended well is NEXT, text with arguments in braces, or what next_step(args) returns;
# with GOES_ON = True also where some inputs could not be read (exit code 1).
GROUPS = {
    "start": ("init", "preview", "build", "status"),
    "check": ("validate", "inspect", "doctor", "report", "parity"),
    "use": ("export", "decode", "render", "split"),
    "manage": ("subset", "merge", "convert", "track", "embed", "stats"),
    "cluster": ("plan", "finalize"),
    "mend": ("repair",),
    "older files": ("migrate",),
    "about": ("schema", "env"),
}
VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)

# What other programs call it.
SYNONYMS = {
    **dict.fromkeys(("info", "list", "ls", "show", "describe", "stat"), "inspect"),
    **dict.fromkeys(("check", "verify", "test", "fsck"), "validate"),
    **dict.fromkeys(("view", "visualize", "open", "browse"), "report"),
    **dict.fromkeys(("draw", "plot", "video"), "render"),
    **dict.fromkeys(("new", "start", "config", "setup"), "init"),
    **dict.fromkeys(("create", "make", "run", "resume", "process", "preprocess"), "build"),
    **dict.fromkeys(("estimate", "cost", "dry-run"), "plan"),
    **dict.fromkeys(("progress", "watch"), "status"),
    **dict.fromkeys(("filter", "select"), "subset"),
    **dict.fromkeys(("concat", "join", "combine"), "merge"),
    **dict.fromkeys(("fix", "recover"), "repair"),
    **dict.fromkeys(("upgrade", "import", "legacy"), "migrate"),
    **dict.fromkeys(("version", "versions", "bug"), "env"),
}

INTRO = """\
Build letterbox-standardized datasets of point tracks from robot videos.

  letterset preview VIDEOS                      look before you build
  letterset build VIDEOS DATASET --img-shape 256 256
  letterset validate DATASET                    verify that it is whole
  letterset inspect DATASET                     what is in it
  letterset help VERB                           all about one verb
"""


_SETTING = re.compile(
    r"(img_shape|geometry|short_side|(source|queries|tracker|store|executor|limits)\.[\w.]+)="
)


# The others: what SLURM sends before its end, as our guide asks for it, and as submitit does.
_TO_END = ("SIGTERM", "SIGUSR1", "SIGUSR2")


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Let settings and sources stand anywhere: argparse takes no positionals after options."""
        found, rest = self.parse_known_args(_joined(sys.argv[1:] if args is None else args))
        verb = getattr(found, "parser", self)
        into = next((name for name in ("given", "overrides") if name in found), "")
        for word in rest:
            if word.startswith("-") or not (into == "given" or (into and "=" in word)):
                verb.error(f"there is no {_option_or_argument(word, verb)}")
        if into:
            settings = [*getattr(found, into), *rest, *verb._settings_among(found, into)]
            setattr(found, into, settings)
        return found

    def _settings_among(self, found: Any, into: str) -> list[str]:
        """Take the settings out of options with many values, which swallow what follows them."""
        settings = []
        for name, words in vars(found).items():
            if name == into or not isinstance(words, list):
                continue
            swallowed = [word for word in words if _SETTING.match(str(word))]
            settings += swallowed
            words[:] = [word for word in words if word not in swallowed]
            if swallowed and not words:
                self.error(f"argument --{name}: expected at least one argument")
        return settings

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        if action.dest == "verb":
            meant = SYNONYMS.get(value)
            said = f" (did you mean {meant!r}?)" if meant else near(value, choices)
            raise argparse.ArgumentError(None, f"there is no verb {value!r}{said}")
        said = f"expected {' or '.join(choices)}, got {value!r}{near(value, choices)}"
        raise argparse.ArgumentError(action, said)

    def error(self, message: str) -> Any:
        message = re.sub("^argument ([^ ]+): ", r"\1: ", message)
        greedy = [each for each in self._actions if each.nargs == "+" and each.option_strings]
        if "arguments are required" in message and greedy:
            words = " or ".join(each.option_strings[0] for each in greedy)
            message += f" (before {words}, which takes all the words behind it)"
        self.exit(2, escaped(f"{self.prog}: {message}\nTry: {self.prog} --help\n"))

    def format_help(self) -> str:
        if self.prog != "letterset":
            return super().format_help()
        told = [f"usage: letterset VERB ...\n\n{INTRO}"]
        for group, verbs in GROUPS.items():
            told.append(f"{group}:")
            told += [f"  {verb:9} {import_module(f'builder.cli.{verb}').HELP}" for verb in verbs]
        return "\n".join([*told, "", "letterset --version prints the version.\n"])


def _joined(words: Sequence[str]) -> list[str]:
    """Put the words of options that take several into one, for argparse to take no more."""
    found: list[str] = []
    for word in words:
        option, equals, given = (found[-1] if found else "").partition("=")
        looks = WORDS.get(option)
        half = option in SHAPES and given.isdecimal() and not word.startswith("-")
        if looks and (half or looks.fullmatch(word)) and found[-1] != "--":
            found[-1] += f"{' ' if equals else '='}{word}"
        else:
            found.append(word)
    return found


def _option_or_argument(word: str, verb: argparse.ArgumentParser) -> str:
    """Name what stands on the command line and is not known there."""
    if not word.startswith("-"):
        return f"place for {word!r}: a name with spaces needs quotes"
    option = word.partition("=")[0]
    return f"option {option}{near(option, list(verb._option_string_actions))}"


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        return help_text(action)


def parser() -> argparse.ArgumentParser:
    """Build the whole command-line parser, one subparser per verb."""
    root = _Parser(prog="letterset")
    root.add_argument("--version", action="version", version=f"letterset {version('letterset')}")
    verbs = root.add_subparsers(dest="verb", metavar="VERB")
    for name in VERBS:
        module = import_module(f"builder.cli.{name}")
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=(module.__doc__ or "").strip(),
            epilog="example:\n" + module.EXAMPLE,
            formatter_class=_Help,
        )
        module.arguments(verb)
        verb.set_defaults(run=module.run, parser=verb)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (default: the process's); returns its exit code.

    Without ``argv`` this is the process's command: its standard streams outlast their readers.
    """
    if argv is None:
        outlast_readers()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    args = parser().parse_args(words)
    if args.verb is None:
        parser().print_help()
        return 0
    _on_signals(_terminated, *_TO_END)
    try:
        return _run(args)
    except LettersetError as error:
        write_line(sys.stderr, f"letterset {args.verb}: {error}")
        return error.exit_code
    except (KeyboardInterrupt, _Terminated) as stop:
        _on_signals(signal.SIG_IGN, "SIGINT", *_TO_END)  # all that is left is to leave
        how, code = ("terminated", 143) if isinstance(stop, _Terminated) else ("interrupted", 130)
        write_line(sys.stderr, f"letterset: {how}; run the same command again to go on")
        return code
    except Exception:
        bug = "letterset: this is a bug in letterset; please report the lines above"
        write_line(sys.stderr, traceback.format_exc() + bug)
        return 70


def _run(args: argparse.Namespace) -> int:
    try:
        check_inputs(args)
        fetch_url(args)
        with waiting(args.verb):
            code = int(args.run(args))
        if not getattr(args, "json", False) and not getattr(args, "quiet", False):
            _say_next(args, code)
        return code
    except ModuleNotFoundError as error:
        raise_missing_extra(error)
        raise


def _say_next(args: argparse.Namespace, code: int) -> None:
    """Say what to do after a verb that ended well, or that lists what it could not read."""
    module = import_module(f"builder.cli.{args.verb}")
    if code != 0 and not (code == 1 and getattr(module, "GOES_ON", False)):
        return
    named = {key: _Quoted(value) for key, value in vars(args).items() if isinstance(value, str)}
    after = getattr(module, "NEXT", "").format(**named)
    if hasattr(module, "next_step"):
        after = module.next_step(args)
    if after:
        say(f"next: {after}")


class _Quoted(str):
    """Text that is formatted as a shell needs it, and with ``!r`` as Python does."""

    def __format__(self, spec: str) -> str:
        return quote(self)


class _Terminated(BaseException):
    """A signal to end, as an exception, so that everything open is closed on the way out."""


def _on_signals(handler: Any, *names: str) -> None:
    """Handle those of the signals that this platform has."""
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)


def _terminated(signum: int, frame: Any) -> None:
    raise _Terminated
