"""Resizing by matrix products gives what PyTorch's `interpolate` gives."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.models.bilinear import interpolation_matrix, resize, resize_by_matmul


@pytest.mark.parametrize("size", [(48, 64), (12, 100), (6, 5), (6, 8)])
@pytest.mark.parametrize("resize_maps", [resize, resize_by_matmul])
def test_maps_are_resized_as_pytorch_does(
    size: tuple[int, int], resize_maps: Callable[[Tensor, tuple[int, int]], Tensor]
) -> None:
    maps_nchw = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    expected = F.interpolate(maps_nchw, size=size, mode="bilinear", align_corners=False)
    resized = resize_maps(maps_nchw.permute(0, 2, 3, 1), size)
    torch.testing.assert_close(resized.permute(0, 3, 1, 2), expected)


def test_matrix_to_twice_the_size_is_the_one_by_hand() -> None:
    matrix = interpolation_matrix(2, 4, torch.zeros(1))
    assert matrix is not None
    assert matrix.tolist() == [[1.0, 0.75, 0.25, 0.0], [0.0, 0.25, 0.75, 1.0]]
    assert interpolation_matrix(4, 4, torch.zeros(1)) is None
