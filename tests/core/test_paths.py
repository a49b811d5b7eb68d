"""Ids and printable paths: any name in, something safe and unique out."""

import hashlib
import os
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from builder.core.paths import episode_id, printable_path, without_passwords
from schemas.dataset import EpisodeId

pytestmark = pytest.mark.core

CHECKED = TypeAdapter(EpisodeId)
RAW = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from([b"..", b".", b"", b"a", b"nul", b"\xff"]), max_size=200).map(
        b"/".join
    ),
)


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("clip.mp4", "clip-"),
        ("kitchen/day 1/clip.mp4", "kitchen/day_1/clip-"),
        ("v1.25", "v1.25-"),
        ("../../etc/passwd", "_/_/etc/passwd-"),
        ("/absolute/clip.mkv", "absolute/clip-"),
        ("a//b/./c.mp4", "a/b/_/c-"),
        (".hidden/-rf.mp4", "hidden/rf-"),
        ("con/NUL.txt", "_con/_NUL-"),
        ("lpt1.d/com9", "_lpt1.d/_com9-"),
        ("", "_-"),
        ("%03d.png", "_03d-"),
        ("concat:x.mp4", "concat_x-"),
        ("日本語.mp4", "_-"),
        (b"\xff\xfe.mp4", "_-"),
        ("back\\slash.mp4", "back_slash-"),
        ("trailing./x", "trailing/x-"),
        ("nul\0byte", "nul_byte-"),
    ],
)
def test_ids_are_slugs_with_the_hash_of_the_raw_path(path, start):
    raw = path if isinstance(path, bytes) else path.encode()
    assert episode_id(path) == start + hashlib.sha256(raw).hexdigest()[:8]


def test_lookalikes_get_different_ids_even_where_case_is_folded():
    names = ["clip.mp4", "clip.avi", "Clip.mp4", "CLIP.MP4", "caf\u00e9", "cafe\u0301", "clip"]
    assert len({episode_id(name).lower() for name in names}) == len(names)


def test_a_folder_never_is_another_episode():
    clip = episode_id("clip.mp4")
    assert not episode_id(f"{clip}/inner.mp4").startswith(f"{clip}/")


def test_str_bytes_and_path_agree():
    raw = b"a/b\xff c.mp4"
    text = os.fsdecode(raw)
    forms = (raw, text, PurePosixPath(text), Path(text))
    assert len({episode_id(form) for form in forms}) == 1
    assert {printable_path(form) for form in forms} == {"a/b%FF c.mp4"}


@given(RAW)
def test_every_path_gives_a_valid_bounded_id(raw):
    found = episode_id(raw)
    assert CHECKED.validate_python(found) == found
    assert found.isascii()
    assert all(1 <= len(part) <= 100 for part in found.split("/"))
    assert all(part[0] not in ".-" and part[-1] != "." for part in found.split("/"))
    assert found == episode_id(raw)


@given(RAW)
def test_printable_paths_are_text_and_give_the_bytes_back(raw):
    text = printable_path(raw)
    assert text.isprintable()
    text.encode("utf-8")
    assert unquote_to_bytes(text) == raw


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at s3://key:se%2Fcret@host/a: no", "at s3://key:***@host/a: no"),
        ("https:/me:a@b:c@host", "https:/me:***@host"),
        ("s3://:token@host and ftp://a:b@c", "s3://:***@host and ftp://a:***@c"),
        ("https://host:8080/me@home", "https://host:8080/me@home"),
        ("ssh://git@host, a@b:c", "ssh://git@host, a@b:c"),
        ('{"url":"http://a","mail":"b@c"}', '{"url":"http://a","mail":"b@c"}'),
        (
            "cannot read https://a/b.mp4?X-Amz-Credential=A%2F1&X-Amz-Date=1&X-Amz-Signature=c0ffee:",
            "cannot read https://a/b.mp4?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("'https://a/b?sv=1&sig=se%3D'", "'https://a/b?sv=1&sig=***'"),
        ("https://a/b?design=1&page=2#token=3", "https://a/b?design=1&page=2#token=3"),
    ],
)
def test_passwords_of_urls_are_not_shown(text, shown):
    assert without_passwords(text) == shown
