"""Damage in any file of any kind of source is told as such: nothing else is ever raised."""

import random

import pytest
from source_examples import EXAMPLES

from builder.build.reader import apart
from builder.core.errors import LettersetError
from builder.sources.base import SOURCES
from builder.sources.recognize import recognize
from builder.sources.selected import Selected
from schemas.config import Limits

LIMITS = Limits(max_array_bytes=64 << 20)


def zeros(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    data[start : start + 64] = bytes(len(data[start : start + 64]))
    return data


def noise(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(1 + len(data) // 500):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def read(kind, root, settings):
    """Do what init and a build do with a source; returns how many sentences were told."""
    found = SOURCES.load(kind)
    told = 0
    try:
        recognize(root)
    except LettersetError:
        told += 1
    config = found.Config(**settings)
    source = Selected(found(root, config, LIMITS), config)
    try:
        refs = list(source.refs())
    except LettersetError:
        return told + 1
    for ref in refs:
        try:
            with source.open(ref) as episode:
                told += len(episode.notes)
                for stream in episode.views.values():
                    for _ in stream:
                        pass
        except LettersetError:
            told += 1
    return told


@pytest.mark.parametrize("kind", EXAMPLES)
def test_damage_is_told(kind, tmp_path):
    write, settings = EXAMPLES[kind]
    root = write(tmp_path)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    sound = apart(read, kind, root, settings, limits=LIMITS)
    rng, told = random.Random(kind), 0
    for path in rng.sample(files, min(len(files), 4)):
        whole = path.read_bytes()
        for damage in (zeros, noise, cut):
            path.write_bytes(damage(bytearray(whole), rng))
            told += apart(read, kind, root, settings, limits=LIMITS) != sound
        path.write_bytes(whole)
    assert told, "no damage was noticed"
    assert apart(read, kind, root, settings, limits=LIMITS) == sound
