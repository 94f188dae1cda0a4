"""Predict the labels of images with a checkpoint.

Parses no command line, prints nothing and writes no file, like `api.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def predict_labels(
    checkpoint: str | Path, images: Iterable[str | Path], *, device: str | None = None
) -> list[numpy.ndarray]:
    """Return the predicted labels of each image, uint8 or uint16 [H, W], at the image's size.

    `checkpoint` is a checkpoint, or the folder of a training run, a trial or a search run, which
    stands for its best checkpoint. The labels are 0..num_classes - 1, in the order of
    `data.classes`, also with `data.reduce_zero_label`. `device` is as in torch; by default the GPU,
    or the CPU if there is none. Images are predicted as in `segtune predict`.

    Raise CheckpointError if there is no checkpoint or it is damaged, and DataError if an image
    cannot be read.
    """
    import torch

    from segtune.data.images import read_image
    from segtune.training.distributed import default_device
    from segtune.training.drawing import predicted_labels
    from segtune.training.prediction import load_model

    chosen = torch.device(device) if device else default_device()
    model, config, _ = load_model(checkpoint, None, chosen)
    return [
        predicted_labels(model, config, read_image(path, config.data), chosen) for path in images
    ]
