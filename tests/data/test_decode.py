"""Decoded images have Pillow's pixels, masks become training labels, and wrong files are named."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.decode import decode_pair
from segtune.data.images import read_image
from segtune.data.label_colours import voc_colours
from segtune.data.layouts import open_split
from segtune.data.masks import read_mask
from segtune.errors import DataError


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_have_pillows_pixels(tmp_path: Path, mode: str, progressive: bool) -> None:
    path = tmp_path / "x.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    orientation = Image.Exif()
    orientation[274] = 6  # viewers turn the image clockwise; training does so, too
    smooth = Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 2)).convert(mode)
    smooth.save(path, progressive=progressive, exif=orientation, quality=80)
    with Image.open(path) as saved:
        stored = np.asarray(saved.convert("RGB"))
    assert np.array_equal(read_image(path, DataConfig()), np.rot90(stored, -1))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"x\.jpg: not readable as an image"):
        read_image(path, DataConfig())


@pytest.mark.parametrize("train", ["train", "aug"])
def test_palette_and_grey_masks_have_the_same_labels(voc_config: DataConfig, train: str) -> None:
    config = voc_config.override({"train": [train]})
    _, labels, _ = decode_pair(open_split(config, "train")[0], config, 21)
    assert labels[0, :4].tolist() == [1, 20, 255, 0]


def test_reduce_zero_label_moves_labels_down_and_ignores_zero(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.array([[0, 1, 150, 255]], np.uint8))
    ade20k = DataConfig.parse({"layout": "ade20k"})
    assert read_mask(path, ade20k, 150).tolist() == [[255, 0, 149, 255]]
    plain = ade20k.override({"reduce_zero_label": False})
    assert read_mask(path, plain, 151).tolist() == [[0, 1, 150, 255]]


def test_wrong_files_are_named(voc_config: DataConfig, voc_root: Path) -> None:
    pair = open_split(voc_config, "train")[0]
    cv2.imwrite(pair.mask, np.full((6, 8), 21, np.uint8))
    with pytest.raises(DataError, match=r"a\.png: labels \[21\] are outside the 21 classes"):
        decode_pair(pair, voc_config, 21)
    cv2.imwrite(pair.mask, np.full((6, 8), 300, np.uint16))
    with pytest.raises(DataError, match=r"a\.png: labels \[300\] are outside the 21 classes"):
        decode_pair(pair, voc_config, 21)
    cv2.imwrite(pair.mask, np.zeros((6, 9), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: is 9x6 pixels, but .*a\.jpg is 8x6"):
        decode_pair(pair, voc_config, 21)
    cv2.imwrite(pair.mask, np.full((6, 8, 3), (0, 0, 128), np.uint8))
    with pytest.raises(DataError, match="one channel of labels"):
        decode_pair(pair, voc_config, 21)
    Path(pair.image).write_bytes(Path(pair.image).read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.jpg: not readable as an image"):
        read_image(pair.image, DataConfig())


def test_labels_have_the_colours_of_voc() -> None:
    assert voc_colours(21)[[0, 1, 15, 20]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
    ]
