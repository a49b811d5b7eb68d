"""Drawing: everything lands where its coordinates say, and what must stay untouched does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.report.draw import (
    PAPER,
    contact_sheet,
    draw_geometry,
    draw_queries,
    draw_tracks,
    enlarge,
    png,
    row_colors,
)
from schemas.dataset import QuerySpec
from schemas.geometry import Letterbox, Stretch

WHITE = np.array([[255, 255, 255]], np.uint8)
GREY = 120


def blank(shape=(60, 90)):
    return np.zeros((*shape, 3), np.uint8)


def centroid_xy(image):
    """Centre of brightness in continuous coordinates."""
    weight = image.sum(axis=-1, dtype=np.float64)
    weight[weight <= sum(PAPER)] = 0
    y, x = np.indices(weight.shape) + 0.5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@given(
    xy=st.tuples(st.floats(10, 80), st.floats(10, 50)),
    zoom=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
)
def test_a_dot_lies_between_pixels_where_its_point_is(xy, zoom):
    canvas = blank((round(60 * zoom), round(90 * zoom)))
    drawn = draw_queries(canvas, np.array([xy]), WHITE, zoom)
    np.testing.assert_allclose(centroid_xy(drawn), np.array(xy) * zoom, atol=0.12)
    assert not canvas.any()


@given(xy=st.tuples(st.floats(20, 70), st.floats(12, 48)), zoom=st.sampled_from([1.0, 2.0]))
def test_a_track_is_drawn_through_its_points(xy, zoom):
    """A level line at a height between pixels: its rows' mean is that height."""
    steps = np.stack([np.linspace(xy[0] - 15, xy[0] + 15, 4), np.full(4, xy[1])], axis=-1)
    canvas = blank((round(60 * zoom), round(90 * zoom)))
    drawn = draw_tracks(canvas, steps[:, None], np.ones((4, 1)), WHITE, zoom=zoom)
    columns = slice(round((xy[0] - 5) * zoom), round((xy[0] + 5) * zoom))
    middle = drawn[:, columns].sum(axis=-1, dtype=float)
    rows = np.arange(len(middle)) + 0.5
    height = (rows[:, None] * middle).sum() / middle.sum()
    assert height == pytest.approx(xy[1] * zoom, abs=0.15)


def test_visible_is_filled_and_occluded_is_hollow():
    tracks = np.array([[[20.5, 30.5], [60.5, 30.5]]])
    vis = np.array([[1, 0]])
    drawn = draw_tracks(blank(), tracks, vis, np.repeat(WHITE, 2, axis=0), zoom=1.0)
    assert (drawn[30, 20] == 255).all()
    big = draw_tracks(blank((180, 270)), tracks, vis, np.repeat(WHITE, 2, axis=0), zoom=3.0)
    assert (big[91, 61] == 255).all()
    assert (big[91, 181] < 60).all()
    assert (big[91, 181 - 6 : 181 + 7].max(axis=-1) > 150).sum() >= 2


def test_trails_are_as_long_as_asked():
    tracks = np.stack([np.linspace(5, 85, 17), np.full(17, 30.5)], axis=-1)[:, None]
    for trail, leftmost in ((2, 75), (8, 45), (99, 5)):
        drawn = draw_tracks(blank(), tracks, np.ones((17, 1)), WHITE, trail)
        lit = np.flatnonzero(drawn.any(axis=(0, 2)))
        assert lit[0] == pytest.approx(leftmost, abs=1.6)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -1e12, 1e12])
def test_odd_points_are_no_trouble(odd):
    tracks = np.full((3, 2, 2), 30.5)
    tracks[1, 1] = odd
    drawn = draw_tracks(blank(), tracks, np.ones((3, 2)), np.repeat(WHITE, 2, axis=0))
    assert drawn.any()
    draw_queries(blank(), tracks[0], np.repeat(WHITE, 2, axis=0))


def test_points_at_edges_are_cut_off():
    edges = np.array([[0, 0], [90, 60], [0, 60], [90, 0], [-50, 30], [200, 30]])
    drawn = draw_queries(blank(), edges, np.repeat(WHITE, 6, axis=0))
    assert drawn.shape == (60, 90, 3)
    for corner in (drawn[0, 0], drawn[-1, -1], drawn[-1, 0], drawn[0, -1]):
        assert (corner > 128).all()
    assert not drawn[20:40].any()


