"""Strictness, seals, ids and what of a config counts as content."""

import json

import numpy as np
import pytest
from golden_examples import BOX, CONFIG, DATASET, EPISODE, FULL_CONFIG, RAW, SHA, TURNED, UPRIGHT
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import BuildConfig, DatasetMeta, EpisodeMeta, QuerySpec, ViewMeta
from schemas.base import canonical_json, json_sha256
from schemas.config import Part
from schemas.dataset import IndexLine, MotionSummary, TrackerInfo

pytestmark = pytest.mark.core

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=6,
)


# Seals ------------------------------------------------------------------------------------


@given(settings=st.dictionaries(st.text("abc\u00e9", max_size=3), json_values, max_size=3))
def test_a_sealed_record_survives_json_and_knows_its_content(settings):
    sealed = DatasetMeta.seal(**{**DATASET, "config": settings})
    again = DatasetMeta.model_validate_json(sealed.model_dump_json())
    assert again == sealed
    assert again.digest == sealed.digest
    data = sealed.model_dump(mode="json")
    assert data.pop("digest") == json_sha256(data)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"typo": 1}, "typo"),
        ({"horizon": "16"}, "horizon"),
        ({"horizon": 16.0}, "horizon"),
        ({"horizon": 0}, "horizon"),
        ({"mode": "other"}, "mode"),
        ({"config": {"a": float("nan")}}, "config"),
        ({"config": {"a": {1, 2}}}, "config"),
        ({"format_version": 2}, "format_version"),
    ],
)
def test_sealing_refuses_what_validation_refuses(change, match):
    with pytest.raises(ValidationError, match=match):
        DatasetMeta.seal(**{**DATASET, **change})


def test_sealing_needs_every_field():
    with pytest.raises(ValidationError, match="img_shape"):
        DatasetMeta.seal(**{key: value for key, value in DATASET.items() if key != "img_shape"})


def test_sealing_takes_numpy_integers():
    sealed = DatasetMeta.seal(**{**DATASET, "horizon": np.int64(16)})
    assert sealed == DatasetMeta.seal(**DATASET)


def test_an_unsealed_digest_is_no_back_door():
    data = DatasetMeta.seal(**DATASET).model_dump(mode="json")
    with pytest.raises(ValidationError, match="changed after it was written"):
        DatasetMeta.model_validate_json(json.dumps({**data, "digest": "0" * 64}))


def test_the_digest_does_not_depend_on_the_order_of_keys():
    one = DatasetMeta.seal(**{**DATASET, "config": {"a": 1, "b": 2}})
    two = DatasetMeta.seal(**{**DATASET, "config": {"b": 2, "a": 1}})
    assert one.digest == two.digest
    assert canonical_json({"b": [1, None], "a": "\u00e9"}) == '{"a":"\\u00e9","b":[1,null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


# Ids, names, views ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\nb", "a\x00b", "\udcff", "a" * 1001],
)
def test_an_id_that_could_leave_the_folder_is_refused(bad):
    with pytest.raises(ValidationError, match="id"):
        IndexLine(id=bad, length=1, views=("front",), digest=SHA)


@pytest.mark.parametrize("good", ["a", "a/b/c-1a2b", "caf\u00e9/x.y", "...a", "a b"])
def test_a_relative_id_is_taken(good):
    assert IndexLine(id=good, length=1, views=("front",), digest=SHA).id == good


@pytest.mark.parametrize("bad", ["", ".a", "-a", "a/b", "a b", "\u00e9", "a" * 101])
def test_a_view_name_is_a_plain_word(bad):
    with pytest.raises(ValidationError, match="name"):
        ViewMeta(name=bad, geometry=BOX, coded_shape=(720, 1280), arrays={})


def test_orientation_and_geometry_must_agree():
    with pytest.raises(ValidationError) as caught:
        ViewMeta(
            name="front", geometry=BOX, coded_shape=(720, 1280), orientation="rot90", arrays={}
        )
    for number in ("(720, 1280)", "rot90", "(1280, 720)"):
        assert number in str(caught.value)


def test_upright_points_map_to_stored_pixels():
    # rot90 clockwise: the stored bottom-left corner is seen at the top left.
    height, width = TURNED.coded_shape
    assert TURNED.to_coded((0.0, 0.0)) == (0.0, height)
    assert TURNED.to_coded((float(height), float(width))) == (width, 0.0)
    assert UPRIGHT.to_coded((3.0, 4.0)) == (3.0, 4.0)


