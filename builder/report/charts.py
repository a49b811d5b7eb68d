"""Small accessible SVG drawings: histograms and letterboxes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from builder.report.page import text
from schemas.geometry import Geometry

BINS = 12


def histogram(title: str, values: Sequence[float], unit: str = "") -> str:
    """Draw how numbers are distributed: in bins, or one by one when only a few differ."""
    data = np.asarray(values, np.float64)
    if not len(data):
        return ""
    low, high = float(data.min()), float(data.max())
    title = f"{title}, {unit}" if unit else title
    distinct = np.unique(data)
    if len(distinct) <= BINS // 2:
        return bars(title, {f"{value:.4g}": int((data == value).sum()) for value in distinct})
    counts, edges = np.histogram(data, bins=BINS, range=(low, high))
    labels = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    return bars(title, dict(zip(labels, counts.tolist(), strict=True)))


def bars(title: str, counts: Mapping[str, float], shares: bool = False) -> str:
    """Draw one horizontal bar per label; nothing for none.  A full bar of ``shares`` is 100%."""
    if not counts:
        return ""
    top = 1 if shares else max(counts.values()) or 1
    rows, told, y = [], [], 22
    for label, count in counts.items():
        width = 130 * count / top
        shown = f"{count:.1%}" if shares else f"{count:g}"
        told.append((label, shown))
        rows.append(
            f'<text x="118" y="{y}" text-anchor="end" class="faint">{text(label)}</text>'
            f'<rect class="bar" x="124" y="{y - 10}" width="{width:.1f}" height="12"/>'
            f'<text x="{130 + width:.1f}" y="{y}">{shown}</text>'
        )
        y += 18
    return _figure(title, "; ".join(f"{label}: {shown}" for label, shown in told), y, rows)


def tiles(title: str, shares: np.ndarray, shape: tuple[int, int]) -> str:
    """Draw shares (rows, columns) as tiles of a canvas of ``shape``, darker for more."""
    rows, columns = shares.shape
    zoom = 220 / max(shape)
    height, width = shape[0] * zoom / rows, shape[1] * zoom / columns
    drawn = []
    for (row, column), share in np.ndenumerate(shares):
        x, y = 4 + column * width, 4 + row * height
        drawn.append(
            f'<rect class="tile" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" fill-opacity="{0.45 * share / shares.max():.3f}"/>'
            f'<text x="{x + width / 2:.1f}" y="{y + height / 2 + 4:.1f}" '
            f'text-anchor="middle">{share:.1%}</text>'
        )
    said = "; ".join(" ".join(f"{share:.1%}" for share in row) for row in shares)
    return _figure(title, said, rows * height + 8, drawn)


def _figure(title: str, said: str, height: float, drawn: Sequence[str]) -> str:
    return (
        f'<figure><figcaption>{text(title)}</figcaption><svg viewBox="0 0 300 {height:.0f}" '
        f'role="img" aria-label="{text(title)}. {text(said)}">{"".join(drawn)}</svg></figure>'
    )


def letterbox_drawing(box: Geometry, caption: str) -> str:
    """Draw a geometry to scale: the canvas, the picture on it, and its numbers."""
    (height, width), (left, top, right, bottom) = box.img_shape, box.content_box
    zoom = 220 / max(height, width)
    scale_x, scale_y = box.affine.scale_xy
    source = f"{box.source_shape[0]} x {box.source_shape[1]}"
    content = f"{bottom - top} x {right - left}"
    said = (
        f"source {source} px, picture {content} px of {height} x {width}; bars: {top} px above, "
        f"{height - bottom} below, {left} left, {width - right} right; "
        f"scale {scale_x:.5g} in x, {scale_y:.5g} in y"
    )
    return (
        f'<figure><svg viewBox="0 0 300 {height * zoom + 8:.0f}" role="img" aria-label="{said}">'
        f'<rect class="pad" x="4" y="4" width="{width * zoom:.1f}" height="{height * zoom:.1f}"/>'
        f'<rect class="content" x="{4 + left * zoom:.1f}" y="{4 + top * zoom:.1f}" '
        f'width="{(right - left) * zoom:.1f}" height="{(bottom - top) * zoom:.1f}"/>'
        f'<text x="{4 + (left + right) * zoom / 2:.1f}" y="{8 + (top + bottom) * zoom / 2:.1f}" '
        f'text-anchor="middle">{content}</text></svg>'
        f"<figcaption>{text(caption)}<br>{said}</figcaption></figure>"
    )
