"""SegFormer's all-MLP head, with the order of its linear steps turned round: the same numbers for a twentieth of the work.

As written, each of four maps is projected to D channels and upsampled to a quarter of the image, and the 4D channels there are
fused to D by a 1x1 convolution: more than half of all that SegFormer-B0 computes. But projecting, upsampling and fusing are
linear, and upsampling does not mix channels. So each map's projection and its part of the fusion are multiplied into one small
matrix, applied where the map is small, and the results are upsampled and added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.models.bilinear import resize


def decode(head: Any, states: Sequence[Tensor]) -> Tensor:
    """Returns the logits [N, C, h, w] of transformers' SegformerDecodeHead for its encoder's maps, largest [N, D0, h, w] first."""
    # Channels last in memory all the way: there a 1x1 convolution is a linear layer, and nothing is copied between them.
    fused: Any = 0.0
    for state, (weight, bias) in zip(states, _folded(head), strict=True):
        fused = fused + resize(
            F.linear(state.permute(0, 2, 3, 1), weight, bias), states[0].shape[-2:]
        )
    hidden = head.dropout(head.activation(head.batch_norm(fused.permute(0, 3, 1, 2))))
    return F.linear(
        hidden.permute(0, 2, 3, 1), head.classifier.weight.flatten(1), head.classifier.bias
    ).permute(0, 3, 1, 2)


def _folded(head: Any) -> list[tuple[Tensor, Tensor]]:
    """Returns for each map the matrix [D, channels] and bias [D] that project it and fuse it."""
    # In float32: products of weights have no business in half precision.
    with torch.autocast(head.linear_fuse.weight.device.type, enabled=False):
        parts = head.linear_fuse.weight.flatten(1).chunk(len(head.linear_projections), dim=1)
        # The fusion takes the smallest map first.
        pairs = zip(reversed(parts), (p.proj for p in head.linear_projections), strict=True)
        return [(part @ projection.weight, part @ projection.bias) for part, projection in pairs]
