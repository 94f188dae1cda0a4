"""Test-time augmentation: sliding windows, flips and scales.

Returns logits of each copy of an image. `evaluation.predict_labels` averages them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.errors import ConfigError

# One logit covers at most 4x4 pixels here, so a window starts at a multiple of 4 pixels.
OUTPUT_STRIDE = 4
MIN_SIDE = 32  # pixels; the smallest image that the encoders take

# From normalised images [B, 3, H, W] to logits [B, C, h, w].
Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AugmentedInference:
    """Which copies and windows of an image a model sees; by default, the whole image once."""

    window: int | None = None  # side of a square window in pixels
    stride: int | None = None  # pixels between windows; default: two thirds of the window, as mmseg
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Raise ConfigError that lists every value that is not possible."""
        problems = [f"--scales: {scale:g} is not above 0" for scale in self.scales if not scale > 0]
        if not self.scales:
            problems.append("--scales: at least one, for example 0.75,1.0,1.25")
        if self.window is not None and not _is_multiple(self.window, at_least=MIN_SIDE):
            problems.append(
                f"--window: {self.window}; allowed are multiples of {OUTPUT_STRIDE} from "
                f"{MIN_SIDE} pixels"
            )
        if self.stride is not None and not self._is_possible_stride(self.stride):
            problems.append(
                f"--stride: {self.stride}; allowed are multiples of {OUTPUT_STRIDE} up to --window"
            )
        if problems:
            raise ConfigError(problems)

    def _is_possible_stride(self, stride: int) -> bool:
        return self.window is not None and stride <= self.window and _is_multiple(stride)

    def logits(self, model: Model, images: Tensor) -> list[Tensor]:
        """Return the logits [B, C, h, w] of each augmented copy of normalised images [B, 3, H, W].

        The logits of flipped copies are flipped back. Their sizes differ with the scales.
        """
        logits = []
        for scale in self.scales:
            size = [max(1, round(side * scale)) for side in images.shape[-2:]]
            scaled = images
            if scale != 1:
                scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            logits.append(self._padded(model, scaled))
            if self.flip:
                logits.append(self._padded(model, scaled.flip(-1)).flip(-1))
        return logits

    def _padded(self, model: Model, images: Tensor) -> Tensor:
        """Return the logits of images that may be smaller than the encoders take.

        A smaller image is padded below and to the right. Its logits then have one value per pixel,
        because the border between the image and the padding may lie inside a patch of 4x4 pixels.
        """
        height, width = images.shape[-2:]
        if min(height, width) >= MIN_SIDE:
            return self._windowed(model, images)
        # With 0, which is ImageNet's mean after normalisation: training crops are padded with it.
        missing = (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height))
        padded = F.pad(images, missing)
        logits = self._windowed(model, padded).float()
        of_pixels = F.interpolate(
            logits, size=padded.shape[-2:], mode="bilinear", align_corners=False
        )
        return of_pixels[..., :height, :width]

    def _windowed(self, model: Model, images: Tensor) -> Tensor:
        """Return the logits of whole images; those of overlapping windows are averaged."""
        height, width = images.shape[-2:]
        if self.window is None or max(height, width) <= self.window:
            return model(images)
        total: Tensor | None = None  # the sum; its number of classes is that of the first window
        count = images.new_zeros(0)
        stride = OUTPUT_STRIDE  # pixels per logit
        covered_height = covered_width = 0
        for top, bottom in self._spans(height):
            for left, right in self._spans(width):
                part = images[..., top:bottom, left:right]
                logits = _not_coarser(model(part), part.shape[-2:])
                if total is None:
                    stride = min(OUTPUT_STRIDE, round((bottom - top) / logits.shape[-2]))
                    size = (-(-height // stride), -(-width // stride))
                    count = images.new_zeros(size, dtype=torch.float32)
                    total = logits.new_zeros((*logits.shape[:2], *size), dtype=torch.float32)
                rows = _logit_span(top, logits.shape[-2], stride)
                columns = _logit_span(left, logits.shape[-1], stride)
                total[..., rows, columns] += logits
                count[rows, columns] += 1
                covered_height = max(covered_height, rows.stop)
                covered_width = max(covered_width, columns.stop)
        assert total is not None  # there is at least one window
        # Some encoders drop an incomplete patch of 4x4 pixels at the border: no logit covers it.
        covered = (slice(covered_height), slice(covered_width))
        return total[..., covered[0], covered[1]] / count[covered]

    def _spans(self, size: int) -> list[tuple[int, int]]:
        """Return start and end of each window along an axis; the last one ends with the image."""
        assert self.window
        if size <= self.window:
            return [(0, size)]
        two_thirds = self.window * 2 // 3 // OUTPUT_STRIDE * OUTPUT_STRIDE
        stride = self.stride or max(OUTPUT_STRIDE, two_thirds)
        last = (size - self.window) // OUTPUT_STRIDE * OUTPUT_STRIDE
        starts = range(0, last, stride)
        return [(start, start + self.window) for start in starts] + [(last, size)]


def _is_multiple(pixels: int, at_least: int = 1) -> bool:
    return pixels >= at_least and pixels % OUTPUT_STRIDE == 0


def _not_coarser(logits: Tensor, size: torch.Size) -> Tensor:
    """Return the logits of a window of `size` pixels (h, w) with at least one value per 4x4 pixels.

    Some models have one per 8x8 or 16x16, and a window may start between two of them.
    """
    factor = round(size[0] / logits.shape[-2] / OUTPUT_STRIDE)
    if factor <= 1:
        return logits
    finer = F.interpolate(logits.float(), scale_factor=factor, mode="bilinear", align_corners=False)
    height, width = (-(-side // OUTPUT_STRIDE) for side in size)
    return finer[..., :height, :width]


def _logit_span(start: int, num_logits: int, stride: int) -> slice:
    """Return the positions of the logits of a window that starts at pixel `start`."""
    return slice(start // stride, start // stride + num_logits)


WHOLE_IMAGE = AugmentedInference()
