"""What training and evaluation need of every model. Builds none.

Models that come from elsewhere take images of certain sizes only; `pad_to_multiple` and
`cut_logits` let them take all.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationModel(nn.Module):
    """A network from normalised images to logits."""

    # The prefixes of the head's parameter names, which learn at optim.head_lr_mult.
    head_prefixes: tuple[str, ...] = ()
    # The prefixes of the layers that have a row for each class.
    classifier_prefixes: tuple[str, ...] = ()

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/s, w/s] for normalised images [N, 3, h, w] from 32 pixels.

        s is the model's own stride, 4 for most. With `with_auxiliary`, return the pair (logits,
        logits of the auxiliary head or None).
        """
        raise NotImplementedError


def pad_to_multiple(images: Tensor, multiple: int, smallest: int = 1) -> Tensor:
    """Return images [N, 3, h, w], padded below and to the right to multiples of `multiple`.

    Sides are at least `smallest`, which is a multiple, too. The padding is 0, which is ImageNet's
    mean after normalisation.
    """
    missing = [max(smallest - size, -size % multiple) for size in images.shape[-2:]]
    return F.pad(images, (0, missing[1], 0, missing[0])) if any(missing) else images


def cut_logits(logits: Tensor, padded: Tensor, images: Tensor) -> Tensor:
    """Return the logits of `images` out of those of the padded images.

    If the images end inside the pixels of a logit, this logit is kept.
    """
    if padded is images:
        return logits
    height, width = (
        -(-size * num_logits // num_padded)
        for size, num_logits, num_padded in zip(
            images.shape[-2:], logits.shape[-2:], padded.shape[-2:], strict=True
        )
    )
    return logits[..., :height, :width]
