"""Writes a small dataset with one fault at the k-th system call; run as a program.

    python store_faults.py FOLDER MODE FIRST STEP [STORE [JOB]]

tries k = FIRST, FIRST + STEP, ... until a run ends before its fault, each in a forked child and
a fresh folder, checks that nothing bad is left, lets an undisturbed run finish the job, and
prints one JSON line: how many faults there were and everything that went wrong.  JOB is write,
replace (build an episode that is there again) or replace-in-steps (the same where the kernel
cannot exchange two folders, with faults from there on).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from builder.core.errors import OutputError
from builder.core.registry import backend
from builder.dataset.folder import Catalog, index_line, read_index
from builder.dataset.proof.validate import validate
from builder.stores import atomic
from builder.stores.atomic import leftovers
from builder.testing.samples import Sample, sample_meta

CALLS = (
    "open",
    "pwrite",
    "fsync",
    "rename",
    "replace",
    "link",
    "ftruncate",
    "unlink",
    "mkdir",
)
STORE = "hdf5"
JOB = "write"
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EMFILE": errno.EMFILE}


def samples() -> list[Sample]:
    return [Sample("a/first"), Sample("second", seed=1, length=3)]


def write(folder: Path) -> None:
    """Do what a build does: create or continue, adopt what was committed, add the rest."""
    store = backend("stores", STORE)(folder)
    with Catalog.create(folder, sample_meta()) as catalog:
        for sample in samples():
            if sample.id in catalog.index():
                continue
            if store.has(sample.id):
                with closing(store.open(sample.id)) as reader:
                    catalog.add(index_line(reader.meta))
            else:
                catalog.add(index_line(sample.build(store)))


def replace(folder: Path) -> None:
    """Build an episode that is there again, from a source that changed."""
    store = backend("stores", STORE)(folder)
    with Catalog.create(folder, sample_meta()) as catalog:
        catalog.add(index_line(Sample("second", seed=2, length=4).build(store, replace=True)))


def inject(mode: str, at: int) -> Callable[[], bool]:
    """Make the ``at``-th call of the process fail, or kill it there; returns: was it reached?"""
    calls, armed = 0, JOB != "replace-in-steps"

    def wrap(name, function):
        def call(*args, **kwargs):
            nonlocal calls, armed
            armed = armed or name == "exchange"
            calls += armed
            if armed and calls == at:
                if mode == "TORN" and name == "pwrite":
                    descriptor, data, place = args
                    function(descriptor, data[: len(data) // 2], place)
                if mode in ("KILL", "TORN"):
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(ERRORS[mode], os.strerror(ERRORS[mode]))
            return function(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))
    atomic.exchange = wrap("exchange", atomic.exchange)
    return lambda: calls >= at


def run(folder: Path, mode: str | None = None, at: int = 0) -> str:
    """Write in a forked child; tells how it ended."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            reached = inject(mode, at) if mode else lambda: False
            (write if JOB == "write" else replace)(folder)
            code = 10 if reached() else 0
        except OutputError:
            code = 4
        except BaseException as error:
            sys.stderr.write(f"{mode} {at}: {error!r}\n")
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return {0: "good", 10: "good in spite of it", 4: "refused"}.get(
        os.WEXITSTATUS(status), f"exit {os.WEXITSTATUS(status)}"
    )


def state(folder: Path) -> dict[str, bytes]:
    """Everything that must come out the same."""
    found = [folder / "dataset.json", *sorted(folder.glob("episodes*/**/*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def bad_states(folder: Path, ended: str) -> list[str]:
    """List what a fault must never leave behind."""
    if ended not in ("good", "good in spite of it", "refused", "SIGKILL"):
        return [f"it ended with {ended}"]
    done = ended.startswith("good")
    if JOB != "write":
        return bad_replacements(folder, done)
    if not (folder / "dataset.json").exists():
        return ["no dataset after success"] if done or any(folder.glob("episodes*")) else []
    listed_later = "the episode is not listed in the index"
    bad = [str(p) for p in validate(folder) if not p.note and listed_later not in p.message]
    if done and len(read_index(folder)) != len(samples()):
        bad.append("it claims success, but episodes are missing")
    return bad + live_temporaries(folder)


def bad_replacements(folder: Path, done: bool) -> list[str]:
    """List what a fault while replacing must not do: the episode is the old or the new one."""
    if JOB == "replace-in-steps":
        leftovers(folder / "tmp", remove=True)  # what every build begins with
    bad = [str(p) for p in validate(folder) if not p.note and "is not what" not in p.message]
    with closing(backend("stores", STORE)(folder).open("second")) as reader:
        lengths = {3, 4} - ({3} if done else set())
        if reader.meta.length not in lengths:
            bad.append(f"the episode has {reader.meta.length} frames, expected one of {lengths}")
    return bad + live_temporaries(folder)


def live_temporaries(folder: Path) -> list[str]:
    # A file stays when it is its deletion that fails; it must at least count as dead.
    dead = leftovers(folder / "tmp")
    dead += [path.with_name(path.name + end) for path in dead for end in (".d", ".old")]
    left = set((folder / "tmp").glob("*")) - set(dead)
    return [f"temporaries are taken for live ones: {left}"] if left else []


def main(folder: Path, mode: str, first: int, step: int) -> None:
    if JOB != "write":
        write(folder / "before")
    if JOB == "replace-in-steps":
        atomic.exchange = lambda one, other: False
    place = folder / "faulty"
    prepare(folder, place)
    run(place)
    reference, found, at = state(place), [], first
    while True:
        prepare(folder, place)
        ended = run(place, mode, at)
        if ended == "good":
            break
        bad = bad_states(place, ended)
        again = run(place)
        if again != "good":
            bad.append(f"the next run ended with {again}")
        elif state(place) != reference or any((place / "tmp").iterdir()):
            bad.append("the next run's result differs from an undisturbed one")
        elif problems := validate(place):
            bad.append(f"after the next run: {problems}")
        found += [f"{mode} at call {at}: {what}" for what in bad]
        at += step
    sys.stdout.write(json.dumps({"faults": (at - first) // step, "bad": found}) + "\n")


def prepare(folder: Path, place: Path) -> None:
    """Make what there is before the job: nothing, or a finished dataset."""
    shutil.rmtree(place, ignore_errors=True)
    if JOB != "write":
        shutil.copytree(folder / "before", place)


if __name__ == "__main__":
    STORE = sys.argv[5] if len(sys.argv) > 5 else STORE
    JOB = sys.argv[6] if len(sys.argv) > 6 else JOB
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
