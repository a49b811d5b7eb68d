"""Datasets at URLs, for verbs that read: a copy in the local cache takes the URL's place."""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from itertools import islice

from builder.cli.common import show_count
from builder.core.errors import ConfigError
from builder.core.own_files import META_NAME
from builder.core.paths import is_url
from builder.core.standard_streams import write_line

READING = (
    "validate",
    "inspect",
    "doctor",
    "report",
    "export",
    "subset",
    "convert",
    "render",
    "stats",
)
"""The verbs that take a URL for a dataset."""

AT_PLACE = ("finalize", "status")
"""The verbs that read and write its small files alone, where they are."""


def fetch_url(args: argparse.Namespace) -> None:
    """Put the folder of a copy in place of the URL of a dataset, where one was given.

    ``inspect`` fetches the episodes it lists, ``subset`` by id those it takes, others all.  Raises
    ConfigError for a verb that takes folders only, DatasetError when the URL cannot be read.
    """
    url = args.given[0] if args.verb == "inspect" and args.given else getattr(args, "dataset", None)
    if not isinstance(url, str) or not is_url(url):
        return
    if args.verb in AT_PLACE:
        return
    if args.verb not in READING:
        raise ConfigError(
            f"{url}: letterset {args.verb} takes local folders only: copy the dataset "
            f"first; URLs are read by {', '.join((*READING, *AT_PLACE))}"
        )
    from builder.dataset.remote import fetch_copy
    from builder.stores.remote_folder import RemoteFolder

    if args.verb == "inspect" and not RemoteFolder(url).has(META_NAME):
        return  # a source
    folder = str(fetch_copy(url, lambda ids: _wanted(args, ids), show_count))
    write_line(sys.stderr, f"{url} was fetched to {folder}")
    if args.verb == "inspect":
        args.given[0] = folder
    else:
        args.dataset = folder


def _wanted(args: argparse.Namespace, ids: tuple[str, ...]) -> list[str]:
    if args.verb == "inspect":
        return list(islice(ids, args.limit))
    if args.verb == "subset" and args.id and args.where is None:
        return [key for key in ids if any(fnmatchcase(key, each) for each in args.id)]
    return list(ids)
