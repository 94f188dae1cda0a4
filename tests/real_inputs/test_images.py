"""Images have the pixels that viewers show: upright, in the right colours, at the mask's place."""

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.decode import decode_pair, pair_size
from segtune.data.image_files import ORIENTATION
from segtune.data.images import read_image
from segtune.data.layouts import open_split
from segtune.data.loader import TrainLoader, ValLoader
from segtune.data.pairs import Pair
from segtune.errors import DataError
from tests.real_inputs.conftest import MakeDataSet

ORIENTATIONS = range(1, 9)


def scene(height: int = 12, width: int = 20) -> np.ndarray:
    """Return an image with a bright corner, so that each turn of it differs."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[: height // 2, : width // 2] = (200, 120, 60)
    return pixels


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a camera stores, so that the tag turns them upright again."""
    inverse = {
        1: upright,
        2: upright[:, ::-1],
        3: np.rot90(upright, 2),
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(inverse[orientation])


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def save_turned(path: Path, upright: np.ndarray, orientation: int, **options: Any) -> None:
    image = Image.fromarray(stored_as(upright, orientation))
    image.save(path, exif=exif_of(orientation), **options)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_an_image_is_turned_upright_by_its_orientation(
    tmp_path: Path, name: str, orientation: int
) -> None:
    options = {"lossless": True} if name.endswith(".webp") else {}
    save_turned(tmp_path / name, scene(), orientation, **options)
    assert np.array_equal(read_image(tmp_path / name, DataConfig()), scene())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_jpeg_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    save_turned(path, scene(), orientation, quality=95, subsampling=0)
    pixels = read_image(path, DataConfig())
    assert pixels.shape == scene().shape
    assert np.abs(pixels.astype(int) - scene()).max() < 20


def test_the_orientation_of_colours_of_16_bits_counts_once(tmp_path: Path) -> None:
    """OpenCV reads these; it must not turn them, too."""
    stored = stored_as(scene(), 6).astype(np.uint16) * 100
    encoded = cv2.imencode(".png", stored[:, :, ::-1])[1]
    block = exif_of(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + block))
    start = 33  # after the signature and IHDR
    png = encoded.tobytes()
    (tmp_path / "a.png").write_bytes(png[:start] + chunk + png[start:])
    config = DataConfig.parse({"value_range": [0, 25500]})
    assert np.array_equal(read_image(tmp_path / "a.png", config), scene())


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_ignored(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(scene()).save(path, exif=exif_of(orientation))
    assert np.array_equal(read_image(path, DataConfig()), scene())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(scene()).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert read_image(path, DataConfig()).shape == scene().shape


def labels_of_scene(height: int = 12, width: int = 20) -> np.ndarray:
    return (scene(height, width)[:, :, 0] == 200).astype(np.uint8)


def turned_set(
    make_data_set: MakeDataSet, upright_mask: bool, side: int = 40, num_images: int = 1
) -> DataConfig:
    """Write pairs with orientation 6; the masks are of the upright or of the stored picture."""
    labels = labels_of_scene(24, side)
    mask = labels if upright_mask else stored_as(labels, 6)
    files = {}
    for name in [f"train/{i}" for i in range(num_images)] + ["val/a"]:
        files[f"images/{name}.jpg"] = lambda path: save_turned(path, scene(24, side), 6)
        files[f"masks/{name}.png"] = lambda path: Image.fromarray(mask).save(path)
    return make_data_set(files)


def bright_share(image: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of the foreground that is bright in the image."""
    return float((image[:, :, 0] > 120)[labels == 1].mean())


@pytest.mark.parametrize("side", [40, 24])
def test_labels_made_from_the_upright_picture_lie_on_their_object(
    make_data_set: MakeDataSet, side: int
) -> None:
    config = turned_set(make_data_set, upright_mask=True, side=side)
    image, labels, _ = decode_pair(open_split(config, "train")[0], config, 2)
    assert image.shape == (24, side, 3)
    assert bright_share(image, labels) > 0.95


def test_the_stored_orientation_is_used_if_only_it_fits_the_mask(
    make_data_set: MakeDataSet,
) -> None:
    config = turned_set(make_data_set, upright_mask=False)
    pair = open_split(config, "train")[0]
    image, labels, _ = decode_pair(pair, config, 2)
    assert image.shape == (40, 24, 3)
    assert bright_share(image, labels) > 0.95
    size = pair_size(pair, config)
    assert (size.width, size.height, size.is_as_stored) == (24, 40, True)


@pytest.mark.parametrize("upright_mask", [True, False])
def test_validation_has_the_pixels_of_training(
    make_data_set: MakeDataSet,
    tiny_config: ExperimentConfig,
    upright_mask: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = turned_set(make_data_set, upright_mask)
    config = tiny_config.override(
        {f"data.{name}": value for name, value in data.dump().items()} | {"data.resize": [64, 64]}
    )
    batches = list(ValLoader(config, 0, 1))
    assert batches[0].masks.shape == ((1, 24, 40) if upright_mask else (1, 40, 24))
    said = "1 image is used as stored" in caplog.text
    assert said == (not upright_mask)


@pytest.mark.parametrize("num_loaders", [0, 2])
def test_training_says_once_that_images_are_used_as_stored(
    make_data_set: MakeDataSet,
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    num_loaders: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = turned_set(make_data_set, upright_mask=False, num_images=8)
    changes: dict[str, Any] = {f"data.{name}": value for name, value in data.dump().items()}
    changes |= {"data.cache": str(tmp_path / "cache"), "data.num_loaders": num_loaders}
    changes |= {"schedule.batch_size": 2, "data.resize": [64, 64], "data.crop": [64, 64]}
    config = tiny_config.override(changes)
    logger = logging.getLogger("segtune")
    handler = logging.StreamHandler()  # writes to stderr, also in a loader process
    logger.addHandler(handler)
    try:
        for _ in ("cold cache", "warm cache"):
            loader = TrainLoader(config, 0, 1)
            list(loader.epoch(1))
            loader.flush()
            del loader
            text = capfd.readouterr().err
            assert text.count("data.train: some images are used as stored") == 1
            assert "images/train/" in text
    finally:
        logger.removeHandler(handler)


def test_the_message_about_sizes_names_the_orientation(make_data_set: MakeDataSet) -> None:
    config = make_data_set(
        {
            "images/train/a.jpg": lambda path: save_turned(path, scene(), 6),
            "masks/train/a.png": lambda path: Image.new("L", (7, 5)).save(path),
        }
    )
    with pytest.raises(DataError, match=r"is 7x5 pixels, but .*a\.jpg is 20x12 after it is turned"):
        decode_pair(open_split(config, "train")[0], config, 2)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """Return a grey PNG with fewer than 8 bits per pixel; Pillow writes none of 2 or 4 bits."""
    height, width = values.shape
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_images_of_few_bits_span_black_to_white(tmp_path: Path, bits: int) -> None:
    largest = 2**bits - 1
    (tmp_path / "a.png").write_bytes(grey_png(np.array([[0, largest, 1, 0]]), bits))
    pixels = read_image(tmp_path / "a.png", DataConfig())
    assert pixels[0, :, 0].tolist() == [0, 255, 255 // largest, 0]


def test_transparency_and_palettes_become_rgb(tmp_path: Path) -> None:
    config = DataConfig()
    rgba = np.dstack([scene(), np.zeros((12, 20), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png", config), scene())
    palette = Image.fromarray(scene()).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "p.png", transparency=0)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "p.png", config), expected)
    Image.fromarray(scene()[:, :, 0]).save(tmp_path / "grey.jpg", quality=100)
    grey = read_image(tmp_path / "grey.jpg", config)
    assert np.abs(grey[:, :, 1].astype(int) - scene()[:, :, 0]).max() < 20
    with Image.fromarray(scene()).convert("CMYK") as cmyk:
        cmyk.save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    inks = read_image(tmp_path / "cmyk.jpg", config)
    assert np.abs(inks.astype(int) - scene()).max() < 20


def test_the_content_decides_about_the_format_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read_image(tmp_path / "a.jpg", DataConfig()), scene())


def test_the_first_frame_of_an_animation_and_of_an_mpo_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(scene()), Image.new("RGB", (20, 12))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95)
    for name in ("a.gif", "a.jpg"):
        pixels = read_image(tmp_path / name, DataConfig())
        assert pixels.shape == (12, 20, 3)
        assert pixels[2, 2, 0] > 150


def test_pages_of_a_tiff_are_refused_but_smaller_copies_are_not(tmp_path: Path) -> None:
    pages = [Image.fromarray(scene()), Image.fromarray(scene()[:6, :10])]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=[pages[0], pages[0]])
    with pytest.raises(DataError, match=r"pages\.tif: has 3 pages; .*save each page as a file"):
        read_image(tmp_path / "pages.tif", DataConfig())
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}  # an overview, as GDAL writes it
    pages[0].save(tmp_path / "overview.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_image(tmp_path / "overview.tif", DataConfig()), scene())


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiffs_are_read(tmp_path: Path, compression: str) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.tif", compression=compression)
    assert np.array_equal(read_image(tmp_path / "a.tif", DataConfig()), scene())


def test_a_pair_is_cached_upright(make_data_set: MakeDataSet, tmp_path: Path) -> None:
    from segtune.data.cache import DecodedPairs

    config = turned_set(make_data_set, upright_mask=True).override({"cache": str(tmp_path / "c")})
    pairs = open_split(config, "train")
    decoded = DecodedPairs(pairs, config, 2, "train")
    first, _ = decoded[0]
    decoded.flush()
    again, labels = DecodedPairs(pairs, config, 2, "train")[0]
    assert np.array_equal(first, again)
    assert bright_share(again, labels) > 0.95


def test_a_pair_holds_the_name_of_both_files_in_messages(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), scene())
    Image.new("L", (3, 3)).save(tmp_path / "m.png")
    pair = Pair(str(tmp_path / "a.png"), str(tmp_path / "m.png"))
    with pytest.raises(DataError, match=r"m\.png: is 3x3 pixels, but .*a\.png is 20x12; sizes"):
        decode_pair(pair, DataConfig(), 2)
