"""Bilinear resizing (align_corners=False), and its matrix: resizing is linear, along one axis after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def matrix(small: int, full: int, like: Tensor) -> Tensor | None:
    """Returns the matrix [small, full] of linear interpolation, two numbers per column; None where nothing is to be done."""
    if small == full:
        return None
    unit = torch.eye(small, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], size=full, mode="linear", align_corners=False)[0]


def resize(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Returns maps [N, h, w, C], channels last, at `size` (H, W)."""
    if maps.device.type == "cpu" and not torch.compiler.is_compiling():
        # torch has this order of memory vectorised; planes take three times as long, and so does what its compiler makes of it.
        return F.interpolate(
            maps.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False
        ).permute(0, 2, 3, 1)
    return resize_by_products(maps, size)


def resize_by_products(maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """As `resize`, as two matrix products: torch's own gradient on a GPU adds up in an order that changes from run to run."""
    number, height, width, channels = maps.shape
    down, across = (
        matrix(small, full, maps) for small, full in zip((height, width), size, strict=True)
    )
    if down is not None:
        maps = torch.bmm(down.T.expand(number, -1, -1), maps.reshape(number, height, -1))
    if across is not None:
        maps = torch.bmm(
            across.T.expand(number * size[0], -1, -1),
            maps.reshape(number * size[0], width, channels),
        )
    return maps.reshape(number, *size, channels)
