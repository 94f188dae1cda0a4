"""Data sets of the layouts of the shipped configs, at small scale."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segtune.config.schema import ExperimentConfig
from segtune.data.layouts import class_names

NUM_TRAIN = 4
NUM_VAL = 2
SIZE = (72, 96)  # height, width


def make_data(config: ExperimentConfig, root: Path) -> None:
    """Write NUM_TRAIN training and NUM_VAL validation images in the layout of `config`."""
    data = config.data
    if data.layout == "shapes":
        return  # training generates it
    root.mkdir(parents=True)
    if data.classes == "labels.txt":
        (root / "labels.txt").write_text("background\ncell\n")
    num_classes = len(class_names(data.override({"root": str(root)})))
    splits = {"train": NUM_TRAIN, "val": NUM_VAL}
    if data.layout == "ade20k":
        for split, count in splits.items():
            folder = {"train": "training", "val": "validation"}[split]
            names = [f"ADE_{split}_{i:08d}" for i in range(count)]
            # Label 0 is ignored; the classes are 1 to 150.
            write_pairs(root / "images" / folder, root / "annotations" / folder, names, 150)
        return
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    masks = "SegmentationClassAug" if "trainaug" in data.train else "SegmentationClass"
    for name, count in ((data.train[0], NUM_TRAIN), ("val", NUM_VAL)):
        names = [f"2007_{name}_{i:06d}" for i in range(count)]
        (lists / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in names))
        write_pairs(root / "JPEGImages", root / masks, names, num_classes - 1)


def write_pairs(images: Path, masks: Path, names: Sequence[str], top_label: int) -> None:
    """Write images of noise, and masks of stripes with labels 0 to `top_label`."""
    rng = np.random.default_rng(0)
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    stripes = np.linspace(0, top_label + 0.99, SIZE[1]).astype(np.uint8)
    for name in names:
        noise = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{name}.jpg")
        Image.fromarray(np.tile(stripes, (SIZE[0], 1))).save(masks / f"{name}.png")
