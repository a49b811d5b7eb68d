"""TIFF pictures of every layout against the pixels they were made of; pages as frames."""

import io

import numpy as np
import PIL
import pytest
from PIL import Image, TiffImagePlugin

from builder.core.errors import DecodeError, DepthError
from builder.inputs.images import decode_image
from builder.sources.kinds.image_folders import ImageFolders
from schemas.config import Limits

ROWS, COLUMNS = np.mgrid[:48, :80]
COLOUR = np.stack([3 * COLUMNS, 5 * ROWS, 2 * (ROWS + COLUMNS)], -1).astype(np.uint8)
GRAY = COLOUR[..., 0]


def tiff(image, mode=None, **options):
    buffer = io.BytesIO()
    made = Image.fromarray(image)
    (made if mode is None else made.convert(mode)).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def tags(entries):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in entries.items():
        directory[tag] = value
    return directory


def raw_tiff(bits, width, rows):
    """Return an uncompressed TIFF of one gray channel of 2 or 4 bits; ``rows`` are its bytes."""
    data = rows.tobytes()
    entries = [
        (256, 3, width), (257, 3, len(rows)), (258, 3, bits), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 4, len(rows)), (279, 4, len(data)),
    ]  # fmt: skip
    head = b"II*\0" + (8 + len(data)).to_bytes(4, "little")
    packed = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, value in entries
    )  # fmt: skip
    return head + data + len(entries).to_bytes(2, "little") + packed + bytes(4)


def decoded(data, page=None):
    frame = decode_image(data, "picture.tif", Limits(), page)
    return frame.to_ndarray(format="rgb24").astype(int)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_without_loss(compression):
    assert (decoded(tiff(COLOUR, compression=compression)) == COLOUR).all()


def test_jpeg_within_tiff_is_no_black_picture():
    assert abs(decoded(tiff(COLOUR, compression="jpeg", quality=95)) - COLOUR).mean() < 2


def test_cmyk_is_colour():
    assert abs(decoded(tiff(COLOUR, "CMYK")) - COLOUR).max() <= 2


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_span_the_whole_range(bits):
    values = GRAY >> (8 - bits)
    packed = np.zeros((48, 80 * bits // 8), np.uint8)
    for k in range(8 // bits):
        packed |= values[:, k :: 8 // bits] << (8 - bits * (k + 1))
    got = decoded(raw_tiff(bits, 80, packed))
    assert abs(got[..., 1] - values * (255 / (2**bits - 1))).max() <= 1


def test_palette_and_one_bit():
    palette = Image.fromarray(COLOUR).quantize(64)
    buffer = io.BytesIO()
    palette.save(buffer, "TIFF")
    assert (decoded(buffer.getvalue()) == np.asarray(palette.convert("RGB"))).all()
    mask = GRAY > 120
    assert (decoded(tiff(mask))[..., 0] == 255 * mask).all()


@pytest.mark.parametrize("deep", [GRAY.astype(np.uint16) * 257, GRAY.astype(np.float32) / 255])
def test_one_channel_of_more_than_8_bits_is_no_picture(deep):
    with pytest.raises(DepthError, match=r"more than 8 bits.*depth"):
        decoded(tiff(deep))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_off_is_refused(compression, share):
    data = tiff(COLOUR, compression=compression)
    with pytest.raises(DecodeError, match="cannot read the TIFF image"):
        decoded(data[: int(len(data) * share)])


def edited(data, changes):
    """Replace values of tags that lie in their entries."""
    data = bytearray(data)
    at = int.from_bytes(data[4:8], "little")
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], "little"), 12):
        tag = int.from_bytes(data[entry : entry + 2], "little")
        if tag in changes:
            data[entry + 8 : entry + 12] = changes[tag].to_bytes(4, "little")
    return bytes(data)


def test_planes_of_16_bits_are_not_read_as_8():
    planes = tiff(COLOUR, tiffinfo=tags({284: 1}))
    at = planes.index(np.array([8, 8, 8], "<u2").tobytes())
    deep = planes[:at] + np.array([16, 16, 16], "<u2").tobytes() + planes[at + 6 :]
    with pytest.raises(DecodeError, match="planes of more than 8 bits"):
        decoded(edited(deep, {284: 2}))


def test_signed_numbers_are_no_picture():
    with pytest.raises(DepthError, match="signed or floats"):
        decoded(tiff(GRAY, tiffinfo=tags({339: 2})))


def test_palettes_of_8_bits_are_not_black():
    palette = Image.fromarray(COLOUR).quantize(64)
    buffer = io.BytesIO()
    palette.save(buffer, "TIFF")
    data = buffer.getvalue()
    with Image.open(io.BytesIO(data)) as image:
        colours = np.array(image.tag_v2[320], "<u2")
    at = data.index(colours.tobytes())
    old = data[:at] + (colours >> 8).astype("<u2").tobytes() + data[at + colours.nbytes :]
    assert (decoded(old) == np.asarray(palette.convert("RGB"))).all()


def test_a_stack_of_imagej_in_one_page_is_not_its_first_image():
    said = "ImageJ=1.54f\nimages=7\nslices=7\n"
    with pytest.raises(DecodeError, match="stack of 7 images in one page"):
        decoded(tiff(COLOUR, tiffinfo=tags({270: said})))
    assert (decoded(tiff(COLOUR, tiffinfo=tags({270: said.replace("7", "1")}))) == COLOUR).all()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({259: 34712}, r"\(34712\): it is compressed in a way of that number"),
        ({262: 32803}, "bits and channels are of no kind it reads"),
    ],
)
def test_what_pillow_does_not_read_is_named(changes, why):
    with pytest.raises(DecodeError, match=why):
        decoded(edited(tiff(GRAY), changes))


def test_pages_are_frames_and_thumbnails_are_not(tmp_path):
    pages = [Image.fromarray(np.roll(COLOUR, 7 * k, 1)) for k in range(3)]
    thumbnail = pages[0].resize((20, 12))
    thumbnail.encoderinfo = {"tiffinfo": tags({254: 1})}
    buffer = io.BytesIO()
    # Older releases of Pillow write no tags of pages after the first.
    last = [thumbnail] if int(PIL.__version__.split(".")[0]) >= 12 else []
    pages[0].save(buffer, "TIFF", save_all=True, append_images=[*pages[1:], *last])
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "all.tif").write_bytes(buffer.getvalue())
    source = ImageFolders(tmp_path)
    [ref] = source.refs()
    with source.open(ref) as episode:
        frames = [frame.image.to_ndarray(format="rgb24") for frame in episode.views["main"]]
    assert (np.stack(frames) == np.stack([np.asarray(page) for page in pages])).all()

    (tmp_path / "stack" / "more.tif").write_bytes(buffer.getvalue())
    said = r"3 pages.*only image of its folder"
    with source.open(ref) as episode, pytest.raises(DecodeError, match=said):
        episode.views["main"]
