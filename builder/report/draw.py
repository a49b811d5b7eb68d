"""Drawing over frames: bars, query grids, tracks, and sheets of labelled pictures.

Pictures are (H, W, 3) uint8 RGB and are never changed in place.  Points are continuous (x, y)
pixels: ``zoom`` tells how much larger the picture is than the image the points belong to, and
enlarging by ``zoom`` maps a point p to exactly ``zoom * p``.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from schemas.dataset import QuerySpec
from schemas.geometry import Geometry

INK = (232, 236, 241)
PAPER = (22, 27, 34)
FAINT = (125, 133, 144)
OUTLINE = (255, 214, 10)
HATCH = (62, 70, 82)

_SHIFT = 4  # cv2 draws with 1/16 px
_AA = cv2.LINE_AA


def enlarge(frame: np.ndarray, zoom: float) -> np.ndarray:
    """Resize a picture by ``zoom``, smoothly; sides are rounded."""
    height, width = (max(1, round(side * zoom)) for side in frame.shape[:2])
    smooth = cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA
    return cv2.resize(frame, (width, height), interpolation=smooth)


def row_colors(spec: QuerySpec) -> np.ndarray:
    """Give every query point the colour of its grid row: (N, 3) uint8 RGB, in index order."""
    rows, columns = spec.grid
    index = np.arange(rows * columns)
    row = index % rows if spec.order == "rows_fastest" else index // columns
    # The ends of the map are too dark for dark pictures.
    shade = (24 + row * (208 / max(1, rows - 1))).astype(np.uint8)
    return cv2.applyColorMap(shade[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]


def draw_geometry(frame: np.ndarray, geometry: Geometry, zoom: float = 1.0) -> np.ndarray:
    """Hatch the bars of a letterboxed picture and outline its content."""
    out = frame.copy()
    left, top, right, bottom = (round(side * zoom) for side in geometry.content_box)
    bars = np.ones(out.shape[:2], bool)
    bars[top:bottom, left:right] = False
    y, x = np.indices(bars.shape)
    out[bars & ((x + y) % 10 < 2)] = HATCH
    # Outside the content where there is room, so that no pixel of it is hidden.
    low = (max(0, left - 1), max(0, top - 1))
    high = (min(out.shape[1] - 1, right), min(out.shape[0] - 1, bottom))
    return cv2.rectangle(out, low, high, OUTLINE, 1)


def draw_queries(
    frame: np.ndarray, queries_xy: np.ndarray, colors: np.ndarray | None = None, zoom: float = 1.0
) -> np.ndarray:
    """Mark query points (N, 2) with dots; ``colors`` (N, 3), default one for all."""
    out = frame.copy()
    for k, centre in enumerate(np.asarray(queries_xy, np.float64) * zoom):
        _dot(out, centre, _radius(zoom), OUTLINE if colors is None else colors[k])
    return out


def draw_tracks(
    frame: np.ndarray,
    tracks_xy: np.ndarray,
    vis: np.ndarray,
    colors: np.ndarray,
    trail: int = 12,
    zoom: float = 1.0,
) -> np.ndarray:
    """Draw where points are and have come from.

    ``tracks_xy`` (steps, N, 2) ends at the step that ``frame`` shows; its last ``trail`` steps
    are drawn as a line that fades backwards.  ``vis`` (steps, N): a point that is visible now
    is a dot, one that is occluded a ring.  ``colors`` is (N, 3).  Points that are not finite
    are left out.
    """
    recent = slice(max(0, len(tracks_xy) - 1 - trail), None)
    known = np.isfinite(tracks_xy[recent]).all(axis=(0, 2))
    places = np.asarray(tracks_xy[recent][:, known], np.float64) * zoom
    shades = colors[known]
    out = _trails(frame, places, shades.tolist(), zoom)
    for centre, visible, color in zip(places[-1], vis[-1][known], shades, strict=True):
        _dot(out, centre, _radius(zoom), color, hollow=not visible)
    return out


def contact_sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[str],
    columns: int,
    footer: Sequence[str] = (),
    gap: int = 12,
) -> np.ndarray:
    """Lay pictures out in rows of ``columns``, each with its label below, lines of text last.

    A label may have several lines; the first is bright, the others faint.  Raises ValueError
    when the numbers of pictures and labels differ.
    """
    if len(images) != len(labels):
        raise ValueError(f"got {len(images)} pictures and {len(labels)} labels; need one for each")
    tiles = [_captioned(image, label) for image, label in zip(images, labels, strict=True)]
    cell = max((tile.shape[1] for tile in tiles), default=1024)
    width = gap + (cell + gap) * (min(columns, len(tiles)) or 1)
    sheet = [_paper(gap, width)]
    for first in range(0, len(tiles), columns):
        group = tiles[first : first + columns]
        row = _paper(max(tile.shape[0] for tile in group) + gap, width)
        for k, tile in enumerate(group):
            left = gap + k * (cell + gap)
            row[: tile.shape[0], left : left + tile.shape[1]] = tile
        sheet.append(row)
    sheet += [_captioned(_paper(1, width), f" {line}") for line in footer]
    return np.concatenate(sheet)


def png(image: np.ndarray) -> bytes:
    """Encode a picture as PNG."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def _radius(zoom: float) -> float:
    return max(1.2, 1.3 * zoom)


