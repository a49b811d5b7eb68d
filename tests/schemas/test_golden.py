"""Format version 1 as it was written down: golden files are read for ever."""

import json

import pytest
from golden_examples import EXAMPLES, FOLDER, MODELS, text_of

import schemas
from builder.cli.schema import records
from schemas.base import Record, Sealed

pytestmark = pytest.mark.core

RECORDS = sorted(FOLDER.glob("*.json"))
SCHEMAS = sorted((FOLDER / "schema").glob("*.json"))


def test_every_example_and_every_model_has_its_file():
    # An empty or partial collection cannot pass.
    assert [path.stem for path in RECORDS] == sorted(EXAMPLES)
    assert [path.stem for path in SCHEMAS] == sorted(MODELS)
    assert (len(RECORDS), len(SCHEMAS)) == (35, 15)
    assert {*MODELS.values()} == {*records().values()}  # what letterset schema lists


def test_every_exported_record_is_covered():
    exported = [getattr(schemas, name) for name in schemas.__all__]
    models = {each for each in exported if isinstance(each, type) and issubclass(each, Record)}
    assert models <= set(MODELS.values())


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_golden_record_is_parsed_and_written_alike(path):
    text = path.read_text(encoding="ascii")
    record = MODELS[path.stem.partition(".")[0]].model_validate_json(text)
    assert record == EXAMPLES[path.stem]
    assert text_of(record.model_dump(mode="json")) == text


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_the_json_schema_has_not_drifted(path):
    stored = json.loads(path.read_text(encoding="ascii"))
    assert _plain(MODELS[path.stem].model_json_schema()) == _plain(stored)


def _plain(schema):
    """Leave out what versions of pydantic differ in.

    Older ones add ``enum`` beside ``const`` and ``allOf`` of one; newer ones add
    ``propertyNames`` beside ``patternProperties``.
    """
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if len(schema.get("allOf", [])) == 1:
        schema = {**schema, **schema["allOf"][0]}
        del schema["allOf"]
    return {
        key: _plain(value)
        for key, value in schema.items()
        if not (key == "enum" and schema.get("const") == value[0])
        and not (key == "propertyNames" and "patternProperties" in schema)
    }


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_golden_record_with_one_thing_wrong_is_refused(path):
    model = MODELS[path.stem.partition(".")[0]]
    good = json.loads(path.read_text(encoding="ascii"))
    for name in good:
        if not model.model_fields[name].is_required():
            continue
        with pytest.raises(ValueError, match=name):
            model.model_validate_json(json.dumps({k: v for k, v in good.items() if k != name}))
    with pytest.raises(ValueError, match=r"surprise|digest"):
        model.model_validate_json(json.dumps({**good, "surprise": 1}))


SEALED = [path for path in RECORDS if issubclass(MODELS[path.stem.partition(".")[0]], Sealed)]


@pytest.mark.parametrize("path", SEALED, ids=lambda path: path.stem)
def test_a_sealed_golden_record_notices_any_change(path):
    model = MODELS[path.stem.partition(".")[0]]
    good = json.loads(path.read_text(encoding="ascii"))
    changes = ({"horizon": 17}, {"start_every": 9}, {"base": "e" * 64}, {"digest": "f" * 64})
    changes = [change for change in changes if change.keys() <= good.keys()]
    assert len(changes) >= 2
    for change in changes:
        with pytest.raises(ValueError, match="changed after it was written"):
            model.model_validate_json(json.dumps({**good, **change}))
