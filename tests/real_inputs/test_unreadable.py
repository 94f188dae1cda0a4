"""A file that is no readable image is one message with the file, from any process."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.images import read_image
from segtune.data.loader import TrainLoader, ValLoader
from segtune.errors import DataError
from segtune.train import main


def write_truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_huge_header(path: Path) -> None:
    """Write a PNG that claims 200,000 x 100,000 pixels and has no content."""
    header = struct.pack(">IIBBBBB", 200_000, 100_000, 8, 2, 0, 0, 0)
    chunk = (
        struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + empty)


def write_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


BAD_FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("empty.png", write_bytes(b""), "the file is empty"),
    ("page.png", write_bytes(b"\n<!DOCTYPE html><html>404"), "it is HTML or XML"),
    ("page.jpg", write_bytes(b"<html>"), "it is HTML or XML"),
    ("text.png", write_bytes(b"hello"), "none of the formats that are read: JPEG, PNG"),
    ("lfs.jpg", write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    ("array.png", write_bytes(b"\x93NUMPY\x01\0"), "NumPy array"),
    ("phone.jpg", write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "HEIC; convert it to JPEG"),
    ("zeros.png", write_bytes(bytes(500)), "begins with zeros.*copy it again"),
    ("scan.png", write_bytes(bytes(128) + b"DICM" + b"x" * 200), "DICOM; convert it to PNG"),
    ("array.tif", write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5; save the array"),
    ("half.png", write_truncated, "not readable as an image: .*truncated; copy the file again"),
    ("half.jpg", write_truncated, "not readable as an image"),
    ("half.tif", write_truncated, "not readable as an image"),
    ("huge.png", write_huge_header, r"200000x100000 pixels, 20000 million, .*max_megapixels=20000"),
    ("fifo.png", os.mkfifo, "is a folder or a device; expected an image file"),
    ("folder.png", Path.mkdir, "is a folder or a device; expected an image file"),
    ("link.png", lambda path: path.symlink_to("lost.png"), "is a link to an absent file, lost.png"),
    ("absent.png", lambda path: None, "not readable: No such file"),
]


@pytest.mark.parametrize(("name", "write", "reason"), BAD_FILES, ids=[bad[0] for bad in BAD_FILES])
def test_a_bad_file_is_named_with_the_reason(
    tmp_path: Path, name: str, write: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: .*{reason}"):
        read_image(tmp_path / name, DataConfig())


def test_an_image_above_pillows_limit_is_read_up_to_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (2000, 1500), 7).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow would refuse 3 million pixels
    assert read_image(path, DataConfig())[1499, 1999].tolist() == [7, 7, 7]
    assert Image.MAX_IMAGE_PIXELS == 1000
    small = DataConfig.parse({"max_megapixels": 2.5})
    with pytest.raises(DataError, match=r"large\.png: has 2000x1500 pixels, 3 million"):
        read_image(path, small)
    Image.new("L", (2000, 1500)).save(tmp_path / "large.jpg")
    with pytest.raises(DataError, match=r"large\.jpg: has 2000x1500 pixels"):
        read_image(tmp_path / "large.jpg", small)


@pytest.fixture
def broken_config(tiny_config: ExperimentConfig, tmp_path: Path) -> ExperimentConfig:
    """Return a config on a data set of which one training and one validation image are damaged."""
    root = tmp_path / "set"
    good = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.tile(np.array([0, 1], np.uint8), (64, 32))
    for split in ("train", "val"):
        for name in ("a", "b"):
            for kind, pixels in (("images", good), ("masks", mask)):
                path = root / kind / split / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        damaged = root / "images" / split / "b.png"
        damaged.write_bytes(damaged.read_bytes()[:4000])
    return tiny_config.override(
        {
            "data.layout": "folder",
            "data.root": str(root),
            "data.classes": ["bg", "fg"],
            "data.cache": "none",
            "schedule.batch_size": 2,
        }
    )


def message_of_loader(config: ExperimentConfig, split: str) -> str:
    """Return the error of an epoch. The loader's processes have ended when this returns."""
    loader = TrainLoader(config, 0, 1).epoch(1) if split == "train" else ValLoader(config, 0, 1)
    try:
        list(loader)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("num_loaders", [0, 2])
def test_a_damaged_image_is_one_message_from_every_process(
    broken_config: ExperimentConfig, num_loaders: int
) -> None:
    config = broken_config.override({"data.num_loaders": num_loaders})
    for split in ("train", "val"):
        message = message_of_loader(config, split)
        assert message.startswith(f"{config.data.root}/images/{split}/b.png: not readable")
        assert "\n" not in message


def test_a_validation_image_without_a_header_is_named(broken_config: ExperimentConfig) -> None:
    (Path(broken_config.data.root) / "images/val/a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"val/a\.png: .*the file is empty"):
        ValLoader(broken_config, 0, 1)


@pytest.mark.parametrize("split", ["train", "val"])
def test_segtune_train_prints_one_message_for_a_damaged_image(
    broken_config: ExperimentConfig,
    tmp_path: Path,
    split: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    images = Path(broken_config.data.root) / "images"
    other = {"train": "val", "val": "train"}[split]
    (images / other / "b.png").write_bytes((images / other / "a.png").read_bytes())
    config = broken_config.override({"data.num_loaders": 2, "schedule.epochs": 1})
    (tmp_path / "config.yaml").write_text(write_yaml(config.dump()))
    out = tmp_path / "run"
    assert main(["--config", str(tmp_path / "config.yaml"), "--out", str(out)]) == 2
    text = capfd.readouterr().err
    assert text.count("b.png") == 1
    assert f"error: {images}/{split}/b.png: not readable as an image: image file is trunc" in text
    assert "Traceback" not in text


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about damaged EXIF
def test_changed_bytes_of_a_file_are_one_message_or_an_image(tmp_path: Path) -> None:
    """Pillow raises many kinds of errors for damaged content; none of them is a traceback."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    config = DataConfig.parse({"max_megapixels": 5, "value_range": [0, 255]})
    for suffix in ("png", "jpg", "tif", "bmp", "gif", "webp", "jp2", "avif"):
        path = tmp_path / f"x.{suffix}"
        image.save(path)
        content = path.read_bytes()
        for _ in range(60):
            changed = bytearray(content[: rng.integers(1, len(content) + 1)])
            for place in rng.integers(0, len(changed), 3):
                changed[place] = rng.integers(0, 256)
            path.write_bytes(changed)
            message = ""
            try:
                read_image(path, config)
            except DataError as error:
                message = str(error)
            assert not message or (message.startswith(f"{path}: ") and "\n" not in message)
