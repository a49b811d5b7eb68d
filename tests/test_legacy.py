"""Older datasets: what their attributes may say, and reading them as they lie."""

import numpy as np
import pytest

from schemas import Stretch
from schemas.legacy import (
    check_queries,
    implied_geometry,
    missing_size_note,
    tracked_shape,
)

WHERE = "demo_3.hdf5, view front"


@pytest.mark.parametrize("kind", [int, np.int64, np.uint16, float, np.float32, np.array])
def test_a_whole_pair_is_read(kind):
    attrs = {"height": kind(480), "width": kind(853), "fps": 30}
    assert tracked_shape(attrs, WHERE) == (480, 853)
    assert tracked_shape({"fps": 30}, WHERE) is None


@pytest.mark.parametrize("name", ["height", "width"])
@pytest.mark.parametrize(
    "bad",
    [
        *(0, -480, 0.0, 480.5, float("nan"), float("inf"), np.float32("nan"), "480", b"480"),
        *(True, np.bool_(True), None, np.array([480]), np.array([480, 853]), np.array(480.5)),
    ],
)
def test_anything_but_a_whole_number_of_pixels_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"demo_3.hdf5, view front: attribute '{name}'"):
        tracked_shape({"height": 480, "width": 853, name: bad}, WHERE)


@pytest.mark.parametrize(("has", "lacks"), [("height", "width"), ("width", "height")])
def test_exactly_one_attribute_is_refused(has, lacks):
    with pytest.raises(ValueError, match=f"demo_3.hdf5, view front.*'{has}' but not '{lacks}'"):
        tracked_shape({has: 480}, WHERE)


@pytest.mark.parametrize(
    "point", [(854.1, 10), (-1.1, 10), (10, 481.1), (10, -1.1), (np.nan, 1), (1, np.inf)]
)
def test_queries_outside_the_declared_size_are_refused(point):
    queries = np.array([[0.5, 0.5], point, [800, 400]])
    with pytest.raises(ValueError, match=r"demo_3.hdf5, view front: query points \(step 0\)"):
        check_queries(queries, (480, 853), WHERE)


def test_queries_within_a_pixel_are_taken():
    check_queries(np.array([[854.0, 481.0], [-1.0, -1.0]]), (480, 853), WHERE)
    check_queries(np.zeros((0, 2)), (480, 853), WHERE)


def test_without_attributes_tracks_count_as_img_pixels():
    assert implied_geometry(None, (477, 470)) == Stretch(
        source_shape=(477, 470), img_shape=(477, 470)
    )
    assert implied_geometry((480, 853), (477, 470)).source_shape == (480, 853)
    note = missing_size_note(["a/x", "a/y", "b/x", "b/y", "c/x"], (477, 470))
    assert "a/x, a/y, b/x and 2 more" in note
    assert "(477, 470)" in note
    assert "letterset doctor" in note