def test_views_are_found_by_name_and_must_differ():
    episode = EpisodeMeta.seal(**{**EPISODE, "views": (UPRIGHT, TURNED)})
    assert episode.view("wrist.left-1") == TURNED
    with pytest.raises(KeyError, match=r"no view 'back'.*front.*wrist"):
        episode.view("back")
    with pytest.raises(ValidationError, match="must differ"):
        EpisodeMeta.seal(**{**EPISODE, "views": (UPRIGHT, UPRIGHT)})
    with pytest.raises(ValidationError, match="views"):
        EpisodeMeta.seal(**{**EPISODE, "views": ()})


def test_records_hold_finite_numbers_and_whole_hashes():
    motion = {"mean_px": 1.0, "max_px": 2.0, "zero_share": 0.0, "visible_share": 1.0}
    for bad in ({"mean_px": float("nan")}, {"zero_share": 1.1}, {"visible_share": -0.1}):
        with pytest.raises(ValidationError, match=next(iter(bad))):
            MotionSummary(**{**motion, **bad})
    for bad in ("", "0" * 63, "G" * 64, SHA.upper()):
        with pytest.raises(ValidationError, match="sha256"):
            ViewMeta(**{**UPRIGHT.model_dump(), "arrays": {"x": {**RAW, "sha256": bad}}})


def test_a_grid_counts_its_points():
    assert QuerySpec().num_points == 400
    assert QuerySpec(grid=(3, 5)).num_points == 15
    for bad in ((0, 5), (3,), (3.0, 5)):
        with pytest.raises(ValidationError, match="grid"):
            QuerySpec(grid=bad)


# Configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"img_shape": [0, 5]}, r"img_shape\.0"),
        ({"img_shape": [-3, 5]}, r"img_shape\.0"),
        ({"img_shape": [256.0, 5]}, r"img_shape\.0"),
        ({"img_shape": "256x256"}, "img_shape"),
        ({"img_shpae": [5, 5]}, "img_shpae"),
        ({"geometry": "stretch"}, "geometry"),
        ({"source": {"kind": "video"}}, r"source\.path"),
        ({"store": {"path": "out", "frames": {"codec": "h264"}}}, r"store\.frames\.codec"),
        ({"store": {"path": "out", "frames": {"kodec": "raw"}}}, r"store\.frames\.kodec"),
        ({"tracker": {"horizon": 0}}, r"tracker\.horizon"),
        ({"tracker": {"input": {"short_side": 8}}}, "short_side"),
        ({"limits": {"stall_seconds": 0}}, r"limits\.stall_seconds"),
        ({"executor": {"workers": True}}, r"executor\.workers"),
    ],
)
def test_a_wrong_config_is_refused_by_key(change, match):
    with pytest.raises(ValidationError, match=match):
        BuildConfig.model_validate({**CONFIG.model_dump(mode="json"), **change})


def test_a_backends_own_keys_ride_in_its_envelope():
    assert FULL_CONFIG.source.settings == {"frame_step": 2}
    assert CONFIG.source.settings == {}
    assert Part.model_validate({"kind": "x", "y": 1}).settings == {"y": 1}


def test_content_is_what_changes_the_dataset_and_nothing_else():
    elsewhere = CONFIG.model_dump(mode="json")
    elsewhere["source"]["path"], elsewhere["store"]["path"] = "/other/videos", "/other/out"
    elsewhere["executor"] = {"kind": "serial", "workers": 9}
    elsewhere["limits"]["max_frames"] = 5
    assert BuildConfig.model_validate(elsewhere).content() == CONFIG.content()
    for part, key, value in [
        ("tracker", "horizon", 8),
        ("tracker", "anything", 1),
        ("source", "frame_step", 2),
        ("queries", "region", "canvas"),
        ("store", "tracks", {"dtype": "u16"}),
    ]:
        changed = CONFIG.model_dump(mode="json")
        changed[part][key] = value
        assert BuildConfig.model_validate(changed).content() != CONFIG.content()
    assert json.loads(canonical_json(FULL_CONFIG.content())) == FULL_CONFIG.content()


def test_tracker_settings_are_json():
    fields = {"kind": "k", "name": "n", "version": "1", "licence": "MIT"}
    rule = {"rule": "r", "sticky": True}
    for bad in ({"a": (1, 2)}, {"a": float("inf")}, {"a": object()}):
        with pytest.raises(ValidationError, match="settings"):
            TrackerInfo(**fields, visibility=rule, settings=bad)
