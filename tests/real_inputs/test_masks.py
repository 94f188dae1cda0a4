"""A mask file of any bits, channels and byte order gives the labels that it stores, or a message.

The TIFF and PNG files are written byte by byte: Pillow and OpenCV write few of these kinds.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from segtune.config.data_config import DataConfig
from segtune.data.masks import read_mask
from segtune.errors import DataError

GREY, COLOURS, INDEXED, GREY_ALPHA = 0, 2, 3, 4  # colour types of PNG
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # sample formats of TIFF
LABELS = np.array([[0, 1], [2, 2]], np.uint8)
WIDE = np.array([[0, 1], [2, 300]])


def read(path: Path, num_classes: int = 3, **settings: object) -> np.ndarray:
    """Return the labels of a mask with the classes c0, c1, …"""
    classes = [f"c{label}" for label in range(num_classes)]
    return read_mask(path, DataConfig.parse({"classes": classes, **settings}), num_classes)


def png(colour_type: int, depth: int, width: int, rows: Sequence[bytes]) -> bytes:
    """Return a PNG file with these packed rows; a palette image has a black palette."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(3 << depth)) if colour_type == INDEXED else b""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + colours + pixels + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray | bytes,
    *,
    width: int = 2,
    bits: int | None = None,
    sample_format: int = UNSIGNED,
    photometric: int = 1,
    channels: int = 1,
    nodata: bytes = b"",
) -> bytes:
    """Return a TIFF file without compression, in the byte order of `values`."""
    big = not isinstance(values, bytes) and values.dtype.byteorder == ">"
    pixels = values if isinstance(values, bytes) else values.tobytes()
    bits = bits or 8 * np.asarray(values).itemsize
    height = len(pixels) * 8 // (width * bits * channels)
    order = ">" if big else "<"

    def entry(tag: int, kind: str, *numbers: int) -> tuple[int, int, int, bytes]:
        code = {"H": 3, "I": 4}[kind]
        return tag, code, len(numbers), struct.pack(f"{order}{len(numbers)}{kind}", *numbers)

    entries = [
        entry(256, "I", width),
        entry(257, "I", height),
        entry(258, "H", *[bits] * channels),
        entry(259, "H", 1),
        entry(262, "H", photometric),
        entry(273, "I", 8),  # the pixels follow the header
        entry(277, "H", channels),
        entry(278, "I", height),
        entry(279, "I", len(pixels)),
        *([entry(338, "H", 2)] if channels == 2 else []),
        entry(339, "H", *[sample_format] * channels),
        *([(42113, 2, len(nodata), nodata)] if nodata else []),
    ]
    start = 8 + len(pixels) + len(pixels) % 2
    end = start + 2 + 12 * len(entries) + 4
    table, blob = struct.pack(f"{order}H", len(entries)), b""
    for tag, code, count, data in entries:
        if len(data) > 4:
            blob, data = blob + data, struct.pack(f"{order}I", end + len(blob))
        table += struct.pack(f"{order}HHI", tag, code, count) + data.ljust(4, b"\0")
    header = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}I", start)
    return header + pixels.ljust(start - 8, b"\0") + table + bytes(4) + blob


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", ">i2", "<u4", ">u4", "<i4", ">i4", "<f4"])
def test_a_tiff_of_any_byte_order_and_width_has_its_labels(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.tif"
    sample_format = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}[dtype[1]]
    path.write_bytes(tiff(WIDE.astype(dtype), sample_format=sample_format))
    labels = read(path, 301, ignore_index=65535)
    assert labels.dtype == np.uint16
    assert labels.tolist() == WIDE.tolist()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow, before it gives up
@pytest.mark.parametrize("dtype", ["<f8", "<i8"])
def test_a_tiff_that_pillow_cannot_read_has_its_labels(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(LABELS.astype(dtype), sample_format=FLOAT if "f" in dtype else SIGNED))
    assert read(path).tolist() == LABELS.tolist()
    path.write_bytes(path.read_bytes()[:40])  # damaged: a message, not labels of 0
    with pytest.raises(DataError, match=r"x\.tif: not readable as an image"):
        read(path)


