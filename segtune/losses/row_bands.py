"""Upsample logits to the size of their labels, a band of rows at a time.

The logits of a batch never exist at full size. A band fits into the cache of a CPU core, or into a
small part of a GPU's memory. Code that needs a band twice computes it twice instead of storing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from segtune.models.bilinear import interpolation_matrix

# How many values (classes x pixels) a band has at most, by device type. On a CPU, a megabyte in
# float32, which still fits into a core's cache. With 150 classes and 512 columns that makes bands
# of three rows, and these take half as long as bands of one row. On a GPU, enough to keep it busy,
# and a small part of its memory.
VALUES_PER_BAND = {"cpu": 1 << 18, "cuda": 1 << 21}


@dataclass
class Band:
    """Some rows of one sample at the size of the labels, with P pixels.

    - `rows`: which of the H rows;
    - `logits`: [C, P];
    - `labels`: int64 [1, P], 0 for an ignored pixel;
    - `valid`: [P], 1 for a pixel with a label, else 0;
    - `selected`: [P], 1 for a pixel that counts in focal and cross-entropy, else 0. These are all
      valid pixels, or only the hardest ones.
    """

    rows: slice
    logits: Tensor
    labels: Tensor
    valid: Tensor
    selected: Tensor

    def at_label(self, values: Tensor) -> Tensor:
        """Return the value [P] of each pixel's label out of `values` [C, P]."""
        return values.gather(0, self.labels)[0]


class RowUpsampler:
    """Bilinear upsampling (align_corners=False) of one sample, band by band, and its backward pass.

    Along each axis, upsampling is a product with a matrix that has two non-zero numbers per column.
    The width is upsampled once per sample, the height for the few source rows that a band needs.
    The forward and the backward product are exact transposes, and both are deterministic on a GPU.
    """

    def __init__(self, logits: Tensor, size: torch.Size) -> None:
        """Prepare to upsample `logits` [N, C, h, w] to `size` (H, W)."""
        self.logits = logits
        self.size = size
        self.height_matrix = interpolation_matrix(logits.shape[-2], size[0], logits)
        self.width_matrix = interpolation_matrix(logits.shape[-1], size[1], logits)

    def row_slices(self) -> Iterator[slice]:
        """Yield the rows of each band, from top to bottom."""
        limit = VALUES_PER_BAND.get(self.logits.device.type, VALUES_PER_BAND["cpu"])
        step = max(1, limit // (self.logits.shape[1] * self.size[1]))
        for start in range(0, self.size[0], step):
            yield slice(start, min(start + step, self.size[0]))

    def source_rows(self, rows: slice) -> slice:
        """Return which of the h source rows these rows of the H are interpolated from."""
        height = self.logits.shape[-2]
        scale = height / self.size[0]
        first = max(0, int((rows.start + 0.5) * scale - 0.5))
        return slice(first, min(height, max(first, int((rows.stop - 0.5) * scale - 0.5)) + 2))

    def upsample_width(self, sample: int, source: slice = slice(None)) -> Tensor:
        """Return the logits [C, h, W] of a sample at full width, or only the rows `source` of h."""
        logits = self.logits[sample][:, source]
        return logits if self.width_matrix is None else logits @ self.width_matrix

    def upsample_rows(self, full_width: Tensor, rows: slice, first: int = 0) -> Tensor:
        """Return the logits [C, P] of some of the H rows, from the logits [C, h, W].

        `full_width` may hold only a part of the h rows; `first` is the row with which it begins.
        """
        if self.height_matrix is None:
            return full_width[:, rows.start - first : rows.stop - first].flatten(1)
        source = self.source_rows(rows)
        held = full_width[:, source.start - first : source.stop - first]
        return (self.height_matrix[source, rows].T @ held).flatten(1)

    def add_rows_backward(self, full_width_grad: Tensor, rows: slice, grad: Tensor) -> None:
        """Add the gradient [C, P] of some of the H rows to the gradient [C, h, W], in place."""
        grad = grad.unflatten(1, (-1, self.size[1]))
        if self.height_matrix is None:
            full_width_grad[:, rows] += grad
        else:
            source = self.source_rows(rows)
            full_width_grad[:, source] += self.height_matrix[source, rows] @ grad

    def width_backward(self, full_width_grad: Tensor) -> Tensor:
        """Return the gradient [C, h, w] of a sample from its gradient [C, h, W] at full width."""
        if self.width_matrix is None:
            return full_width_grad
        return full_width_grad @ self.width_matrix.T


def split_into_bands(
    upsampler: RowUpsampler,
    sample: int,
    full_width: Tensor,
    target: Tensor,
    selected: Tensor,
    ignore_index: int,
) -> Iterator[Band]:
    """Yield a sample in bands.

    Shapes: full_width [C, h, W] of the sample; target int64 and selected bool [N, H, W]. Every
    selected pixel has to have a label.
    """
    for rows in upsampler.row_slices():
        labels = target[sample, rows].reshape(1, -1)
        valid = labels != ignore_index
        logits = upsampler.upsample_rows(full_width, rows)
        yield Band(
            rows,
            logits,
            labels.where(valid, 0),
            valid[0].to(logits.dtype),
            selected[sample, rows].flatten().to(logits.dtype),
        )
