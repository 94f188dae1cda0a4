"""The loss of a training run: a weighted sum of focal, Dice and cross-entropy on logits.

`formulas.py` defines the terms; `banded.py` computes them. This file connects them to the config.
Ignored pixels count in no term. Half precision is converted to float32, also under autocast: it has
no room for the tails of a focal loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from segtune.config.data_config import IGNORE_INDEX
from segtune.config.loss_config import LossConfig
from segtune.errors import ConfigError
from segtune.losses.banded import BandedLoss, LossSpec
from segtune.losses.pixel_terms import SoftmaxBand
from segtune.losses.row_bands import RowUpsampler, split_into_bands

TERMS = ("focal", "dice", "ce")


class SegmentationLoss(nn.Module):
    """The weighted sum of a config's terms; terms with weight 0 are not computed."""

    class_weights: Tensor

    def __init__(
        self, config: LossConfig, num_classes: int, ignore_index: int = IGNORE_INDEX
    ) -> None:
        """Raise ConfigError if `loss.class_weights` does not have one weight per class."""
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        class_weights = config.class_weights or (1.0,) * num_classes
        if len(class_weights) != num_classes:
            raise ConfigError(
                [
                    f"loss.class_weights: {len(class_weights)} values for {num_classes} classes; "
                    "give one for each class, in the order of the classes"
                ]
            )
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)
        self.spec = LossSpec(
            focal=config.focal.weight,
            dice=config.dice.weight,
            ce=config.ce.weight,
            softmax_focal=config.focal.form == "softmax",
            gamma=config.focal.gamma,
            alpha=config.focal.alpha,
            dice_per_class=config.dice.per_class,
            ignore_index=ignore_index,
        )

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return scalars: `total`, and each active term (`focal`, `dice`, `ce`), unweighted.

        Only `total` has a gradient.

        Shapes: logits float [N, C, h, w], target int64 [N, H, W] in 0..C-1 or ignore_index, with
        h <= H. Smaller logits are upsampled bilinearly (align_corners=False) to the labels. A batch
        without a valid pixel gives 0 with a gradient of 0. Raises ValueError if N or C do not fit.
        """
        self._check_shapes(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            selected = target != self.ignore_index
            if self.config.ohem.keep is not None:
                selected = hardest_pixels(
                    logits.detach(), target, self.config.ohem.keep, self.ignore_index
                )
            total, terms = BandedLoss.apply(
                logits, target, selected, self.class_weights.to(logits), self.spec
            )  # pyright: ignore[reportGeneralTypeIssues]
        values = zip(TERMS, terms, strict=True)
        return {"total": total} | {name: term for name, term in values if getattr(self.spec, name)}

    def _check_shapes(self, logits: Tensor, target: Tensor) -> None:
        is_4d = logits.ndim == 4
        if not is_4d or logits.shape[:2] != (target.shape[0], self.num_classes):
            raise ValueError(
                f"logits {list(logits.shape)} do not fit {self.num_classes} classes "
                f"and labels {list(target.shape)}; expected [N, C, h, w] and [N, H, W]"
            )


def hardest_pixels(
    logits: Tensor, target: Tensor, keep: float, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return which pixels online hard example mining keeps, bool [N, H, W].

    Same result as `formulas.hardest_pixels`. Shapes as in `SegmentationLoss`.
    """
    valid = target != ignore_index
    nll = torch.full(target.shape, -math.inf, dtype=logits.dtype, device=logits.device)
    upsampler = RowUpsampler(logits, target.shape[-2:])
    for sample in range(len(logits)):
        full_width = upsampler.upsample_width(sample)
        for band in split_into_bands(upsampler, sample, full_width, target, valid, ignore_index):
            nll[sample, band.rows] = SoftmaxBand(band).nll.view(-1, target.shape[2])
    nll = nll.where(valid, -math.inf)
    last = (valid.sum() * keep).ceil().long().clamp(min=1) - 1
    # `gather`, because indexing with a tensor would copy it to the host and wait for the device.
    threshold = nll.flatten().sort(descending=True).values.gather(0, last[None])
    return valid & (nll >= threshold)


def build_loss(
    config: LossConfig, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> SegmentationLoss:
    """Return the loss of a config for `num_classes` classes."""
    return SegmentationLoss(config, num_classes, ignore_index)