@pytest.mark.parametrize("dtype", ["i1", "<i2", ">i2", "<i4"])
def test_negative_labels_never_wrap_around(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(np.array([[0, 1], [2, -1]], dtype), sample_format=SIGNED))
    with pytest.raises(DataError, match=r"labels \[-1\] .*1 of 4 pixels.*label_map=\{-1: 255\}"):
        read(path)
    assert read(path, label_map={-1: 255}).tolist() == [[0, 1], [2, 255]]


def test_the_largest_numbers_never_wrap_around(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(np.array([[0, 1], [2, 2**32 - 1]], "<u4")))
    with pytest.raises(DataError, match=r"labels \[4294967295\] are outside the 3 classes"):
        read(path)
    cv2.imwrite(str(path.with_suffix(".png")), np.full((2, 2), 256, np.uint16))
    with pytest.raises(DataError, match=r"labels \[256\] are outside the 3 classes"):
        read(path.with_suffix(".png"))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_floats_that_are_no_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(np.array([[0, value], [1, 1]], "<f4"), sample_format=FLOAT))
    with pytest.raises(DataError, match=r"x\.tif: 1 of 4 pixels are no whole numbers, the first"):
        read(path)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour_type", [GREY, INDEXED])
def test_a_png_of_few_bits_has_its_numbers_as_labels(
    tmp_path: Path, bits: int, colour_type: int
) -> None:
    path = tmp_path / "x.png"
    row = {1: b"\x50", 2: b"\x1b", 4: b"\x01\x2f"}[bits]
    path.write_bytes(png(colour_type, bits, 4, [row, row]))
    expected = {1: [0, 1, 0, 1], 2: [0, 1, 2, 3], 4: [0, 1, 2, 15]}[bits]
    assert read(path, 16).tolist() == [expected, expected]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_of_few_bits_has_its_numbers_as_labels(
    tmp_path: Path, bits: int, photometric: int
) -> None:
    path = tmp_path / "x.tif"
    row = {1: b"\x50", 2: b"\x1b", 4: b"\x01\x2f"}[bits]
    width = 8 if bits == 1 else 4
    path.write_bytes(tiff(row, width=width, bits=bits, photometric=photometric))
    expected = {1: [0, 1, 0, 1, 0, 0, 0, 0], 2: [0, 1, 2, 3], 4: [0, 1, 2, 15]}[bits]
    assert read(path, 16).tolist() == [expected]


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_a_tiff_in_which_0_is_white_has_the_stored_numbers(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(LABELS.astype(dtype), photometric=0))
    assert read(path).tolist() == LABELS.tolist()


@pytest.mark.parametrize("grey_palette", [False, True])
def test_a_bmp_of_4_bits_has_its_numbers_as_labels(tmp_path: Path, grey_palette: bool) -> None:
    path = tmp_path / "x.bmp"
    colours = b"".join(bytes([i, i if grey_palette else 0, i, 0]) for i in range(16))
    start = 14 + 40 + len(colours)
    header = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 4, 0, 4, 0, 0, 16, 0)
    pixels = b"\x01\x2f\0\0"
    file = struct.pack("<IHHI", start + 4, 0, 0, start)
    path.write_bytes(b"BM" + file + header + colours + pixels)
    assert read(path, 16).tolist() == [[0, 1, 2, 15]]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_equal_channels_and_alpha_are_one_label(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "x.png"
    planes = [LABELS] * (channels - (channels % 2 == 0))
    planes += [np.full_like(LABELS, 255)] * (channels - len(planes))
    Image.fromarray(np.dstack(planes)).save(path)
    assert read(path).tolist() == LABELS.tolist()


def test_channels_of_16_bits_keep_all_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.dstack([WIDE.astype(np.uint16)] * 3))
    assert read(path, 301, ignore_index=65535).tolist() == WIDE.tolist()
    path.write_bytes(png(GREY_ALPHA, 16, 2, [struct.pack(">4H", 300, 65535, 2, 65535)]))
    assert read(path, 301, ignore_index=65535).tolist() == [[300, 2]]
    path = tmp_path / "x.tif"
    rgb = np.dstack([WIDE] * 3).astype("<u2")
    path.write_bytes(tiff(rgb, photometric=2, channels=3))
    assert read(path, 301, ignore_index=65535).tolist() == WIDE.tolist()


