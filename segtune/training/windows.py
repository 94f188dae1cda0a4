"""Sliding windows over an image, and the average of their logits.

Windows of a config are averaged in every pixel, exactly as mmsegmentation's `slide_inference` does.
Images that are too large for this have coarse windows, averaged on a grid of 4x4 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError

GRID = 4  # pixels along an axis that share a logit of coarse windows
MIN_SIDE = 32  # pixels; the smallest image that the encoders take

# From images [B, 3, H, W] to logits [B, C, h, w].
Model = Callable[[Tensor], Tensor]
Pair = tuple[int, int]  # along the height and along the width


@dataclass(frozen=True)
class Windows:
    """The size of a window and the distance from one to the next, in pixels."""

    size: Pair
    stride: Pair
    # Average on the grid: takes 1/16 of the memory. Sizes and strides are multiples of GRID.
    is_coarse: bool = False

    @classmethod
    def of(cls, config: ExperimentConfig) -> Windows | None:
        """Return the windows that `config.val` describes, or None if it is for whole images."""
        if config.val.mode == "whole":
            return None
        size = config.val.window or config.data.crop
        return cls(size, config.val.stride or (size[0] * 2 // 3, size[1] * 2 // 3))

    @classmethod
    def coarse(cls, side: int) -> Windows:
        """Return coarse square windows with a stride of about two thirds of their side.

        Raises ConfigError, as from the option --window, if `side` is not on the grid.
        """
        if side < MIN_SIDE or side % GRID:
            problem = f"allowed are multiples of {GRID} from {MIN_SIDE} pixels"
            raise ConfigError([f"--window: {side}; {problem}"])
        return cls((side, side), (side, side)).as_coarse(overlap=True)

    def as_coarse(self, *, overlap: bool = False) -> Windows:
        """Return these windows on the grid; with `overlap`, two thirds of a window apart."""
        size = (_on_grid(self.size[0], MIN_SIDE), _on_grid(self.size[1], MIN_SIDE))
        stride = (size[0] * 2 // 3, size[1] * 2 // 3) if overlap else self.stride
        return Windows(size, (_on_grid(stride[0]), _on_grid(stride[1])), is_coarse=True)

    def cover(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of each window of an image, from the top left."""
        spans = self._coarse_spans if self.is_coarse else self._spans
        for rows in spans(height, 0):
            for columns in spans(width, 1):
                yield rows, columns

    def _spans(self, length: int, axis: int) -> list[slice]:
        """Return the windows along an axis, as mmseg: the last is moved to end with the image."""
        size, stride = self.size[axis], self.stride[axis]
        num_windows = -(-max(length - size, 0) // stride) + 1
        starts = [min(i * stride, max(length - size, 0)) for i in range(num_windows)]
        return [slice(start, min(start + size, length)) for start in starts]

    def _coarse_spans(self, length: int, axis: int) -> list[slice]:
        """Return windows that start on the grid; the last one may be up to 3 pixels larger."""
        size, stride = self.size[axis], self.stride[axis]
        if length <= size:
            return [slice(0, length)]
        last = (length - size) // GRID * GRID
        starts = range(0, last, stride)
        return [slice(start, start + size) for start in starts] + [slice(last, length)]


def windowed_logits(model: Model, images: Tensor, windows: Windows) -> Tensor:
    """Return the logits of images [B, 3, H, W] as the average of those of overlapping windows.

    They are float32 [B, C, H, W], one per pixel: the logits of a window are upsampled to its size
    bilinearly before they are averaged. Those of coarse windows are [B, C, ceil(H/4), ceil(W/4)].
    """
    if windows.is_coarse:
        return _coarse_logits(model, images, windows)
    height, width = images.shape[-2:]
    total: Tensor | None = None  # the number of classes is that of the first window
    count = images.new_zeros(height, width, dtype=torch.float32)
    for rows, columns in windows.cover(height, width):
        part = images[..., rows, columns]
        logits = _resized(model(part), part.shape[-2], part.shape[-1])
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
        total[..., rows, columns] += logits
        count[rows, columns] += 1
    assert total is not None, "there is at least one window"
    return total.div_(count)


def _coarse_logits(model: Model, images: Tensor, windows: Windows) -> Tensor:
    """Return the average on the grid; an image that fits into one window is predicted as it is."""
    height, width = images.shape[-2:]
    if height <= windows.size[0] and width <= windows.size[1]:
        return model(images)
    total: Tensor | None = None
    num_logits = (-(-height // GRID), -(-width // GRID))
    count = images.new_zeros(num_logits, dtype=torch.float32)
    covered_height = covered_width = 0
    for pixel_rows, pixel_columns in windows.cover(height, width):
        logits = _grid_logits(model, images[..., pixel_rows, pixel_columns])
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *num_logits), dtype=torch.float32)
        rows = _grid_span(pixel_rows.start, logits.shape[-2])
        columns = _grid_span(pixel_columns.start, logits.shape[-1])
        total[..., rows, columns] += logits
        count[rows, columns] += 1
        covered_height = max(covered_height, rows.stop)
        covered_width = max(covered_width, columns.stop)
    assert total is not None, "there is at least one window"
    # Some encoders drop an incomplete patch of 4x4 pixels at the border: no logit covers it.
    covered = (slice(covered_height), slice(covered_width))
    return total[..., covered[0], covered[1]] / count[covered]


def _grid_logits(model: Model, part: Tensor) -> Tensor:
    """Return the logits of a window on the grid, also those of models of another stride."""
    logits = model(part)
    sides = [-(-side // GRID) for side in part.shape[-2:]]
    on_grid = all(
        expected - 1 <= side <= expected
        for side, expected in zip(logits.shape[-2:], sides, strict=True)
    )
    return logits if on_grid else _resized(logits, *sides)


def _grid_span(start: int, num_logits: int) -> slice:
    """Return the positions of the logits of a window that starts at pixel `start`."""
    return slice(start // GRID, start // GRID + num_logits)


def _resized(logits: Tensor, height: int, width: int) -> Tensor:
    """Return logits of any float type as float32 [B, C, height, width]."""
    return F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)


def _on_grid(side: int, at_least: int = GRID) -> int:
    """Return the largest multiple of GRID that is not larger than `side`."""
    return max(at_least, side // GRID * GRID)
