"""Focal, Dice and cross-entropy on logits, and their weighted sum. Ignored pixels count in none of them.

All of it runs in float32, whatever autocast is on: half precision has no room for the tails of a focal loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.config import FocalConfig, LossConfig

# V-Net's smoothing term, added to each sum of squares as mmseg does.
DICE_EPS = 1e-3


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float, alpha: float, ignore_index: int = 255) -> Tensor:
    """Focal loss of one class against the rest, as mmseg computes it.

    Shapes: logits float32 [N, C, H, W], target int64 [N, H, W] in 0..C-1 or ignore_index; returns [] >= 0, the mean over
    N*H*W*C in which ignored pixels count as 0. An all-ignored batch gives 0 with a gradient of 0.
    Source: Lin et al. 2017, eq. 5; the normalisation is mmsegmentation's.
    """
    valid = target != ignore_index
    index = target.where(valid, 0).unsqueeze(1)
    # All classes as negatives first, then the one positive per pixel in its place: no one-hot of C channels.
    own = logits.gather(1, index)
    positive = alpha * F.softplus(-own) * _modulation(-own, gamma)
    negative = (1 - alpha) * F.softplus(logits) * _modulation(logits, gamma)
    # Not sum - wrong + right: on a confident pixel the wrong term is the largest by far, and takes the digits of the rest along.
    per_pixel = negative.scatter_(1, index, positive).sum(1)
    return (per_pixel * valid).sum() / logits.numel()


def _modulation(logits: Tensor, gamma: float) -> Tensor:
    """Returns sigmoid(logits)^gamma through its logarithm: `pow` has an infinite slope at 0 for gamma < 1."""
    return torch.exp(gamma * F.logsigmoid(logits)) if gamma else torch.ones_like(logits)


def softmax_focal(logits: Tensor, target: Tensor, gamma: float, ignore_index: int = 255) -> Tensor:
    """Focal loss over classes: the mean over valid pixels of (1 - p)^gamma * -log p, p the probability of the label.

    Shapes and ignored pixels as in `sigmoid_focal`; gamma 0 is cross-entropy. Source: Lin et al. 2017, eq. 4.
    """
    valid = target != ignore_index
    index = target.where(valid, 0).unsqueeze(1)
    log_p = F.log_softmax(logits, dim=1)
    nll = -log_p.gather(1, index).squeeze(1)
    if gamma:
        # log(1 - p) = log of the sum of the other classes: exact where p rounds to 1, and with a finite slope.
        others = log_p.scatter(1, index, float("-inf"))
        nll = torch.exp(gamma * torch.logsumexp(others, dim=1)) * nll
    return (nll * valid).sum() / valid.sum().clamp(min=1)


def dice(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """Soft Dice loss with sigmoid, over all classes of one sample together, averaged over the samples.

    Shapes: logits float32 [N, C, H, W], target int64 [N, H, W]; returns [] in 0..1. Ignored pixels count neither in the
    intersection nor in the sums of squares; a sample without a valid pixel counts as 0.
    Source: Milletari et al. 2016 (V-Net), in mmsegmentation's form.
    """
    valid = target != ignore_index
    index = target.where(valid, 0).unsqueeze(1)
    probability = logits.sigmoid()
    intersection = (probability.gather(1, index).squeeze(1) * valid).flatten(1).sum(1)
    squares = (probability.square().sum(1) * valid).flatten(1).sum(1)
    labels = valid.flatten(1).sum(1)
    score = 2 * intersection / (squares + DICE_EPS + labels + DICE_EPS)
    return ((1 - score) * (labels > 0)).mean()


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """Softmax cross-entropy, the mean over valid pixels; 0 with a gradient of 0 where there is none.

    Shapes: logits float32 [N, C, H, W], target int64 [N, H, W]; returns [] >= 0.
    """
    total = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum")
    return total / (target != ignore_index).sum().clamp(min=1)


class SegmentationLoss(nn.Module):
    """The weighted sum that a config asks for; terms with weight 0 are not computed."""

    def __init__(self, config: LossConfig, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        self.config, self.num_classes, self.ignore_index = config, num_classes, ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns scalars: `total`, and each active term unweighted (`focal`, `dice`, `ce`).

        Shapes: logits float [N, C, h, w], target int64 [N, H, W] with h <= H; smaller logits are upsampled bilinearly
        (align_corners=False) to the labels. Raises ValueError where the shapes do not fit.
        """
        if logits.ndim != 4 or logits.shape[1] != self.num_classes or logits.shape[0] != target.shape[0]:
            raise ValueError(f"logits {list(logits.shape)} do not fit {self.num_classes} classes and labels {list(target.shape)}")
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            if logits.shape[-2:] != target.shape[-2:]:
                logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
            terms: dict[str, Tensor] = {}
            if self.config.focal.weight:
                terms["focal"] = self._focal(logits, target, self.config.focal)
            if self.config.dice.weight:
                terms["dice"] = dice(logits, target, self.ignore_index)
            if self.config.ce.weight:
                terms["ce"] = cross_entropy(logits, target, self.ignore_index)
            total = sum(getattr(self.config, name).weight * value for name, value in terms.items())
            assert isinstance(total, Tensor)  # the config refuses a sum without a term
        return {"total": total, **terms}

    def _focal(self, logits: Tensor, target: Tensor, focal: FocalConfig) -> Tensor:
        if focal.form == "softmax":
            return softmax_focal(logits, target, focal.gamma, self.ignore_index)
        return sigmoid_focal(logits, target, focal.gamma, focal.alpha, self.ignore_index)


def build_loss(config: LossConfig, num_classes: int, ignore_index: int = 255) -> SegmentationLoss:
    """Returns the loss of a config for `num_classes` classes."""
    return SegmentationLoss(config, num_classes, ignore_index)
