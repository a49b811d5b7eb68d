"""Query points: order against hand-written grids, regions, and the check that trackers share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.canvas.query_grid import queries_in_frame, query_points
from builder.core.errors import TrackingError
from schemas.dataset import QuerySpec
from schemas.geometry import Letterbox, Stretch

SQUARE = Stretch(source_shape=(6, 6), img_shape=(6, 6))
# A 30 x 40 (H x W) canvas whose content is the box (0, 5) ... (40, 25).
WIDE = Letterbox.fit(source_shape=(100, 200), img_shape=(30, 40))


def test_three_by_three_in_amplify_order():
    points = query_points(QuerySpec(grid=(3, 3)), SQUARE)
    expected = [(1, 1), (1, 3), (1, 5), (3, 1), (3, 3), (3, 5), (5, 1), (5, 3), (5, 5)]
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, np.array(expected, np.float32))


def test_non_square_grid_over_content():
    # 2 rows, 4 columns: cells are 10 wide and 10 high, the content starts at y = 5.
    points = query_points(QuerySpec(grid=(2, 4)), WIDE)
    expected = [(5, 10), (5, 20), (15, 10), (15, 20), (25, 10), (25, 20), (35, 10), (35, 20)]
    np.testing.assert_array_equal(points, np.array(expected, np.float32))


def test_non_square_grid_columns_fastest():
    points = query_points(QuerySpec(grid=(2, 4), order="columns_fastest"), WIDE)
    expected = [(5, 10), (15, 10), (25, 10), (35, 10), (5, 20), (15, 20), (25, 20), (35, 20)]
    np.testing.assert_array_equal(points, np.array(expected, np.float32))


def test_canvas_covers_bars_too():
    spec = QuerySpec(grid=(3, 1), region="canvas")
    np.testing.assert_array_equal(query_points(spec, WIDE), [(20, 5), (20, 15), (20, 25)])
    spec = QuerySpec(grid=(6, 1), region="canvas")  # y = 2.5, 7.5, ... 27.5
    inside = WIDE.inside(query_points(spec, WIDE))
    np.testing.assert_array_equal(inside, [False, True, True, True, True, False])


def test_canvas_grid_equals_amplify_linspace():
    rows, columns, (height, width) = 20, 20, (256, 320)
    geometry = Letterbox.fit(source_shape=(720, 1280), img_shape=(height, width))
    points = query_points(QuerySpec(grid=(rows, columns), region="canvas"), geometry)
    norm_y = np.linspace(-1 + 1 / rows, 1 - 1 / rows, rows)
    norm_x = np.linspace(-1 + 1 / columns, 1 - 1 / columns, columns)
    for k in range(rows * columns):
        x = (norm_x[k // rows] + 1) * width / 2
        y = (norm_y[k % rows] + 1) * height / 2
        np.testing.assert_allclose(points[k], (x, y), rtol=1e-6)


sides = st.integers(1, 500)


@given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_content_points_all_lie_inside(source_shape, img_shape, grid):
    geometry = Letterbox.fit(source_shape=source_shape, img_shape=img_shape)
    spec = QuerySpec(grid=grid)
    points = query_points(spec, geometry)
    assert points.shape == (spec.num_points, 2)
    assert geometry.inside(points).all()
    left, top, right, bottom = geometry.content_box
    np.testing.assert_allclose(
        points.mean(axis=0), ((left + right) / 2, (top + bottom) / 2), rtol=1e-5
    )


def test_checked_queries_copies_and_accepts_edges():
    queries = np.array([(0, 0), (40, 30)], np.float64)
    checked = queries_in_frame((30, 40), queries)
    assert checked.dtype == np.float32
    checked[:] = 7
    assert queries.max() == 40


@pytest.mark.parametrize("bad", [(41, 10), (10, 31), (-0.1, 5), (5, -0.1), (np.nan, 5)])
def test_checked_queries_names_the_point(bad):
    with pytest.raises(TrackingError, match=r"query point 1 .* outside its frame of 30 x 40"):
        queries_in_frame((30, 40), np.array([(5, 5), bad]))


@pytest.mark.parametrize("shape", [(2,), (3, 3), (1, 4, 2)])
def test_checked_queries_refuses_other_shapes(shape):
    with pytest.raises(TrackingError, match=r"\(N, 2\)"):
        queries_in_frame((30, 40), np.zeros(shape))
