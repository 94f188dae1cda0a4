"""What the labels of a mask depend on, beside the file itself."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.cache import DecodedPairs
from segtune.data.label_colours import read_colour_file
from segtune.data.masks import read_mask
from segtune.data.pairs import Pair
from segtune.errors import DataError

ROAD, CAR, SKY = (128, 64, 128), (0, 0, 142), (70, 130, 180)
CLASSES = ["road", "car", "sky"]


def grey_mask(path: Path, values: list[int]) -> Path:
    cv2.imwrite(str(path), np.array([values], np.uint8))
    return path


def colour_mask(path: Path, *colours: tuple[int, ...]) -> Path:
    Image.fromarray(np.array([colours], np.uint8)).save(path)
    return path


def colour_config(
    root: Path, text: str, name: str = "colours.txt", **settings: object
) -> DataConfig:
    (root / name).write_text(text)
    tree = {"layout": "folder", "root": str(root), "classes": CLASSES, "palette": name}
    return DataConfig.parse({**tree, **settings})


def test_names_with_blanks_have_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("traffic light 250 170 30\n0 60 100 big bus\n")
    assert read_colour_file(path) == [
        ("traffic light", (250, 170, 30)),
        ("big bus", (0, 60, 100)),
    ]


def test_black_and_white_masks_have_colours_too(tmp_path: Path) -> None:
    config = colour_config(tmp_path, "white 255 255 255\nblack 0 0 0", classes=["black", "white"])
    path = grey_mask(tmp_path / "x.png", [0, 255])
    assert read_mask(path, config, 2).tolist() == [[0, 1]]
    colour_mask(path, (0, 0, 0, 255), (255, 255, 255, 255))
    assert read_mask(path, config, 2).tolist() == [[0, 1]]


def test_a_mask_of_the_full_ade20k_release_is_recognised(tmp_path: Path) -> None:
    path = colour_mask(tmp_path / "ADE_train_1_seg.png", (10, 200, 3), (20, 3, 0))
    with pytest.raises(DataError, match=r"full ADE20K release.*red / 10 \* 256 \+ green"):
        read_mask(path, DataConfig.parse({"classes": CLASSES}), 3)


def test_caches_change_with_everything_that_labels_depend_on(tmp_path: Path) -> None:
    text = "road 128 64 128\ncar 0 0 142\nsky 70 130 180\n"
    image = colour_mask(tmp_path / "image.png", ROAD)
    pairs = [Pair(str(image), str(colour_mask(tmp_path / "mask.png", ROAD)))]

    def folder(config: DataConfig) -> Path | None:
        config = config.override({"cache": str(tmp_path / "cache")})
        return DecodedPairs(pairs, config, 3, "train").folder

    colours = colour_config(tmp_path, text)
    plain = colours.override({"palette": None})
    folders = [
        folder(colours),
        folder(plain),
        folder(plain.override({"label_map": {255: 1}})),
        folder(plain.override({"allow_lossy_masks": True})),
        folder(plain.override({"ignore_index": 7})),
        folder(colours.override({"classes": ["car", "road", "sky"]})),
        folder(colour_config(tmp_path, text.replace("142", "143"))),
    ]
    assert None not in folders
    assert len(set(folders)) == len(folders)
    assert folder(plain.override({"crop": [64, 64]})) == folders[1]
