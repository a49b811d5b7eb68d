"""Self-contained HTML pages: no network, light and dark, one look for all of them."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from builder.core.errors import OutputError

JPEG_QUALITY = 88


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