def test_varying_alpha_is_left_out_unless_the_labels_are_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    alpha = np.array([[0, 255], [255, 9]], np.uint8)
    Image.fromarray(np.dstack([LABELS, alpha])).save(path)
    assert read(path).tolist() == LABELS.tolist()
    Image.fromarray(np.dstack([np.zeros_like(LABELS), alpha])).save(path)
    with pytest.raises(DataError, match=r"x\.png: every pixel has the value 0, and the alpha"):
        read(path)


def test_a_palette_with_transparency_has_its_indices_as_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    image = Image.fromarray(LABELS, "P")
    image.putpalette([255, 255, 255, 255, 0, 0, 0, 255, 0])
    image.save(path, transparency=1)
    assert read(path).tolist() == LABELS.tolist()


def test_an_inverted_palette_does_not_change_the_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.png"  # ImageJ's inverted look-up table
    image = Image.fromarray(np.array([[0, 255]], np.uint8), "P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    image.save(path)
    assert read(path, 2, label_map={255: 1}).tolist() == [[0, 1]]


def test_a_mask_of_several_pages_is_refused_but_smaller_copies_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    first, second = Image.fromarray(LABELS), Image.new("L", (1, 1))
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(DataError, match=r"x\.tif: has 2 pages; .*save each page as a file"):
        read(path)
    overview = TiffImagePlugin.ImageFileDirectory_v2()
    overview[254] = 1
    second.encoderinfo = {"tiffinfo": overview}
    first.save(path, save_all=True, append_images=[second])
    assert read(path).tolist() == LABELS.tolist()
    first.save(tmp_path / "x.png", save_all=True, append_images=[Image.new("L", (2, 2))])
    with pytest.raises(DataError, match=r"x\.png: has 2 frames, a mask has one"):
        read(tmp_path / "x.png")


def test_a_numpy_file_is_refused_with_a_way_to_convert_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", LABELS)
    with pytest.raises(DataError, match=r"x\.npy: masks have to be images; .*Image\.fromarray"):
        read(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".webp"])
def test_lossless_formats_have_the_same_labels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(LABELS).save(path, lossless=True)  # only WebP has this option
    assert read(path).tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("values", "num_classes", "settings", "message"),
    [
        ([0, 255], 2, {"ignore_index": 7}, r"1 of 2 pixels; .*data\.label_map=\{255: 1\}"),
        ([0, 85, 170], 3, {}, r"data\.label_map=\{85: 1, 170: 2\}"),
        ([1, 2, 3], 3, {}, r"data\.reduce_zero_label=true"),
        ([0, 1, 2, 3], 3, {}, r"if 3 is one more class, add its name to data\.classes"),
        ([0, 1, 2, 255], 3, {"ignore_index": 0}, r"set data\.ignore_index=255"),
        ([0, 7 * 256 + 1], 34, {}, r"label \* 256 \+ number"),
        ([0, 26001, 7], 34, {}, r"label \* 1000 \+ number"),
    ],
)
def test_labels_outside_the_classes_come_with_the_likely_cause(
    tmp_path: Path, values: list[int], num_classes: int, settings: dict, message: str
) -> None:
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.array([values], np.uint16 if max(values) > 255 else np.uint8))
    with pytest.raises(DataError, match=r"x\.png: labels \[.*" + message):
        read(path, num_classes, **settings)


def test_the_nodata_value_of_a_geotiff_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    values = np.array([[0, 1], [2, -9999]], "<i2")
    path.write_bytes(tiff(values, sample_format=SIGNED, nodata=b"-9999\0"))
    with pytest.raises(DataError, match=r"-9999 as nodata: .*data\.label_map=\{-9999: 255\}"):
        read(path)
    assert read(path, label_map={-9999: 255}).tolist() == [[0, 1], [2, 255]]
