"""Small data sets with masks of chosen values, and short training runs on them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig

SIDE = 64
Writer = Callable[[Path], object]
MakeDataSet = Callable[..., DataConfig]  # the fixture make_data_set


def stripes(*values: int | Sequence[int], dtype: type = np.uint8) -> np.ndarray:
    """Return a mask [64, 64] or [64, 64, 3] of equal stripes of rows with these values."""
    return np.repeat(np.array(values, dtype), SIDE // len(values), 0)[:, None].repeat(SIDE, 1)


def files_of(
    masks: Mapping[str, Sequence[np.ndarray]],
    write: Callable[[Path, np.ndarray], object] | None = None,
    suffix: str = ".png",
) -> dict[str, Writer]:
    """Return the writers of splits of layout `folder`; each image is other noise."""
    write = write or (lambda path, mask: cv2.imwrite(str(path), mask))
    files: dict[str, Writer] = {}
    for split, of_split in masks.items():
        for number, mask in enumerate(of_split):
            noise = np.random.default_rng([number, len(split)]).integers(
                0, 255, (*mask.shape[:2], 3), np.uint8
            )
            name = f"{split}/{number:03}"
            files[f"images/{name}.png"] = lambda path, noise=noise: cv2.imwrite(str(path), noise)
            files[f"masks/{name}{suffix}"] = lambda path, mask=mask: write(path, mask)
    return files


def on_data(config: ExperimentConfig, data: DataConfig, **settings: object) -> ExperimentConfig:
    """Return a config that trains one epoch of two steps on the data set of `data`."""
    sizes = ("resize", "crop", "num_loaders")
    tree = {f"data.{name}": value for name, value in data.dump().items() if name not in sizes}
    short = {"schedule.epochs": 1, "schedule.batch_size": 2}
    return config.override({**tree, **short, **settings})
