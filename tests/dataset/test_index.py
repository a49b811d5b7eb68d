"""The index in columns says what its lines say, and takes what IndexLine takes."""

import io
import json
import tracemalloc
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from builder.core.errors import DatasetError
from builder.core.records import stored_form
from builder.dataset import index as episode_index
from builder.dataset.index import Columns, EpisodeIndex, parse_lines
from schemas.dataset import IndexLine

pytestmark = pytest.mark.core


def line(episode_id, length=7, views=("front", "wrist"), digest=None):
    digest = digest or sha256(episode_id.encode()).hexdigest()
    return IndexLine(id=episode_id, length=length, views=views, digest=digest)


def write(folder, lines, name="main"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(stored_form(each) + "\n" for each in lines))


def test_columns_and_lines_agree(tmp_path):
    lines = [line("b/2", 5, ("wrist",)), line("a"), line("b/1", 1_000_000), line("é"), line('"')]
    write(tmp_path, lines)
    index = EpisodeIndex.read(tmp_path)
    assert index.ids == ('"', "a", "b/1", "b/2", "é") == tuple(index)
    assert index == {each.id: each for each in lines}
    assert index.lengths.tolist() == [7, 7, 1_000_000, 5, 7]
    assert [index.view_sets[number] for number in index.view_set][3] == ("wrist",)
    assert index.digests.shape == (5, 32)
    assert [index.place(key) for key in index.ids] == [0, 1, 2, 3, 4]
    for absent in ("", "b", "zz", 3, None):
        assert absent not in index
    assert len(EpisodeIndex.read(tmp_path / "none")) == 0


def test_the_latest_line_of_an_id_wins_and_a_torn_one_is_ignored(tmp_path):
    write(tmp_path, [line("b", 1), line("a", 1), line("b", 2)], "first")
    write(tmp_path, [line("a", 3)], "second")
    with (tmp_path / "second.jsonl").open("a") as file:
        file.write(stored_form(line("torn")))
    assert {key: each.length for key, each in EpisodeIndex.read(tmp_path).items()} == {
        "a": 3,
        "b": 2,
    }


def test_windows_that_are_left_out_stay_with_their_episode(tmp_path):
    still = line("c").model_copy(update={"skipped": ((0, 2), (5, 1))})
    write(tmp_path, [line("d"), still, line("a"), still.model_copy(update={"id": "b"})], "first")
    write(tmp_path, [line("b")], "second")
    index = EpisodeIndex.read(tmp_path)
    assert index.ids == ("a", "b", "c", "d")
    assert index.skipped == {2: ((0, 2), (5, 1))}
    assert index["c"] == still
    assert index["b"].skipped == ()
    assert EpisodeIndex.of(index[key] for key in ("d", "c")).skipped == {1: still.skipped}
    for wrong in ([[0, 2], [2, 1]], [[0, 0]], [[-1, 2]], [[3, 1], [0, 1]]):
        with pytest.raises(ValidationError):
            IndexLine.model_validate({**still.model_dump(), "skipped": wrong})


def test_a_line_that_is_being_written_meanwhile_is_left_for_the_next_reader():
    class Growing:
        """A file whose writer finishes a line between two reads."""

        name = "main.jsonl"

        def __fspath__(self):
            return __file__

        def open(self, mode):
            text = (stored_form(line("a")) + "\n" + stored_form(line("b")) + "\n").encode()
            cut = len(text) - 20
            parts = iter([text[:cut], b"", text[cut:], b"", b"", b""])
            file = io.BytesIO()
            file.read = file.readline = lambda *size: next(parts)
            return file

    columns = Columns()
    columns.read(Growing())
    assert columns.ids == ["a"]


def test_lines_of_another_order_keep_it():
    index = EpisodeIndex.of([line("demo_2", 2), line("demo_10", 10)])
    assert index.ids == ("demo_2", "demo_10")
    assert [index[key].length for key in index] == [2, 10]
    assert index.lengths[index.place("demo_10")] == 10
    with pytest.raises(KeyError):
        index.place("demo_1")


def test_a_damaged_line_is_named_wherever_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_index, "_BLOCK_BYTES", 300)
    path = tmp_path / "main.jsonl"
    for bad in range(12):
        lines = [stored_form(line(f"e-{number}")) for number in range(12)]
        lines[bad] = lines[bad].replace('"length":7', '"length":0')
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(DatasetError, match=rf"main\.jsonl, line {bad + 1} is damaged: length"):
            EpisodeIndex.read(tmp_path)


IDS = st.text('ab./\\"-_ \né{}', max_size=8) | st.text(max_size=5)
DIGEST = "0123456789abcdef" * 4
TEXTS = st.builds(
    "{before}{{{open}{digest},{key}{id},{length},{views}}}{after}\n".format,
    before=st.sampled_from(["", "", "", " ", "x", "{", '{"id":"q"}\n']),
    open=st.just('"digest":'),
    digest=st.sampled_from([f'"{DIGEST}"', f'"{DIGEST}"', f'"{DIGEST.upper()}"', f'"{DIGEST}0"']),
    key=st.sampled_from(['"id":', '"id":', '"ID":']),
    id=st.builds(json.dumps, IDS, ensure_ascii=st.booleans()) | IDS.map('"{}"'.format),
    length=st.sampled_from(
        [
            f'"length":{n}'
            for n in ("1", "25", "999999", "1000000", "1000001", "0", "01", "1.0", "-1")
        ]
    ),
    views=st.sampled_from(
        [f'"views":{v}' for v in ('["a"]', "[]", '["a","b.c"]', '["."]', '["a", "b"]', "[1]", "[")]
    ),
    after=st.sampled_from(["", "", "", " ", "}", ',"x":1}', "\r"]),
)


@given(st.lists(TEXTS, max_size=3))
@settings(max_examples=500)
def test_lines_are_taken_at_once_only_when_they_would_be_taken_one_by_one(tmp_path_factory, texts):
    """The short cut is sound: it accepts nothing that validation refuses, and sees the same."""
    block = "".join(texts).encode(errors="surrogatepass")
    columns = Columns()
    if columns._add_plain(block):
        expected = parse_lines(block.split(b"\n")[:-1], IndexLine, tmp_path_factory.getbasetemp())
        assert list(EpisodeIndex(columns).ids) == [each.id for each in expected]
        assert EpisodeIndex.of(expected).lengths.tolist() == columns.arrays()[0].tolist()
        one_by_one = Columns()
        one_by_one.add(expected)
        assert [*columns.view_sets] == [*one_by_one.view_sets]
    else:
        assert not columns.ids


PLAIN = st.from_regex(r"\A[a-z. _-]{1,6}(/[A-Z.~'-]{1,5}){0,3}\Z")


@given(st.lists(PLAIN, max_size=4))
def test_plain_lines_take_the_short_cut(ids):
    sound = [key for key in ids if not {"", ".", ".."} & {*key.split("/")}]
    block = "".join(stored_form(line(key)) + "\n" for key in sound).encode()
    assert Columns()._add_plain(block)
    unsafe = [key for key in ids if key not in sound]
    for key in unsafe:
        text = stored_form(line("a")).replace('"a"', json.dumps(key))
        assert not Columns()._add_plain(text.encode() + b"\n")


def test_an_episode_takes_little_memory(tmp_path):
    count = 20_000
    write(tmp_path, [line(f"task_{k % 100:03d}/demo-{k:08d}", 1 + k % 200) for k in range(count)])
    tracemalloc.start()
    index = EpisodeIndex.read(tmp_path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == count
    assert kept < 250 * count
    assert np.array_equal(np.sort(index.lengths)[:100], np.ones(100))
