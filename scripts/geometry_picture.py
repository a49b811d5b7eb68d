"""Draw docs/images/geometry.svg: the two pixel conventions, and a letterbox with its numbers.

    python scripts/geometry_picture.py

Every number in it comes from ``schemas.Letterbox``; a test holds that the picture is current.
"""

from __future__ import annotations

from pathlib import Path

from schemas import Letterbox

OUT = Path(__file__).parents[1] / "docs" / "images" / "geometry.svg"
CELL = 70
STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.small{font-size:12px}.grey{fill:#6e7781}"
    ".title{font-weight:bold;font-size:14px}.line{fill:none;stroke:#24292f}"
    ".bar{fill:#d0d7de}.picture{fill:#ddf4ff;stroke:#0969da}.corner{fill:#0969da}"
    ".centre{fill:#bc4c00}"
)


def svg() -> str:
    """Return the whole picture."""
    box = Letterbox.fit(source_shape=(720, 1280), img_shape=(256, 256))
    parts = [*_pixels(40, 40), *_letterbox(40, 250, box)]
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 560" role="img" '
        'aria-label="Continuous coordinates and a letterbox">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="720" height="560" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _pixels(x: int, y: int) -> list[str]:
    """Draw a row of four pixels with both rulers."""
    parts = [_text(x, y, "Where is a pixel?", "title")]
    top = y + 50
    for j in range(4):
        left = x + j * CELL
        parts.append(f'<rect x="{left}" y="{top}" width="{CELL}" height="{CELL}" class="line"/>')
        parts.append(f'<circle cx="{left + CELL / 2}" cy="{top + CELL / 2}" r="4" class="centre"/>')
        parts.append(_text(left + CELL / 2, top - 8, str(j), "centre", "middle"))
        parts.append(_text(left + CELL / 2, top + CELL / 2 + 20, f"{j + 0.5}", "corner", "middle"))
    for j in range(5):
        parts.append(f'<circle cx="{x + j * CELL}" cy="{top + CELL}" r="3" class="corner"/>')
        parts.append(_text(x + j * CELL, top + CELL + 18, str(j), "corner", "middle"))
    beside = x + 4 * CELL + 30
    return [
        *parts,
        _text(beside, top - 8, "index coordinates (OpenCV, CoTracker)", "centre"),
        _text(beside, top + CELL + 18, "continuous coordinates (letterset)", "corner"),
        _text(beside, top + CELL / 2 + 5, "continuous = index + 0.5"),
    ]


def _letterbox(x: int, y: int, box: Letterbox) -> list[str]:
    """Draw a source, its canvas and one point in both."""
    source_h, source_w = (side / 5 for side in box.source_shape)
    height, width = box.img_shape
    point = (320.0, 180.0)
    img_x, img_y = box.to_img(point)
    norm_x, norm_y = box.encode(point)
    canvas, content_h = x + 360, box.content_shape[0]
    return [
        _text(x, y, "One point, three places", "title"),
        _rect(x, y + 20, source_w, source_h, "picture"),
        _dot(x + point[0] / 5, y + 20 + point[1] / 5),
        _text(
            x + point[0] / 5 + 8, y + 24 + point[1] / 5, f"({point[0]:g}, {point[1]:g})", "small"
        ),
        _text(x, y + 40 + source_h, f"source, {box.source_shape[0]} x {box.source_shape[1]}"),
        _text(x, y + 60 + source_h, "drawn at a fifth of its size", "small grey"),
        _rect(canvas, y + 20, width, height, "bar"),
        _rect(canvas, y + 20 + box.pad.top, width, content_h, "picture"),
        _dot(canvas + img_x, y + 20 + img_y),
        _text(canvas + img_x + 8, y + 18 + img_y, f"({img_x:g}, {img_y:g}) px", "small"),
        _text(canvas + img_x + 8, y + 34 + img_y, f"({norm_x:g}, {norm_y:g}) normalized", "small"),
        _text(canvas + 8, y + 40, f"pad.top = {box.pad.top}", "small"),
        _text(canvas + 8, y + 10 + height, f"pad.bottom = {box.pad.bottom}", "small"),
        _text(canvas, y + 40 + height, f"canvas, {height} x {width}"),
        _text(x, y + 240, f"scale_xy = {box.scale_xy}", "small"),
        _text(x, y + 260, f"pad_xy = {box.pad_xy}", "small"),
        _text(x, y + 280, "canvas = scale_xy * source + pad_xy", "small"),
    ]


def _rect(x: float, y: float, width: float, height: float, name: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{name}"/>'


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="4" class="centre"/>'


def _text(x: float, y: float, text: str, name: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{name}" text-anchor="{anchor}">{text}</text>'


def main() -> None:
    """Write the picture."""
    OUT.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
