"""Draw docs/images/older_grid.svg: where the older route's query points lie on two pictures.

    python scripts/older_grid_picture.py

The points are those of ``query_points``, over a square as high as the picture, and the sentences
those of ``letterset doctor``; a test holds that the picture is current.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builder.canvas.query_grid import query_points
from schemas import QuerySpec, Stretch

OUT = Path(__file__).parents[1] / "docs" / "images" / "older_grid.svg"
SCALE = 0.35
STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.small{font-size:12px;fill:#57606a}"
    ".title{font-weight:bold;font-size:14px}.picture{fill:#ddf4ff;stroke:#0969da}"
    ".square{fill:none;stroke:#57606a;stroke-dasharray:5 4}"
    ".dot{fill:none;stroke-width:4;stroke-linecap:round}.in{stroke:#0969da}.out{stroke:#bc4c00}"
)


def older_points(shape: tuple[int, int]) -> np.ndarray:
    """Return the older route's 400 points (400, 2) (x, y) for frames of (H, W): W is not used."""
    square = (shape[0], shape[0])
    spec = QuerySpec(grid=(20, 20), region="canvas")
    return query_points(spec, Stretch(source_shape=square, img_shape=square))


def svg() -> str:
    """Return the whole picture."""
    parts = [*_frame(30, (480, 854), "Landscape"), *_frame(400, (854, 480), "Portrait")]
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 420" role="img" '
        'aria-label="Query points of the older route on a landscape and a portrait picture">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect width="740" height="420" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _frame(x: int, shape: tuple[int, int], name: str) -> list[str]:
    height, width = shape
    points_xy = older_points(shape)
    inside = points_xy[:, 0] <= width
    share = f"{min(1, height / width):.0%} of the width covered"
    told = f"{share}; {(~inside).sum()} of {len(points_xy)} points outside"
    top, below = 50, 50 + height * SCALE
    return [
        f'<text x="{x}" y="30" class="title">{name}: {height} x {width} (H x W)</text>',
        _rect(x, top, width, height, "picture"),
        _rect(x, top, height, height, "square"),
        _dots(x, top, points_xy[inside], "in"),
        _dots(x, top, points_xy[~inside], "out"),
        f'<text x="{x}" y="{below + 22:.0f}">{told}</text>',
        f'<text x="{x}" y="{below + 42:.0f}" class="small">dashed: the square that the grid '
        "lies over</text>",
    ]


def _dots(x: float, y: float, points_xy: np.ndarray, name: str) -> str:
    path = "".join(f"M{x + SCALE * px:.1f} {y + SCALE * py:.1f}h0" for px, py in points_xy.tolist())
    return f'<path d="{path}" class="dot {name}"/>'


def _rect(x: float, y: float, width: int, height: int, name: str) -> str:
    size = f'width="{SCALE * width:.1f}" height="{SCALE * height:.1f}"'
    return f'<rect x="{x}" y="{y}" {size} class="{name}"/>'


def main() -> None:
    """Write the picture."""
    OUT.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
