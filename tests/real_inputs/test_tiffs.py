"""TIFFs of microscopes, satellites and scanners are read exactly, or refused with a way out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.decode import decode_pair, pair_size
from segtune.data.deep_values import read_values
from segtune.data.image_files import opened, turn_upright
from segtune.data.images import read_image
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.errors import DataError
from tests.real_inputs.tiffs import write_tiff

GREY = np.arange(24 * 40).reshape(24, 40)
COLOURS = np.dstack([GREY, GREY * 2, GREY * 3])
RANGE = DataConfig.parse({"value_range": [0, 2550]})

EXACT: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "12 bits in 16": (GREY.astype(np.uint16), {}),
    "16 bits, big-endian": (GREY.astype(np.uint16), {"order": ">"}),
    "int16": ((GREY - 500).astype(np.int16), {}),
    "int32": ((GREY - 500).astype(np.int32), {}),
    "uint32": ((GREY + 3_000_000_000).astype(np.uint32), {}),
    "float32": ((GREY / 7).astype(np.float32), {}),
    "float64": (GREY / 7, {}),
    "int8": ((GREY % 256 - 128).astype(np.int8), {}),
    "RGB of 16 bits": (COLOURS.astype(np.uint16), {}),
    "RGB of 16 bits, big-endian": (COLOURS.astype(np.uint16), {"order": ">"}),
    "RGB of float32": ((COLOURS / 7).astype(np.float32), {}),
    # GDAL declares three bands of 16 bits like this.
    "three grey bands": (COLOURS.astype(np.uint16), {"photometric": 1, "extra_samples": [0, 0]}),
    "three grey bands, big-endian": (
        COLOURS.astype(np.uint16),
        {"photometric": 1, "extra_samples": [0, 0], "order": ">"},
    ),
}


@pytest.mark.parametrize("kind", EXACT)
def test_values_of_more_than_8_bits_are_read_exactly(tmp_path: Path, kind: str) -> None:
    values, options = EXACT[kind]
    write_tiff(tmp_path / "a.tif", values, **options)
    with opened(tmp_path / "a.tif", 1) as (header, image):
        assert header.is_deep
        assert header.size == (40, 24)
        assert np.array_equal(read_values(header, image), values)


def test_the_bands_after_red_green_and_blue_are_dropped(tmp_path: Path) -> None:
    values = np.dstack([COLOURS, GREY * 4])
    write_tiff(tmp_path / "near_infrared.tif", values.astype(np.uint16), extra_samples=[0])
    expected = (COLOURS / 10).round()
    pixels = read_image(tmp_path / "near_infrared.tif", RANGE)
    assert np.abs(pixels - expected.clip(0, 255)).max() <= 1
    write_tiff(tmp_path / "8_bits.tif", (values % 251).astype(np.uint8), extra_samples=[0])
    assert np.array_equal(read_image(tmp_path / "8_bits.tif", RANGE), COLOURS % 251)


def test_grey_that_begins_with_white_is_inverted(tmp_path: Path) -> None:
    values = np.array([[0, 2550, 510]])
    write_tiff(tmp_path / "a.tif", values.astype(np.uint16), photometric=0)
    assert read_image(tmp_path / "a.tif", RANGE)[0, :, 0].tolist() == [255, 0, 204]
    write_tiff(tmp_path / "b.tif", (values // 10).astype(np.uint8), photometric=0)
    assert read_image(tmp_path / "b.tif", RANGE)[0, :, 0].tolist() == [255, 0, 204]


REFUSED: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "four grey bands": (
        np.dstack([COLOURS, GREY]).astype(np.uint16),
        {"photometric": 1, "extra_samples": [0, 0, 0]},
        "has 4 bands; .*gdal_translate -b 1 -b 2 -b 3",
    ),
    "two floats": (
        np.dstack([GREY, GREY]).astype(np.float32),
        {"photometric": 1, "extra_samples": [0]},
        "has 2 bands; .*gdal_translate",
    ),
    "nine bands": (
        np.dstack([COLOURS, COLOURS, COLOURS]).astype(np.uint8),
        {"photometric": 1, "extra_samples": [0] * 8},
        "has 9 bands; .*gdal_translate",
    ),
    # OpenCV 5 returns other values than those in the file.
    "channels apart": (
        COLOURS.astype(np.uint16),
        {"planar": True},
        "stores its 3 channels one after the other; .*INTERLEAVE=PIXEL",
    ),
    "half floats": (GREY.astype(np.float16), {}, "16 bits per channel in a form that is not read"),
    "turned colours of 16 bits": (
        COLOURS.astype(np.uint16),
        {"tags": {274: 6}},
        "orientation 6; turn the pixels",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_exactly_is_refused_with_a_way_out(tmp_path: Path, kind: str) -> None:
    values, options, message = REFUSED[kind]
    write_tiff(tmp_path / "a.tif", values, **options)
    with pytest.raises(DataError, match=rf"a\.tif: .*{message}"):
        read_image(tmp_path / "a.tif", RANGE)


def test_8_bits_with_the_channels_apart_are_read(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", (COLOURS % 251).astype(np.uint8), planar=True)
    assert np.array_equal(read_image(tmp_path / "a.tif", DataConfig()), COLOURS % 251)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_uncompressed_tiff_is_turned_upright(
    tmp_path: Path, orientation: int, dtype: type
) -> None:
    values = (GREY % 251).astype(dtype)
    write_tiff(tmp_path / "a.tif", values, tags={274: orientation})
    config = DataConfig.parse({"value_range": [0, 255]})
    upright = turn_upright(values, orientation)
    assert np.array_equal(read_image(tmp_path / "a.tif", config)[:, :, 0], upright)
    stored = read_image(tmp_path / "a.tif", config, upright=False)
    assert np.array_equal(stored[:, :, 0], values)


def test_a_tiff_is_used_as_stored_if_only_so_it_fits_the_mask(tmp_path: Path) -> None:
    values = (GREY % 251).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", values, tags={274: 6})
    Image.fromarray((values > 100).astype(np.uint8)).save(tmp_path / "m.png")
    pair = Pair(str(tmp_path / "a.tif"), str(tmp_path / "m.png"))
    decoded = decode_pair(pair, DataConfig(), 2)
    assert decoded.is_as_stored
    assert np.array_equal(decoded.image[:, :, 0] > 100, decoded.labels == 1)
    assert pair_size(pair, DataConfig()) == (40, 24, True)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_a_mask_is_turned_by_its_own_orientation(
    tmp_path: Path, name: str, orientation: int
) -> None:
    labels = (GREY % 2).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(labels).save(tmp_path / name, exif=exif)
    read = read_mask(tmp_path / name, DataConfig(), 2)
    assert np.array_equal(read, turn_upright(labels, orientation))
