"""Older versions are upgraded step by step, newer ones refused, golden files of all are read."""

import json
from typing import Annotated, Literal

import pytest
from golden_examples import FOLDER, MODELS, text_of
from pydantic import Field

from builder.core.errors import DatasetError, NewerFormatError
from builder.core.records import parse_record, stored_form
from schemas import FORMAT_VERSION, DatasetMeta
from schemas.base import LATER, Record, Sealed, json_sha256
from schemas.dataset import IndexLine
from schemas.versions import OLDER, version_of

pytestmark = pytest.mark.core


class Note(Sealed):
    """The newest: sizes in one field, and who wrote it."""

    format_version: Literal[3] = 3
    size: tuple[int, int]
    author: str | None = None


class NoteV2(Sealed):
    format_version: Literal[2] = 2
    height: int
    width: int

    def to_next_version(self):
        return Note.seal(size=(self.height, self.width))


class NoteV1(Sealed):
    """The first knew squares only."""

    format_version: Literal[1] = 1
    side: int

    def to_next_version(self):
        return NoteV2.seal(height=self.side, width=self.side)


class Plain(Record):
    """Not sealed, and said nothing of versions at first."""

    format_version: Literal[2] = 2
    name: str


class PlainV1(Record):
    format_version: Literal[1] = 1
    title: str

    def to_next_version(self):
        return Plain(name=self.title)


@pytest.fixture(autouse=True)
def _family(monkeypatch):
    monkeypatch.setitem(OLDER, Note, {1: NoteV1, 2: NoteV2})
    monkeypatch.setitem(OLDER, Plain, {1: PlainV1})


@pytest.mark.parametrize(
    ("stored", "size"),
    [
        (NoteV1.seal(side=5), (5, 5)),
        (NoteV2.seal(height=3, width=4), (3, 4)),
        (Note.seal(size=(3, 4), author=None), (3, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_version_comes_up_to_the_newest(stored, size):
    found = parse_record(Note, stored_form(stored), "note.json")
    assert type(found) is Note
    assert (found.format_version, found.size, found.author) == (3, size, None)
    # The index lists episodes by the digest they were stored with.
    assert found.digest == stored.digest


def test_records_without_a_digest_are_upgraded_too():
    assert parse_record(Plain, '{"format_version":1,"title":"a"}', "x") == Plain(name="a")
    assert parse_record(Plain, '{"name":"a"}', "x") == Plain(name="a")


@pytest.mark.parametrize(("model", "known"), [(Note, 3), (DatasetMeta, 1), (IndexLine, 1)])
def test_a_future_version_is_refused_with_what_to_do(model, known):
    text = f'{{"format_version":{known + 1},"whatever":1}}'
    message = (
        rf"note\.json was made by a newer letterset \(format version {known + 1}, this one knows "
        rf"{known}\): upgrade with pip install -U letterset"
    )
    with pytest.raises(NewerFormatError, match=message):
        parse_record(model, text, "note.json")


@pytest.mark.parametrize("version", ["0", "-1", '"1"', "1.5", "null"])
def test_a_version_that_never_was_is_named(version):
    with pytest.raises(DatasetError, match=r"n\.json cannot be read: .*expected one of 1, 2, 3"):
        parse_record(Note, f'{{"format_version":{version},"side":5}}', "n.json")


def test_a_damaged_older_record_is_refused_not_upgraded():
    text = stored_form(NoteV1.seal(side=5))
    with pytest.raises(DatasetError, match=r"n\.json is damaged: .*changed after it was written"):
        parse_record(Note, text.replace('"side":5', '"side":6'), "n.json")
    with pytest.raises(DatasetError, match=r"n\.json is damaged: side: "):
        parse_record(Note, text.replace("side", "edge"), "n.json")


def test_golden_files_of_every_version_are_kept_and_read():
    folders = sorted(FOLDER.parent.glob("v*"))
    assert [path.name for path in folders] == [f"v{n}" for n in range(1, FORMAT_VERSION + 1)]
    for folder in folders:
        paths = list(folder.glob("*.json"))
        assert len(paths) >= 20
        for path in paths:
            model = MODELS[path.stem.partition(".")[0]]
            text = path.read_text(encoding="ascii")
            record = parse_record(model, text, str(path))
            assert type(record) is model
            if folder == FOLDER:  # of the newest version: nothing was changed
                assert text_of(record.model_dump(mode="json")) == text


def test_every_older_version_has_its_step():
    for model, older in OLDER.items():
        newest = version_of(model)
        assert sorted(older) == list(range(1, newest))
        for version, each in older.items():
            assert version_of(each) == version
            assert callable(each.to_next_version)


# Compatible additions


class Part(Record):
    size: int
    unit: Annotated[str, LATER] = "px"


class Grown(Sealed):
    """A record that got two fields after its first files were written."""

    name: str
    per_frame: Annotated[bool | None, LATER] = None
    parts: Annotated[tuple[Part, ...], LATER] = Field(default=(), strict=False)


class Before(Sealed):
    """What it was before."""

    name: str


def test_a_field_that_came_later_is_left_out_while_it_holds_its_default():
    assert stored_form(Grown.seal(name="a")) == stored_form(Before.seal(name="a"))
    full = Grown.seal(name="a", per_frame=True, parts=[Part(size=1), Part(size=2, unit="mm")])
    data = json.loads(stored_form(full))
    assert data["parts"] == [{"size": 1}, {"size": 2, "unit": "mm"}]
    assert parse_record(Grown, stored_form(full), "x") == full


def test_a_digest_is_that_of_the_json_as_it_stands():
    """Another release, or Python, may write a default that this one leaves out."""
    data = {"name": "a", "per_frame": None}
    text = json.dumps({**data, "digest": json_sha256(data)})
    assert parse_record(Grown, text, "x").name == "a"
    with pytest.raises(DatasetError, match="changed after it was written"):
        parse_record(Grown, text.replace('"a"', '"b"'), "x")


@pytest.mark.parametrize(
    "more", [{"per_frame": True}, {"parts": [{"size": 1}]}, {"parts": [{"deep": {"er": [1]}}]}]
)
def test_a_record_with_a_field_of_a_later_release_is_newer_not_damaged(more):
    data = {"name": "a", **more}
    with pytest.raises(NewerFormatError, match=rf"x was made by a newer .*{next(iter(more))}"):
        parse_record(Before, json.dumps({**data, "digest": json_sha256(data)}), "x")
    with pytest.raises(DatasetError, match="x is damaged"):  # it was edited
        parse_record(Before, json.dumps({**data, "digest": "0" * 64}), "x")


def test_a_later_field_within_a_record_is_newer_too():
    data = {"name": "a", "parts": [{"size": 1, "colour": "red"}]}
    with pytest.raises(NewerFormatError, match=r"with parts\.0\.colour"):
        parse_record(Grown, json.dumps({**data, "digest": json_sha256(data)}), "x")


def test_every_field_that_came_later_has_a_default():
    def models(model):
        return {model}.union(*map(models, model.__subclasses__()))

    later = [
        (model.__name__, name, field)
        for model in models(Record)
        for name, field in model.model_fields.items()
        if LATER in field.metadata
    ]
    assert ("ArrayMeta", "per_frame") in [each[:2] for each in later]
    assert not [each[:2] for each in later if each[2].is_required()]
