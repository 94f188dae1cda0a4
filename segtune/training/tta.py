"""How often, how large and in which pieces a model looks at an image at test time. Averaging is `inference.predict_labels`'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.errors import ConfigError

# A logit stands for so many pixels along each axis, so windows begin at its multiples.
PIXELS = 4


@dataclass(frozen=True)
class AugmentedInference:
    """Sliding windows, flips and scales; as it stands, one look at the whole image."""

    window: int | None = None  # side of a square window in pixels
    stride: int | None = (
        None  # from window to window; default: two thirds of the window, as in mmseg's configs
    )
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Raises ConfigError that lists what is not possible."""
        problems = [f"--scales: {scale:g} is not above 0" for scale in self.scales if not scale > 0]
        if not self.scales:
            problems.append("--scales: at least one, for example 0.75,1.0,1.25")
        if self.window is not None and (self.window < 32 or self.window % PIXELS):
            problems.append(
                f"--window: {self.window}; allowed are multiples of {PIXELS} from 32 pixels"
            )
        if self.stride is not None and (
            self.window is None or not 0 < self.stride <= self.window or self.stride % PIXELS
        ):
            problems.append(
                f"--stride: {self.stride}; allowed are multiples of {PIXELS} up to --window"
            )
        if problems:
            raise ConfigError(problems)

    def logits(self, model: Any, images: Tensor) -> list[Tensor]:
        """Returns the logits [B, C, h, w] of each look at normalised images [B, 3, H, W], all the right way round."""
        found = []
        for scale in self.scales:
            size = [max(32, round(side * scale)) for side in images.shape[-2:]]
            sized = (
                images
                if scale == 1
                else F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            )
            found.append(self._look(model, sized))
            if self.flip:
                found.append(self._look(model, sized.flip(-1)).flip(-1))
        return found

    def _look(self, model: Any, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.window is None or max(height, width) <= self.window:
            return model(images)
        tops, lefts = self._starts(height), self._starts(width)
        total: Any = None
        count = images.new_zeros(-(-height // PIXELS), -(-width // PIXELS))
        seen = [0, 0]
        for top, bottom in tops:
            for left, right in lefts:
                logits = model(images[..., top:bottom, left:right])
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], *count.shape, dtype=torch.float32)
                rows, columns = (
                    slice(start // PIXELS, start // PIXELS + n)
                    for start, n in zip((top, left), logits.shape[-2:], strict=True)
                )
                total[..., rows, columns] += logits
                count[rows, columns] += 1
                seen = [max(seen[0], rows.stop), max(seen[1], columns.stop)]
        # Some encoders look only at whole patches of four pixels, and give no logit for what is left of the last one.
        return total[..., : seen[0], : seen[1]] / count[: seen[0], : seen[1]]

    def _starts(self, size: int) -> list[tuple[int, int]]:
        """Returns the begin and end of each window along an axis; the last one ends with the image."""
        assert self.window
        if size <= self.window:
            return [(0, size)]
        stride = self.stride or max(PIXELS, self.window * 2 // 3 // PIXELS * PIXELS)
        last = (size - self.window) // PIXELS * PIXELS
        return [(start, start + self.window) for start in range(0, last, stride)] + [(last, size)]


PLAIN = AugmentedInference()
