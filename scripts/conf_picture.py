"""Draw docs/images/conf.svg: how often points are right, by what ``conf`` says of them."""

from __future__ import annotations

from pathlib import Path

from robot_truth import Bin, calibration_error

OUT = Path(__file__).parents[1] / "docs" / "images" / "conf.svg"
SIDE, LEFT, TOP = 300, 60, 20
COLOURS = {"fixed": "#0969da", "moving": "#bc4c00"}
FEWEST = 100  # points, below which a bin is not drawn
STYLE = (
    "text{font:13px sans-serif;fill:#24292f}.small{font-size:12px;fill:#57606a}"
    ".axis{fill:none;stroke:#57606a}.ideal{stroke:#8c959f;stroke-dasharray:5 4}"
)


def svg(cameras: dict[str, list[Bin]]) -> str:
    """Return the whole picture: a line per camera, dots as large as points are many."""
    parts = [
        f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" class="axis"/>',
        f'<path d="M{_at(0, 0)}L{_at(1, 1)}" class="ideal"/>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = LEFT + SIDE * tick, TOP + SIDE * (1 - tick)
        parts += [
            f'<text x="{x:g}" y="{TOP + SIDE + 18}" text-anchor="middle" class="small">{tick:g}'
            "</text>",
            f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end" class="small">{tick:g}</text>',
        ]
    middle = TOP + SIDE / 2
    parts += [
        f'<text x="{LEFT + SIDE / 2:g}" y="{TOP + SIDE + 38}" text-anchor="middle">conf</text>',
        f'<text x="16" y="{middle:g}" transform="rotate(-90 16 {middle:g})" text-anchor="middle">'
        "share that is right</text>",
    ]
    for number, (camera, bins) in enumerate(cameras.items()):
        parts += _line(bins, COLOURS[camera])
        y = TOP + 24 + 48 * number
        parts += [
            f'<circle cx="{LEFT + SIDE + 26}" cy="{y - 4}" r="5" fill="{COLOURS[camera]}"/>',
            f'<text x="{LEFT + SIDE + 38}" y="{y}">{camera} camera</text>',
            f'<text x="{LEFT + SIDE + 38}" y="{y + 17}" class="small">calibration error '
            f"{calibration_error(bins):.3f}</text>",
        ]
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 370" role="img" '
        'aria-label="Share of points that are right, by their conf">\n'
        f'<style>{STYLE}</style>\n<rect width="560" height="370" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _at(conf: float, right: float) -> str:
    return f"{LEFT + SIDE * conf:.1f} {TOP + SIDE * (1 - right):.1f}"


def _line(bins: list[Bin], colour: str) -> list[str]:
    shown = [each for each in bins if each.points >= FEWEST]
    total = sum(each.points for each in bins)
    places = [_at(each.conf, each.right) for each in shown]
    dots = []
    for place, each in zip(places, shown, strict=True):
        (x, y), radius = place.split(), 2.5 + 9 * (each.points / total) ** 0.5
        dots.append(f'<circle cx="{x}" cy="{y}" r="{radius:.1f}" fill="{colour}"/>')
    return [f'<path d="M{"L".join(places)}" fill="none" stroke="{colour}"/>', *dots]


def write_picture(cameras: dict[str, list[Bin]]) -> None:
    """Write the picture of the reliability of one tracker's ``conf``, by camera."""
    OUT.write_text(svg(cameras), encoding="utf-8")
