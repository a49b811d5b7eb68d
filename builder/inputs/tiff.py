"""TIFF pictures, read with Pillow: any compression, layout and colour; its pages are frames."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from builder.core.errors import DecodeError, DepthError, SourceError
from builder.inputs.streams import check_pixels
from schemas.config import Limits

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Pillow's modes with at most 8 bits in a channel; what has more has one channel, and is no colour.
_PICTURES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# Tags, and the bits of NewSubfileType for a thumbnail or a mask of another page.
_SUBFILE_TYPE, _NOT_A_PAGE, _ORIENTATION = 254, 1 | 4, 274


def tiff_pages(data: bytes, path: Path) -> list[int]:
    """Return the numbers of the pages, thumbnails and masks left out.  Raises DecodeError."""
    with _opened(data, path) as image:
        return [at for at in range(image.n_frames) if _is_page(image, at)]


def decode_tiff(data: bytes, path: Path, limits: Limits, page: int | None = None) -> Any:
    """Decode a page, or the only one, into an RGB ``av.VideoFrame``, its orientation not applied.

    Raises DecodeError when it is damaged or too large, DepthError when it is no picture of 8 bits
    a channel.
    """
    from PIL.Image import Transpose

    with _opened(data, path) as image:
        if page is None:
            page = _only([at for at in range(image.n_frames) if _is_page(image, at)], path)
        image.seek(page)
        check_pixels(path, image.width, image.height, limits)
        if image.mode not in _PICTURES:
            raise DepthError.at(
                path,
                f"one channel of more than 8 bits (Pillow's mode {image.mode}) is depth or a "
                f"measurement, or its colours are of an unknown kind; convert camera pictures to "
                f"8 bits a channel",
            )
        _check_layout(image, path)
        turn = image.tag_v2.get(_ORIENTATION, 1)
        upright = image.convert("RGB")
    # Pillow turns pages upright as it loads them; the order is that of EXIF, 1 to 8.
    back = (None, 0, 3, 1, 5, 2, 6, 4)[turn - 1] if turn in range(1, 9) else None
    stored = upright if back is None else upright.transpose(Transpose(back))
    return av.VideoFrame.from_ndarray(np.asarray(stored), "rgb24")


def _check_layout(image: TiffImageFile, path: Path) -> None:
    """Refuse what Pillow would read as something else, and mend palettes of 8 bits."""
    from PIL import ImagePalette

    tags = image.tag_v2
    if image.mode == "P" and max(tags[_PALETTE]) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_PALETTE]))
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8:
        raise DecodeError.at(
            path,
            "its colours are in planes of more than 8 bits, which Pillow reads wrong; save it with "
            "8 bits a channel, or with the channels of a pixel together",
        )
    if set(tags.get(_NUMBERS, (1,))) & {2, 3, 5, 6}:
        raise DepthError.at(
            path, "its numbers are signed or floats, which is a measurement and no picture"
        )
    said = _STACK.search(str(tags.get(_TEXT, "")))
    if said and image.n_frames == 1 < int(said[1]):
        raise DecodeError.at(
            path,
            f"ImageJ's stack of {said[1]} images in one page is not read; save a page for each",
        )


# Tags, and what ImageJ writes into the text of stacks beyond 4 GiB.
_BITS, _TEXT, _PLANES, _PALETTE, _NUMBERS = 258, 270, 284, 320, 339
_STACK = re.compile(r"^ImageJ=.*?^images=(\d{1,9})$", re.DOTALL | re.MULTILINE)


def _only(pages: list[int], path: Path) -> int:
    if len(pages) != 1:
        raise DecodeError.at(
            path,
            f"it has {len(pages)} pages, one was expected; pages are read as frames where such a "
            f"file is the only image of its folder",
        )
    return pages[0]


@contextmanager
def _opened(data: bytes, path: Path) -> Iterator[TiffImageFile]:
    """Open a file; whatever Pillow raises about it is a DecodeError."""
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        # Its warnings are about metadata.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with TiffImageFile(BytesIO(data)) as image:
                yield image
    except SourceError:
        raise
    # Pillow raises errors of many kinds on damaged files; all are about the file.
    except Exception as error:
        if str(error).isdigit():
            why = "it is compressed in a way of that number; save it with LZW or Deflate"
        elif "pixel mode" in str(error):
            why = "its bits and channels are of no kind it reads; save it with 8 bits a channel"
        else:
            why = "it is damaged, cut off or compressed in a way that Pillow was built without"
        raise DecodeError.at(path, f"Pillow cannot read the TIFF image ({error}): {why}") from None


def _is_page(image: TiffImageFile, at: int) -> bool:
    image.seek(at)
    return not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _NOT_A_PAGE
