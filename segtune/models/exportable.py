"""A network as torch.export takes it: with free sizes of the image. Writes no file."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segtune.models.segmentation_model import SegmentationModel
from segtune.models.upernet import UPerNet

# Pixels. Below this, the smallest map of an encoder has one row, and torch.export would fix it.
MIN_SIDE = 64


class Sides(NamedTuple):
    """Which heights and widths an exported network takes."""

    step: int  # multiples of this
    smallest: int

    def at_least(self, side: int) -> int:
        """Return the smallest side from `side` pixels that the network takes."""
        return -(-max(side, self.smallest) // self.step) * self.step


def sides_of(model: SegmentationModel) -> Sides:
    """Return the sides for which a network pads nothing.

    Exported, it does not pad: how much to pad depends on the size.
    """
    multiple = model.maps.multiple if isinstance(model, UPerNet) else getattr(model, "multiple", 1)
    return Sides(multiple, max(MIN_SIDE, getattr(model, "smallest", 1)))


def has_free_sizes(model: SegmentationModel) -> bool:
    """Whether torch.export can leave height and width free.

    How a Swin pads and masks its windows depends on the size in so many ways that torch.export does
    not come to an end.
    """
    return not (isinstance(model, UPerNet) and model.maps.channels_last)


def exportable(model: SegmentationModel) -> SegmentationModel:
    """Return a copy that needs no gradient and computes the same with operators of free sizes."""
    model = copy.deepcopy(model).requires_grad_(False).eval()
    for module in model.modules():
        if isinstance(module, nn.AdaptiveAvgPool2d):
            # Another class for the same object: some heads hold their layers in plain lists, too.
            module.__class__ = PoolByMatmul
    return model


class PoolByMatmul(nn.AdaptiveAvgPool2d):
    """The adaptive average pooling of torch as two products with matrices.

    ONNX and torch.export have it only for maps of a fixed size.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the averages [N, C, H, W] of maps [N, C, h, w]."""
        size = self.output_size
        height, width = (size, size) if isinstance(size, int | None) else size
        return _pooled(_pooled(input, height, -2), width, -1)


def _pooled(maps: Tensor, num_cells: int | None, axis: int) -> Tensor:
    """Return maps [N, C, h, w] with the average of each cell along an axis; None: as they are."""
    if num_cells is None:
        return maps
    if num_cells == 1:  # a matrix of one row would make torch.export fix the size
        return maps.mean(axis, keepdim=True)
    averages = _averages(maps.shape[axis], num_cells, maps)
    return torch.matmul(averages, maps) if axis == -2 else torch.matmul(maps, averages.T)


def _averages(size: int, num_cells: int, like: Tensor) -> Tensor:
    """Return the matrix [num_cells, size] that averages the pixels of each cell along an axis.

    Cell i has the pixels from floor(i * size / n) to ceil((i + 1) * size / n), as in torch.
    """
    cells = torch.arange(num_cells, device=like.device)
    pixels = torch.arange(size, device=like.device)
    starts = cells * size // num_cells
    stops = ((cells + 1) * size + num_cells - 1) // num_cells
    inside = (pixels >= starts[:, None]) & (pixels < stops[:, None])
    return inside.to(like.dtype) / (stops - starts)[:, None].to(like.dtype)
