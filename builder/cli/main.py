"""The parser and the way errors become sentences and exit codes.

Exit codes: 0 good; 1 finished, but inputs failed or problems were found (each listed), or a
folder is no whole dataset; 2 bad usage or config, or an input that is not there, before any work;
3 nothing could be built (a shard: 1); 4 output unusable; 130 or 143 interrupted; 70 a bug of ours.
"""

import argparse
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from builder.cli.common import check_inputs, help_text
from builder.core.errors import LettersetError
from builder.core.messages import near
from builder.core.registry import raise_missing_extra

# One verb is one module in builder.cli with HELP, EXAMPLE, arguments(parser) and run(args).
VERBS = (
    "init",
    "preview",
    "plan",
    "build",
    "status",
    "finalize",
    "validate",
    "repair",
    "inspect",
    "doctor",
    "stats",
    "decode",
    "track",
    "embed",
    "convert",
    "merge",
    "subset",
    "split",
    "migrate",
    "export",
    "report",
    "render",
    "schema",
)

INTRO = """\
Build letterbox-standardized datasets of point tracks from robot videos.

  letterset preview VIDEOS                      look before you build
  letterset build --source VIDEOS --out DATASET --img-shape 256 256
  letterset validate DATASET                    verify that it is whole
  letterset inspect DATASET                     what is in it
  letterset decode POINTS --geometry META --space norm --order rc
"""


_SETTING = re.compile(
    r"(img_shape|geometry|short_side|(source|queries|tracker|store|executor|limits)\.[\w.]+)="
)


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Let key=value pairs stand anywhere: argparse takes no positionals after options."""
        found, rest = self.parse_known_args(args, namespace)
        pairs = all("=" in word and not word.startswith("-") for word in rest)
        verb = getattr(found, "parser", self)
        if rest and not (pairs and "overrides" in found):
            verb.error(f"there is no {_option_or_argument(rest[0], verb)}")
        if "overrides" in found:
            found.overrides = [*found.overrides, *rest, *verb._settings_among(found)]
        return found

    def _settings_among(self, found: Any) -> list[str]:
        """Take the settings out of options with many values, which swallow what follows them."""
        settings = []
        for name, words in vars(found).items():
            if name == "overrides" or not isinstance(words, list):
                continue
            swallowed = [word for word in words if _SETTING.match(str(word))]
            settings += swallowed
            words[:] = [word for word in words if word not in swallowed]
            if swallowed and not words:
                self.error(f"argument --{name}: expected at least one argument")
        return settings

    def error(self, message: str) -> Any:
        wrong = re.search("argument VERB: invalid choice: '(.*?)'", message)
        if wrong:
            message = f"there is no verb {wrong[1]!r}{near(wrong[1], list(VERBS))}"
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


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
    root = _Parser(
        prog="letterset", description=INTRO, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root.add_argument("--version", action="version", version=f"letterset {version('letterset')}")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", title="verbs")
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
    """Run the command with ``argv`` (default: the process's); returns its exit code."""
    args = parser().parse_args(argv)
    if args.verb is None:
        parser().print_help()
        return 0
    _on_signals(_terminated, "SIGTERM", "SIGUSR1")  # the second: what SLURM sends before its end
    try:
        return _run(args)
    except LettersetError as error:
        sys.stderr.write(f"letterset {args.verb}: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, _Terminated) as stop:
        _on_signals(signal.SIG_IGN, "SIGINT", "SIGTERM", "SIGUSR1")  # all that is left is to leave
        how, code = ("terminated", 143) if isinstance(stop, _Terminated) else ("interrupted", 130)
        sys.stderr.write(f"letterset: {how}; run the same command again to go on\n")
        return code
    except BrokenPipeError:
        # The reader of our output went away; that is its right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        sys.stderr.write("letterset: this is a bug in letterset; please report the lines above\n")
        return 70


def _run(args: argparse.Namespace) -> int:
    try:
        check_inputs(args)
        return int(args.run(args))
    except ModuleNotFoundError as error:
        raise_missing_extra(error)
        raise


class _Terminated(BaseException):
    """SIGTERM or SIGUSR1, as an exception, so that everything open is closed on the way out."""


def _on_signals(handler: Any, *names: str) -> None:
    """Handle those of the signals that this platform has."""
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)


def _terminated(signum: int, frame: Any) -> None:
    raise _Terminated
