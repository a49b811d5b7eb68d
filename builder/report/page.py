"""Self-contained HTML pages, light and dark, no network, and accessible SVG drawings on them."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from builder.core.errors import OutputError
from schemas.geometry import Geometry

JPEG_QUALITY = 88
BINS = 12


def page(title: str, body: Iterable[str]) -> bytes:
    """Return a whole HTML document, UTF-8, with the stylesheet inside; ``body`` is HTML."""
    style = (files("builder.report") / "style.css").read_text(encoding="utf-8")
    content = "\n".join(body)
    document = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )
    return document.encode("utf-8")


def write_output(path: Path, data: bytes) -> None:
    """Write a file; raises OutputError that names it."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another place") from None


def text(value: object) -> str:
    """Escape anything for HTML; lone surrogates of odd file names are spelled out."""
    return escape(str(value).encode("utf-8", "backslashreplace").decode("utf-8"))


def figure(image: np.ndarray, alt: str, caption: str, css_class: str = "") -> str:
    """Return a <figure> with the picture (H, W, 3) uint8 RGB inside; ``caption`` is HTML."""
    height, width = image.shape[:2]
    source = f"data:image/jpeg;base64,{jpeg_base64(image, JPEG_QUALITY)}"
    return (
        f'<figure class="{css_class}"><img src="{source}" width="{width}" '
        f'height="{height}" alt="{text(alt)}"><figcaption>{caption}</figcaption></figure>'
    )


def definitions(pairs: Mapping[str, str]) -> str:
    """Return a definition list."""
    rows = (f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs.items())
    return f"<dl>{''.join(rows)}</dl>"


def jpeg_base64(image: np.ndarray, quality: int) -> str:
    """Encode a picture (H, W, 3) uint8 RGB as JPEG, in base64."""
    _, packed = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return base64_of(packed)


def base64_of(array: np.ndarray) -> str:
    """Encode the bytes of an array in base64."""
    return base64.b64encode(array.tobytes()).decode("ascii")


def histogram(title: str, values: Sequence[float], unit: str = "") -> str:
    """Draw how numbers are distributed: in bins, or one by one when only a few differ."""
    data = np.asarray(values, np.float64)
    if not len(data):
        return ""
    title = f"{title}, {unit}" if unit else title
    distinct = np.unique(data)
    if len(distinct) <= BINS // 2:
        return bars(title, {f"{value:.4g}": int((data == value).sum()) for value in distinct})
    counts, edges = np.histogram(data, bins=BINS)
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
