"""Focal, Dice and cross-entropy on logits of any size, in one pass over bands of rows, with their gradients in closed form.

The plain formulas keep a dozen full-size copies for the backward pass: 500 MiB for two crops of 21 classes. Here a band is
added to a handful of sums and forgotten, and the backward pass makes it once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segtune.bands import Band, Stretch, bands

# V-Net's smoothing term, added to each sum of squares as mmseg does.
DICE_EPS = 1e-3


@dataclass(frozen=True)
class Plan:
    """Which terms are wanted, and their parameters."""

    focal: bool
    dice: bool
    ce: bool
    softmax: bool  # form of the focal term: over classes, or one class against the rest
    gamma: float
    alpha: float
    dice_per_class: bool
    ignore_index: int

    @property
    def needs_softmax(self) -> bool:
        """Whether a term looks at the softmax over classes."""
        return self.ce or (self.focal and self.softmax)

    @property
    def needs_sigmoid(self) -> bool:
        """Whether a term looks at the sigmoid of each class."""
        return self.dice or (self.focal and not self.softmax)


def _power(log_p: Tensor, p: Tensor, gamma: float) -> Tensor:
    """Returns p^gamma; through the logarithm, because `pow` is slow and has an infinite slope at 0 for gamma < 1."""
    if gamma in (1.0, 2.0):
        return p if gamma == 1 else p * p
    return torch.exp(gamma * log_p) if gamma else torch.ones_like(p)


class Softmax:
    """The softmax over classes of a band, and what its two terms need of it, exact where a probability rounds to 1."""

    def __init__(self, band: Band) -> None:
        top = band.x.amax(0)
        self.others = torch.exp(band.x - top)
        own = band.own(self.others)
        # The sum of the others by itself: subtracted from the total, it would lose its digits on a confident pixel.
        rest = self.others.scatter_(0, band.index, 0.0).sum(0)
        self.total = own + rest
        self.wrong = rest / self.total  # 1 - p of the label
        far = self.total.log() - (band.own(band.x) - top)  # where exp has come to 0
        self.nll = torch.where(own > 0.5 * self.total, torch.log1p(rest / own), far)

    def focal(self, gamma: float) -> Tensor:
        """Returns (1 - p)^gamma * -log p [P]."""
        return self.wrong.pow(gamma) * self.nll if gamma else self.nll

    def focal_slope(self, gamma: float) -> Tensor:
        """Returns minus the derivative of `focal` by log p [P]; 1 for gamma 0."""
        if not gamma:
            return torch.ones_like(self.nll)
        ratio = torch.where(self.wrong > 0, self.nll / self.wrong, 1.0)  # -> 1 as p -> 1
        return self.wrong.pow(gamma) * (1 + gamma * (1 - self.wrong) * ratio)

    def gradient(self, slope: Tensor, index: Tensor) -> Tensor:
        """Returns the gradient [C, P] on the logits of pixels whose derivative by -log p is `slope` [P]. Uses itself up."""
        result = self.others.mul_(slope / self.total)
        return result.scatter_(0, index, (-slope * self.wrong)[None])


class Binary:
    """The sigmoid of every class against the rest in a band."""

    def __init__(self, band: Band, plan: Plan) -> None:
        self.band, self.plan = band, plan
        self.p = band.x.sigmoid()

    def focal(self) -> Tensor:
        """Returns the focal loss [C, P]: all classes as negatives, then the label's own as the positive in its place.

        Not sum - wrong + right: on a confident pixel the wrong one is the largest by far, and takes the digits of the rest along.
        """
        gamma, alpha, x = self.plan.gamma, self.plan.alpha, self.band.x
        softplus = F.softplus(x)
        negative = _power(x - softplus, self.p, gamma) * softplus.mul_(1 - alpha)
        own, miss = -self.band.own(x), 1 - self.band.own(self.p)
        softplus = F.softplus(own)
        positive = alpha * softplus * _power(own - softplus, miss, gamma)
        return negative.scatter_(0, self.band.index, positive[None])

    def focal_gradient(self) -> Tensor:
        """Returns the derivative of `focal` by the logits [C, P]."""
        alpha, own = self.plan.alpha, -self.band.own(self.band.x)
        negative = self._slope(self.band.x, self.p).mul_(1 - alpha)
        return negative.scatter_(0, self.band.index, (-alpha * self._slope(own, own.sigmoid()))[None])

    def _slope(self, x: Tensor, p: Tensor) -> Tensor:
        """Returns the derivative of sigmoid(x)^gamma * softplus(x)."""
        gamma = self.plan.gamma
        if not gamma:
            return p.clone()
        softplus = F.softplus(x)
        power = _power(x - softplus, p, gamma)
        return softplus.mul_(1 - p).mul_(gamma).add_(p).mul_(power)


@dataclass
class DiceSums:
    """Sums per sample and class [N, C] in float64: probability of the label, squared probabilities, pixels with the label."""

    overlap: Tensor
    squares: Tensor
    labels: Tensor

    @classmethod
    def zeros(cls, samples: int, classes: int, device: torch.device) -> DiceSums:
        """Returns empty sums."""
        return cls(*torch.zeros(3, samples, classes, dtype=torch.float64, device=device))

    def add(self, band: Band, p: Tensor) -> None:
        """Adds the probabilities [C, P] of a band."""
        for sums, values in ((self.overlap, band.own(p) * band.valid), (self.labels, band.valid)):
            sums[band.sample] += values.new_zeros(p.shape[0]).index_add_(0, band.index[0], values)
        self.squares[band.sample] += p.square() @ band.valid

    def loss_and_slopes(self, per_class: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss [], and its derivatives [N, C] by `overlap` and `squares`.

        A sample without a label counts as 0; per class, so does a class that a sample has no pixel of.
        """
        sums = (self.overlap, self.squares, self.labels)
        overlap, squares, labels = sums if per_class else (values.sum(1, keepdim=True) for values in sums)
        share = (labels > 0) / (labels > 0).sum(1, keepdim=True).clamp(min=1) / len(labels)
        both = squares + labels + 2 * DICE_EPS
        loss = ((1 - 2 * overlap / both) * share).sum()
        by_overlap, by_squares = -2 / both * share, 2 * overlap / both.square() * share
        return loss, by_overlap.expand_as(self.overlap), by_squares.expand_as(self.overlap)


