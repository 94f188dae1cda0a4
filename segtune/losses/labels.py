"""The labels of a batch, also of one whose samples are mixtures of two images (MixUp).

MixUp adds two images, first_share * first + (1 - first_share) * second. Its loss is the same
mixture of two losses: that against the first mask and that against the second one (Zhang et al.
2018, mixup: Beyond Empirical Risk Minimization). For cross-entropy, this is the loss against soft
labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """What a mixed batch has besides its first masks.

    - `second`: labels of the second image of each sample, int64 [N, H, W];
    - `first_share`: share of the first image, float [N] in 0..1; 1 for a sample that is not mixed.
    """

    second: Tensor
    first_share: Tensor

    def head(self, num_samples: int) -> Mixing:
        """Return the mixing of the first `num_samples` samples."""
        return Mixing(self.second[:num_samples], self.first_share[:num_samples])


@dataclass(frozen=True)
class Labelling:
    """Labels int64 [N, H, W], and the share [N] of each sample's loss; None: 1 for all samples."""

    target: Tensor
    share: Tensor | None = None


def labellings(target: Tensor, mixing: Mixing | None, ignore_index: int) -> list[Labelling]:
    """Return the labellings of a batch, whose losses add up to that of the batch.

    A labelling with share 0 is ignored as a whole: it must not count as a class that is present,
    nor among the hardest pixels.
    """
    if mixing is None:
        return [Labelling(target)]
    first_share = mixing.first_share
    return [
        Labelling(labels.where((share > 0)[:, None, None], ignore_index), share)
        for labels, share in ((target, first_share), (mixing.second, 1 - first_share))
    ]


def selected_weights(selected: Sequence[Tensor], parts: Sequence[Labelling]) -> Tensor:
    """Return the weight of each pixel in focal loss and cross-entropy.

    Of one labelling, it is bool [N, H, W] as in `selected`. Of two, it is float [2N, H, W]: the
    share of a selected pixel's sample, otherwise 0.
    """
    shares = [part.share for part in parts]
    weights = [
        pixels if share is None else pixels * share[:, None, None]
        for pixels, share in zip(selected, shares, strict=True)
    ]
    return weights[0] if len(weights) == 1 else torch.cat(weights)
