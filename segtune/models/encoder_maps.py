"""The four feature maps that UPerNet's heads take from an encoder. Builds no encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.models.segmentation_model import TRIED_SIZE, pad_to_multiple

# The sizes of the feature maps that UPerNet takes, as divisors of the image size.
REDUCTIONS = (4, 8, 16, 32)


@dataclass(frozen=True)
class EncoderMaps:
    """Which feature maps of an encoder are taken, and how."""

    channels: list[int]  # of the maps that are taken
    indices: Sequence[int] = (0, 1, 2, 3)  # of these maps among those that the encoder returns
    channels_last: bool = False  # whether the encoder returns [N, h, w, C], as Swin does
    multiple: int = 1  # images are padded to multiples of this

    def padded(self, images: Tensor) -> Tensor:
        """Return the images [N, 3, h, w], padded below and to the right as the encoder needs."""
        return pad_to_multiple(images, self.multiple)

    def take(self, encoder: nn.Module, images: Tensor) -> list[Tensor]:
        """Return four feature maps [N, C, h, w] of padded images."""
        maps = encoder(images)
        if not self.channels_last:
            return [maps[i] for i in self.indices]
        return [maps[i].permute(0, 3, 1, 2).contiguous() for i in self.indices]


def try_out(network: nn.Module, multiple: int = 1) -> Any:
    """Return what a network returns for a padded image of TRIED_SIZE; leave it in training mode."""
    with torch.no_grad():
        result = network.eval()(pad_to_multiple(torch.zeros(1, 3, *TRIED_SIZE), multiple))
    network.train()
    return result


class FeaturePyramid(nn.Module):
    """Maps at 1/4 to 1/32 from the maps of a plain ViT, which all have the size of its patches.

    Each map of the ViT becomes one map of the pyramid, enlarged by transposed convolutions or
    reduced by pooling. Source: Li et al. 2021 (arXiv:2111.11429), section 3.
    """

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.branches = nn.ModuleList(
            _branch(channels, round(math.log2(patch_size / reduction))) for reduction in REDUCTIONS
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return four maps [N, C, h, w] for four of equal size, the first block's map first."""
        pyramid = []
        for branch, feature, reduction in zip(self.branches, maps, REDUCTIONS, strict=True):
            size = [-(-side * self.patch_size // reduction) for side in feature.shape[-2:]]
            scaled = branch(feature)
            # Patches of 14 pixels are 3.5 times as large as those at 1/4.
            if list(scaled.shape[-2:]) != size:
                scaled = F.interpolate(scaled, size=size, mode="bilinear", align_corners=False)
            pyramid.append(scaled)
        return pyramid


def _branch(channels: int, doublings: int) -> nn.Module:
    """Return layers that double the size of a map, or halve it if `doublings` is below 0."""
    if doublings < 0:
        return nn.Sequential(*(nn.MaxPool2d(2, ceil_mode=True) for _ in range(-doublings)))
    layers: list[nn.Module] = []
    for _ in range(doublings):
        if layers:
            layers += [nn.BatchNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2))
    return nn.Sequential(*layers)
