"""A tiny data set in PASCAL VOC's layout."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.data.label_colours import voc_colours


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """Images a, b and c of 8 x 6 pixels; `train` lists a and b, `aug` lists b and c, `val` lists c.

    SegmentationClass has palette masks, SegmentationClassAug has grey masks with the same labels.
    """
    root = tmp_path / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for folder in (
        root / "JPEGImages",
        root / "SegmentationClass",
        root / "SegmentationClassAug",
        lists,
    ):
        folder.mkdir(parents=True)
    labels = np.zeros((6, 8), np.uint8)
    labels[0, :3] = (1, 20, 255)
    palette_mask = Image.fromarray(labels, mode="P")
    palette_mask.putpalette(voc_colours(21).ravel().tolist())
    for name in ("a", "b", "c"):
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.full((6, 8, 3), 100, np.uint8))
        cv2.imwrite(str(root / "SegmentationClassAug" / f"{name}.png"), labels)
        palette_mask.save(root / "SegmentationClass" / f"{name}.png")
    (lists / "train.txt").write_bytes("a\r\n\r\nb".encode("utf-8-sig"))
    (lists / "aug.txt").write_text("b\nc\n")
    (lists / "val.txt").write_text("c\n")
    return root


@pytest.fixture
def voc_config(voc_root: Path) -> DataConfig:
    return DataConfig.parse({"layout": "voc", "root": str(voc_root)})