def dice_gradient(band: Band, p: Tensor, by_overlap: Tensor, by_squares: Tensor) -> Tensor:
    """Returns the gradient [C, P] on the logits from the derivatives [C] by the sums of the band's sample."""
    by_p = 2 * p * by_squares[:, None]
    by_p.scatter_add_(0, band.index, by_overlap[band.index])
    return by_p.mul_(p).mul_(1 - p).mul_(band.valid)


class FusedTerms(torch.autograd.Function):
    """The unweighted terms of a batch [3]: focal, Dice, cross-entropy; 0 where the plan leaves one out."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, chosen: Tensor, weights: Tensor, plan: Plan) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Shapes: logits float [N, C, h, w]; target int64 and chosen bool [N, H, W]; class weights [C]."""
        stretch = Stretch(logits, target.shape[-2:])
        sums = DiceSums.zeros(len(logits), logits.shape[1], logits.device)
        focal, ce = torch.zeros(2, dtype=torch.float64, device=logits.device)
        for sample in range(len(logits)):
            for band in bands(stretch, sample, stretch.wide(sample), target, chosen, plan.ignore_index):
                pixel = band.chosen * weights[band.index[0]]
                if plan.needs_softmax:
                    softmax = Softmax(band)
                    ce += softmax.nll @ pixel if plan.ce else 0.0
                    focal += softmax.focal(plan.gamma) @ pixel if plan.focal and plan.softmax else 0.0
                if plan.needs_sigmoid:
                    binary = Binary(band, plan)
                    focal += weights @ (binary.focal() @ band.chosen) if plan.focal and not plan.softmax else 0.0
                    if plan.dice:
                        sums.add(band, binary.p)
        dice, by_overlap, by_squares = sums.loss_and_slopes(plan.dice_per_class)
        pixels = chosen.sum().clamp(min=1)
        counts = torch.stack([pixels if plan.softmax else torch.full_like(pixels, target.numel() * logits.shape[1]), pixels])
        ctx.plan = plan
        ctx.save_for_backward(logits, target, chosen, weights, counts, by_overlap.to(logits), by_squares.to(logits))
        return torch.stack([focal / counts[0], dice, ce / counts[1]]).to(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Makes each band once more and adds up what it says."""
        logits, target, chosen, weights, counts, by_overlap, by_squares = ctx.saved_tensors
        plan: Plan = ctx.plan
        stretch, result = Stretch(logits, target.shape[-2:]), torch.empty_like(logits)
        by_focal, by_dice, by_ce = gradient
        by_focal, by_ce = by_focal / counts[0], by_ce / counts[1]
        for sample in range(len(logits)):
            wide = stretch.wide(sample)
            collected = torch.zeros_like(wide)
            for band in bands(stretch, sample, wide, target, chosen, plan.ignore_index):
                if plan.needs_softmax:
                    softmax = Softmax(band)
                    slope = by_ce * plan.ce + (by_focal * softmax.focal_slope(plan.gamma) if plan.focal and plan.softmax else 0.0)
                    stretch.add_band(collected, band.rows, softmax.gradient(slope * band.chosen * weights[band.index[0]], band.index))
                if plan.needs_sigmoid:
                    binary = Binary(band, plan)
                    if plan.focal and not plan.softmax:
                        part = binary.focal_gradient().mul_((by_focal * weights)[:, None]).mul_(band.chosen)
                        stretch.add_band(collected, band.rows, part)
                    if plan.dice:
                        slopes = by_dice * by_overlap[sample], by_dice * by_squares[sample]
                        stretch.add_band(collected, band.rows, dice_gradient(band, binary.p, *slopes))
            result[sample] = stretch.narrow(collected)
        return result, None, None, None, None