@pytest.mark.parametrize("order", ["rows_fastest", "columns_fastest"])
def test_colours_follow_the_grid_row(order):
    colors = row_colors(QuerySpec(grid=(3, 5), order=order))
    assert colors.shape == (15, 3)
    grid = colors.reshape(5, 3, 3).swapaxes(0, 1) if order == "rows_fastest" else colors
    grid = grid.reshape(3, 5, 3)
    assert (grid == grid[:, :1]).all()
    assert len({tuple(color) for color in grid[:, 0].tolist()}) == 3
    assert row_colors(QuerySpec(grid=(1, 2))).shape == (2, 3)


sides = st.integers(2, 70)


@given(
    source=st.tuples(sides, sides), img=st.tuples(sides, sides), zoom=st.sampled_from([1, 1.5, 2])
)
def test_geometry_leaves_the_picture_alone(source, img, zoom):
    box = Letterbox.fit(source, img)
    canvas = np.full((round(img[0] * zoom), round(img[1] * zoom), 3), GREY, np.uint8)
    drawn = draw_geometry(canvas, box, zoom)
    left, top, right, bottom = (round(side * zoom) for side in box.content_box)
    assert (drawn[top + 1 : bottom - 1, left + 1 : right - 1] == GREY).all()
    if top > 0:  # there is room for the outline outside
        assert (drawn[top, left + 1 : right - 1] == GREY).all()
        assert (drawn[top - 1, left:right] != GREY).any()
    assert (canvas == GREY).all()


def test_bars_are_hatched_and_a_stretched_picture_has_none():
    bars = draw_geometry(blank((60, 90)), Letterbox.fit((20, 90), (60, 90)))
    share = bars[:19].any(axis=-1).mean()
    assert 0.1 < share < 0.4
    whole = draw_geometry(blank(), Stretch(source_shape=(20, 90), img_shape=(60, 90)))
    assert not whole[1:-1, 1:-1].any()


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 4))
def test_enlarging_rounds_the_sides(height, width, zoom):
    image = enlarge(blank((height, width)), zoom)
    assert image.shape == (max(1, round(height * zoom)), max(1, round(width * zoom)), 3)


@given(st.integers(6, 33), st.integers(6, 13), st.sampled_from([1, 1.5, 2, 3]))
def test_enlarging_keeps_places(column, row, zoom):
    image = blank((20, 40))
    image[row, column] = 255
    np.testing.assert_allclose(
        centroid_xy(enlarge(image, zoom)), np.array([column + 0.5, row + 0.5]) * zoom, atol=0.05
    )


def test_contact_sheet_lays_out_in_rows():
    images = [np.full((20, 30 + k, 3), 40 * (k + 1), np.uint8) for k in range(5)]
    sheet = contact_sheet(images, ["a\nb", "\u00e4 \u00d7", "", "d", "e"], 2, gap=10)
    cell = 34
    assert sheet.shape[1] == 10 + 2 * (cell + 10)
    for k in range(2):
        left = 10 + k * (cell + 10)
        assert (sheet[10:30, left : left + 30 + k] == 40 * (k + 1)).all()
    places = [np.argwhere((sheet == 40 * (k + 1)).all(axis=-1)).min(axis=0) for k in range(5)]
    assert [place[1] for place in places] == [10, 54, 10, 54, 10]
    assert places[0][0] < places[2][0] < places[4][0]


def test_a_long_label_keeps_both_its_ends():
    label = "a" * 60 + "/episode_7.mp4, frame 12"
    sheets = [
        contact_sheet([blank((20, 240))], [text], 1)
        for text in (label, label.replace("frame 12", "frame 34"), "b" + label[1:])
    ]
    assert (sheets[0] != sheets[1]).any()
    assert (sheets[0] != sheets[2]).any()
    assert (sheets[0][32:, -14:] == PAPER).all()  # it ends before the edge


def test_contact_sheet_with_a_footer_and_without_pictures():
    without = contact_sheet([blank()], ["x"], 3)
    with_footer = contact_sheet([blank()], ["x"], 3, footer=["broken.mp4", "other.mp4"])
    assert with_footer.shape[0] > without.shape[0] + 30
    assert contact_sheet([], [], 3, footer=["all failed"]).shape[1] > 500
    with pytest.raises(ValueError, match="1 pictures and 2 labels"):
        contact_sheet([blank()], ["x", "y"], 3)


def test_png_is_rgb():
    import cv2

    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200
    back = cv2.imdecode(np.frombuffer(png(image), np.uint8), cv2.IMREAD_COLOR)
    assert (back == (0, 0, 200)).all()