def _dot(
    out: np.ndarray,
    centre_xy: np.ndarray,
    radius: float,
    color: Sequence[int] | np.ndarray,
    hollow: bool = False,
) -> None:
    """Blend a disc or a ring into ``out``, exactly at a place between pixels.

    cv2 draws a circle this small as a lozenge.
    """
    reach = radius + 1.5
    low = np.maximum(0, np.floor(centre_xy - reach)).astype(int)
    high = np.minimum(out.shape[1::-1], np.ceil(centre_xy + reach)).astype(int)
    if (low >= high).any():
        return
    x, y = (np.arange(low[axis], high[axis]) + 0.5 - centre_xy[axis] for axis in (0, 1))
    distance = np.hypot(x, y[:, None])[..., None]
    patch = out[low[1] : high[1], low[0] : high[0]]
    disc = np.clip(radius + 0.5 - distance, 0, 1)
    # A dark outline sets dots off from pixels of their own colour.
    rim = np.clip(radius + 1.2 - distance, 0, 1) * 0.7
    if hollow:
        inner = np.clip(radius - 0.7 - distance, 0, 1)
        disc, rim = disc - inner, rim * (1 - inner)
    blend = patch + (PAPER - patch.astype(np.float64)) * rim
    patch[:] = np.rint(blend + (color - blend) * disc)


def _trails(
    frame: np.ndarray, places: np.ndarray, colors: list[list[int]], zoom: float
) -> np.ndarray:
    """Draw lines through places (steps, M, 2), the older half fainter."""
    # cv2 counts from a pixel's centre, and what is far outside must fit its integers.
    fixed = np.clip(np.rint((places - 0.5) * (1 << _SHIFT)), -(1 << 22), 1 << 22).astype(np.int32)
    out = frame
    thickness = max(1, round(zoom * 0.7))
    middle = len(places) // 2
    for part, strength in ((fixed[: middle + 1], 0.45), (fixed[middle:], 0.85)):
        drawn = out.copy()
        for k, color in enumerate(colors):
            cv2.polylines(drawn, [part[:, k]], False, color, thickness, _AA, _SHIFT)
        out = cv2.addWeighted(drawn, strength, out, 1 - strength, 0)
    return out


def _captioned(image: np.ndarray, label: str) -> np.ndarray:
    lines = label.splitlines()
    caption = _paper(6 + 18 * len(lines), image.shape[1])
    for k, line in enumerate(lines):
        # cv2's own font has nothing but ASCII.
        ascii_line = _fitting(line.encode("ascii", "replace").decode("ascii"), image.shape[1] - 4)
        color = INK if k == 0 else FAINT
        place = (2, 18 * (k + 1) - 2)
        cv2.putText(caption, ascii_line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, _AA)
    return np.concatenate([image, caption])


def _fitting(line: str, width: int) -> str:
    """Take as much out of a line's middle as does not fit: names differ most at their ends."""
    shown = line
    for kept in range(len(line) - 1, 0, -1):
        if cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0] <= width:
            break
        shown = f"{line[: kept // 2]}...{line[len(line) - (kept - kept // 2) :]}"
    return shown


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)
