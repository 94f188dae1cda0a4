"""The same few validation images at every validation: image, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from segtune.data.loader import ValBatch
from segtune.data.mask_colours import stripes
from segtune.training.label_images import colours_of_classes
from segtune.training.listener import TrainingRun

# The longer side of an image in a panel, at most, in pixels: a panel of CamVid takes 110 kB.
SIDE = 256
GAP = 4


class PanelCollector:
    """Draws the panels of some validation images from the batches of a validation."""

    def __init__(self, run: TrainingRun, num_images: int) -> None:
        self._names = frozenset(spread(run.val_names, num_images))
        self._ignore_index = run.config.data.ignore_index
        self._colours = colours_of_classes(run.config.data, run.classes, len(run.classes))
        self._panels: dict[str, np.ndarray] = {}

    def add(self, batch: ValBatch, labels: Tensor) -> None:
        """Draw the chosen images of a batch; `labels` int64 [B, H, W] are the predicted ones."""
        for index, name in enumerate(batch.names):
            if name in self._names and name not in self._panels:
                self._panels[name] = draw_panel(
                    batch.images[index].permute(1, 2, 0).numpy(),
                    batch.masks[index].numpy(),
                    labels[index].cpu().numpy(),
                    self._colours,
                    self._ignore_index,
                )

    def take(self) -> dict[str, np.ndarray]:
        """Return {name: panel}, uint8 [H, W, 3] in RGB, and begin anew."""
        panels, self._panels = self._panels, {}
        return panels


def spread(names: Sequence[str], number: int) -> list[str]:
    """Return up to `number` names, evenly spaced: neighbours are often frames of one video."""
    number = min(number, len(names))
    return [names[(2 * index + 1) * len(names) // (2 * number)] for index in range(number)]


def draw_panel(
    image: np.ndarray, mask: np.ndarray, labels: np.ndarray, colours: np.ndarray, ignore_index: int
) -> np.ndarray:
    """Return image uint8 [h, w, 3], true and predicted labels [H, W] side by side.

    `colours` uint8 [C, 3] are those of the classes. Ignored pixels of the truth are stripes.
    """
    factor = min(1.0, SIDE / max(mask.shape))
    height, width = (max(1, round(side * factor)) for side in mask.shape)
    shrinks = height < image.shape[0]
    photo = cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    rows = (np.arange(height) + 0.5) * mask.shape[0] // height
    columns = (np.arange(width) + 0.5) * mask.shape[1] // width
    nearest = np.ix_(rows.astype(int), columns.astype(int))
    truth, prediction = mask[nearest].astype(int), labels[nearest]
    is_ignored = (truth == ignore_index) | (truth >= len(colours))
    coloured = np.where(
        is_ignored[..., None], stripes(height, width), colours[np.where(is_ignored, 0, truth)]
    )
    gap = np.full((height, GAP, 3), 255, np.uint8)
    return np.hstack([photo, gap, coloured, gap, colours[prediction]]).astype(np.uint8)
