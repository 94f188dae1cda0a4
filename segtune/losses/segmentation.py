"""Focal, Dice and cross-entropy on logits, and their weighted sum. Ignored pixels count in none of them.

All of it runs in float32, whatever autocast is on: half precision has no room for the tails of a focal loss.

- sigmoid focal (Lin et al. 2017, eq. 5, in mmsegmentation's form): one class against the rest, the mean over N*H*W*C in which
  ignored pixels count as 0;
- softmax focal (eq. 4): the mean over valid pixels of (1 - p)^gamma * -log p, p the probability of the label; gamma 0 is
  cross-entropy;
- Dice (Milletari et al. 2016, V-Net, in mmsegmentation's form): sigmoid, squares in the denominator, over all classes of one
  sample together or for each class, averaged over the samples;
- cross-entropy: the mean over valid pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from segtune.config.schema import LossConfig
from segtune.errors import ConfigError
from segtune.losses.banded import BandedLoss, LossSpec, Softmax
from segtune.losses.row_bands import RowUpsampler, bands


class SegmentationLoss(nn.Module):
    """The weighted sum that a config asks for; terms with weight 0 are not computed."""

    weights: Tensor

    def __init__(self, config: LossConfig, num_classes: int, ignore_index: int = 255) -> None:
        """Raises ConfigError where there is not one class weight for each class."""
        super().__init__()
        self.config, self.num_classes, self.ignore_index = config, num_classes, ignore_index
        given = config.class_weights or (1.0,) * num_classes
        if len(given) != num_classes:
            raise ConfigError(
                [
                    f"loss.class_weights: {len(given)} values for {num_classes} classes; one for each class, in their order"
                ]
            )
        self.register_buffer("weights", torch.tensor(given), persistent=False)
        self.active = [name for name in ("focal", "dice", "ce") if getattr(config, name).weight]
        self.plan = LossSpec(
            **{name: getattr(config, name).weight for name in ("focal", "dice", "ce")},
            softmax=config.focal.form == "softmax",
            gamma=config.focal.gamma,
            alpha=config.focal.alpha,
            dice_per_class=config.dice.per_class,
            ignore_index=ignore_index,
        )

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns scalars: `total`, and each active term unweighted and without a gradient (`focal`, `dice`, `ce`).

        Shapes: logits float [N, C, h, w], target int64 [N, H, W] in 0..C-1 or ignore_index, with h <= H; smaller logits are
        upsampled bilinearly (align_corners=False) to the labels. A batch without a valid pixel gives 0 with a gradient of 0.
        Raises ValueError where the shapes do not fit.
        """
        if (
            logits.ndim != 4
            or logits.shape[1] != self.num_classes
            or logits.shape[0] != target.shape[0]
        ):
            raise ValueError(
                f"logits {list(logits.shape)} do not fit {self.num_classes} classes and labels {list(target.shape)}"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            chosen = target != self.ignore_index
            if self.config.ohem.keep is not None:
                chosen = hardest(
                    logits.detach(), target, chosen, self.config.ohem.keep, self.ignore_index
                )
            total, (focal, dice, ce) = BandedLoss.apply(
                logits, target, chosen, self.weights.to(logits), self.plan
            )  # pyright: ignore[reportGeneralTypeIssues]
        terms = {
            name: value
            for name, value in (("focal", focal), ("dice", dice), ("ce", ce))
            if name in self.active
        }
        return {"total": total, **terms}


def hardest(
    logits: Tensor, target: Tensor, valid: Tensor, keep: float, ignore_index: int = 255
) -> Tensor:
    """Returns bool [N, H, W]: the share `keep` of the batch's valid pixels whose label has the lowest softmax probability.

    Shapes as in `SegmentationLoss`; pixels that are as hard as the last one are kept, too. Source: Shrivastava et al. 2016
    (online hard example mining), per pixel.
    """
    nll = torch.full(target.shape, -math.inf, dtype=logits.dtype, device=logits.device)
    stretch = RowUpsampler(logits, target.shape[-2:])
    for sample in range(len(logits)):
        for band in bands(stretch, sample, stretch.wide(sample), target, valid, ignore_index):
            nll[sample, band.rows] = Softmax(band).nll.view(-1, target.shape[2])
    nll = nll.where(valid, -math.inf)
    last = (valid.sum() * keep).ceil().long().clamp(min=1) - 1
    # `gather`: indexing with a tensor would read it on the host, and wait for the device.
    return valid & (nll >= nll.flatten().sort(descending=True).values.gather(0, last[None]))


def build_loss(config: LossConfig, num_classes: int, ignore_index: int = 255) -> SegmentationLoss:
    """Returns the loss of a config for `num_classes` classes."""
    return SegmentationLoss(config, num_classes, ignore_index)
