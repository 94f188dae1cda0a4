"""Bilinear resizing (align_corners=False), also as products with the matrices that it consists of.

Bilinear resizing is linear in the pixels, and works along one axis after the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolation_matrix(source_size: int, target_size: int, like: Tensor) -> Tensor | None:
    """Return the matrix [source_size, target_size] of linear interpolation along one axis.

    It has two non-zero numbers per column, and the dtype and device of `like`. Return None if the
    sizes are equal, so that there is nothing to do.
    """
    if source_size == target_size:
        return None
    identity = torch.eye(source_size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=target_size, mode="linear", align_corners=False)[0]


def resize(maps_nhwc: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return maps [N, h, w, C], channels last, at `size` (H, W)."""
    if maps_nhwc.device.type == "cpu" and (
        torch.compiler.is_exporting() or not torch.compiler.is_compiling()
    ):
        # PyTorch's kernel for channels last in memory is vectorised. Its kernel for channels first
        # takes three times as long, and so does the code that torch.compile makes of this call.
        maps_nchw = maps_nhwc.permute(0, 3, 1, 2)
        resized = F.interpolate(maps_nchw, size=size, mode="bilinear", align_corners=False)
        return resized.permute(0, 2, 3, 1)
    return resize_by_matmul(maps_nhwc, size)


def resize_by_matmul(maps_nhwc: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return the same as `resize`, computed as two matrix products.

    Its gradient is deterministic. On a GPU, the gradient of PyTorch's own `interpolate` sums in an
    order that changes from one training run to the next.
    """
    num_maps, height, width, channels = maps_nhwc.shape
    height_matrix = interpolation_matrix(height, size[0], maps_nhwc)
    width_matrix = interpolation_matrix(width, size[1], maps_nhwc)
    maps = maps_nhwc
    if height_matrix is not None:
        columns = maps.reshape(num_maps, height, -1)
        maps = torch.bmm(height_matrix.T.expand(num_maps, -1, -1), columns)
    if width_matrix is not None:
        rows = maps.reshape(num_maps * size[0], width, channels)
        maps = torch.bmm(width_matrix.T.expand(num_maps * size[0], -1, -1), rows)
    return maps.reshape(num_maps, *size, channels)
