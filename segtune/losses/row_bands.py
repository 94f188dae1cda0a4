"""Logits at the size of their labels, a band of rows at a time: they never exist as a whole.

A band fits into the cache of a core, or into a small part of a GPU's memory; whoever needs it twice makes it twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from segtune.models.bilinear import matrix

# Values of a band. On a processor a megabyte in float32: it still lies in a core's cache, and three rows of 150 classes by 512
# pixels take half as long as one at a time. On a GPU enough to fill it, and a small part of its memory.
BAND_VALUES = {"cpu": 1 << 18, "cuda": 1 << 21}


@dataclass
class Band:
    """Some rows of one sample: logits `x` [C, P] at the labels' size, and where its pixels count.

    `index` int64 [1, P] is the label, 0 where there is none. `valid` and `chosen` [P] are 1 or 0: pixels with a label, and
    those that the pixelwise terms look at.
    """

    rows: slice
    x: Tensor
    index: Tensor
    valid: Tensor
    chosen: Tensor

    def own(self, values: Tensor) -> Tensor:
        """Returns the values [P] of the labels' own classes out of [C, P]."""
        return values.gather(0, self.index)[0]


class RowUpsampler:
    """Bilinear upsampling (align_corners=False) of one sample, band by band, and its transpose.

    Along each axis it is a product with a matrix of two numbers per column; across the image once per sample, down the image
    for the few source rows that a band needs. Products are exact transposes of each other and deterministic on a GPU.
    """

    def __init__(self, logits: Tensor, size: torch.Size) -> None:
        """`logits` [N, C, h, w] go to `size` (H, W)."""
        self.logits, self.size = logits, size
        self.down, self.across = (
            matrix(small, full, logits) for small, full in zip(logits.shape[-2:], size, strict=True)
        )

    def slices(self) -> Iterator[slice]:
        """Yields the rows of each band, from top to bottom."""
        limit = BAND_VALUES.get(self.logits.device.type, BAND_VALUES["cpu"])
        step = max(1, limit // (self.logits.shape[1] * self.size[1]))
        for start in range(0, self.size[0], step):
            yield slice(start, min(start + step, self.size[0]))

    def source(self, rows: slice) -> slice:
        """Returns the rows of the logits that these rows of the labels lie between."""
        height, step = self.logits.shape[-2], self.logits.shape[-2] / self.size[0]
        first = max(0, int((rows.start + 0.5) * step - 0.5))
        return slice(first, min(height, max(first, int((rows.stop - 0.5) * step - 0.5)) + 2))

    def wide(self, sample: int) -> Tensor:
        """Returns the logits [C, h, W] of a sample at full width."""
        return self.logits[sample] if self.across is None else self.logits[sample] @ self.across

    def band(self, wide: Tensor, rows: slice) -> Tensor:
        """Returns the logits [C, P] of some rows at full size."""
        if self.down is None:
            return wide[:, rows].flatten(1)
        source = self.source(rows)
        return (self.down[source, rows].T @ wide[:, source]).flatten(1)

    def add_band(self, wide: Tensor, rows: slice, gradient: Tensor) -> None:
        """Adds the gradient [C, P] of some rows to that of a sample at full width."""
        gradient = gradient.unflatten(1, (-1, self.size[1]))
        if self.down is None:
            wide[:, rows] += gradient
        else:
            source = self.source(rows)
            wide[:, source] += self.down[source, rows] @ gradient

    def narrow(self, wide: Tensor) -> Tensor:
        """Returns the gradient [C, h, w] of one at full width."""
        return wide if self.across is None else wide @ self.across.T


def bands(
    stretch: RowUpsampler,
    sample: int,
    wide: Tensor,
    target: Tensor,
    chosen: Tensor,
    ignore_index: int,
) -> Iterator[Band]:
    """Yields one sample in bands. `target` int64 and `chosen` bool are [N, H, W]; what is chosen has a label."""
    for rows in stretch.slices():
        labels = target[sample, rows].reshape(1, -1)
        valid = labels != ignore_index
        x = stretch.band(wide, rows)
        yield Band(
            rows,
            x,
            labels.where(valid, 0),
            valid[0].to(x.dtype),
            chosen[sample, rows].flatten().to(x.dtype),
        )
