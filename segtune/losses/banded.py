"""Focal, Dice and cross-entropy on logits of any size, over bands of rows, with their gradients in closed form.

The plain formulas keep a dozen full-size copies for the backward pass: 500 MiB for two crops of 21 classes. Here a band is added to
a handful of sums and to the gradient on the logits, which is all that is kept, and forgotten. Only Dice, whose gradient depends on
the sums of the whole sample, makes each band once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segtune.losses.row_bands import Band, RowUpsampler, bands

# V-Net's smoothing term, added to each sum of squares as mmseg does.
DICE_EPS = 1e-3


@dataclass(frozen=True)
class LossSpec:
    """The weights of the terms, 0 for one that is not wanted, and their parameters."""

    focal: float
    dice: float
    ce: float
    softmax: bool  # form of the focal term: over classes, or one class against the rest
    gamma: float
    alpha: float
    dice_per_class: bool
    ignore_index: int

    @property
    def needs_softmax(self) -> bool:
        """Whether a term looks at the softmax over classes."""
        return bool(self.ce or (self.focal and self.softmax))

    @property
    def needs_sigmoid(self) -> bool:
        """Whether a term looks at the sigmoid of each class."""
        return bool(self.dice or (self.focal and not self.softmax))


def _power(log_p: Tensor, p: Tensor, gamma: float) -> Tensor:
    """Returns p^gamma; through the logarithm, because `pow` is slow and has an infinite slope at 0 for gamma < 1."""
    if gamma in (1.0, 2.0):
        return p if gamma == 1 else p * p
    return torch.exp(gamma * log_p)


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

    def __init__(self, band: Band) -> None:
        self.band = band
        self.p = band.x.sigmoid()

    def focal(self, gamma: float, alpha: float) -> tuple[Tensor, Tensor]:
        """Returns the focal loss and its derivative by the logits, both [C, P].

        All classes as negatives, then the label's own as the positive in its place. Not sum - wrong + right: on a confident pixel
        the wrong one is the largest by far, and takes the digits of the rest along.
        """
        own = -self.band.own(self.band.x)
        negatives, positives = _focal(self.band.x, self.p, gamma), _focal(own, own.sigmoid(), gamma)
        value, slope = (
            negative.mul_(1 - alpha).scatter_(0, self.band.index, sign * alpha * positive[None])
            for negative, positive, sign in zip(negatives, positives, (1, -1), strict=True)
        )
        return value, slope


def _focal(x: Tensor, p: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Returns p^gamma * softplus(x), where p is the sigmoid of x, and its derivative by x."""
    softplus = F.softplus(x)
    if not gamma:
        return softplus, p.clone()
    power = _power(x - softplus, p, gamma)
    slope = (1 - p).mul_(softplus).mul_(gamma).add_(p).mul_(power)
    return softplus.mul_(power), slope


@dataclass
class DiceSums:
    """Sums of one sample by class [C] in float64: probability of the label, squared probabilities, pixels with the label."""

    overlap: Tensor
    squares: Tensor
    labels: Tensor

    @classmethod
    def zeros(cls, classes: int, device: torch.device) -> DiceSums:
        """Returns empty sums."""
        return cls(*torch.zeros(3, classes, dtype=torch.float64, device=device))

    def add(self, band: Band, p: Tensor) -> None:
        """Adds the probabilities [C, P] of a band."""
        for sums, values in ((self.overlap, band.own(p) * band.valid), (self.labels, band.valid)):
            sums += values.new_zeros(p.shape[0]).index_add_(0, band.index[0], values)
        self.squares += p.square() @ band.valid

    def loss_and_slopes(self, per_class: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss [], and its derivatives [C] by `overlap` and `squares`.

        A sample without a label counts as 0; per class, so does a class that it has no pixel of.
        """
        sums = (self.overlap, self.squares, self.labels)
        overlap, squares, labels = (
            sums if per_class else (values.sum(0, keepdim=True) for values in sums)
        )
        share = (labels > 0) / (labels > 0).sum().clamp(min=1)
        both = squares + labels + 2 * DICE_EPS
        loss = ((1 - 2 * overlap / both) * share).sum()
        by_overlap, by_squares = -2 / both * share, 2 * overlap / both.square() * share
        return loss, by_overlap.expand_as(self.overlap), by_squares.expand_as(self.overlap)


def dice_gradient(band: Band, p: Tensor, by_overlap: Tensor, by_squares: Tensor) -> Tensor:
    """Returns the gradient [C, P] on the logits from the derivatives [C] by the sums of its sample."""
    by_p = 2 * p * by_squares[:, None]
    by_p.scatter_add_(0, band.index, by_overlap[band.index])
    return by_p.mul_(p).mul_(1 - p).mul_(band.valid)


class Terms:
    """The terms of a batch, and the gradient of their weighted sum on the logits where it is wanted."""

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        chosen: Tensor,
        weights: Tensor,
        plan: LossSpec,
        wants_gradient: bool,
    ) -> None:
        """Shapes as in `BandedLoss`."""
        self.logits, self.target, self.chosen, self.weights, self.plan = (
            logits,
            target,
            chosen,
            weights,
            plan,
        )
        self.stretch = RowUpsampler(logits, target.shape[-2:])
        self.wants_gradient = wants_gradient
        self.focal, self.ce, self.dice = torch.zeros(3, dtype=torch.float64, device=logits.device)
        self.pixels = chosen.sum().clamp(min=1).double()
        # What the focal term is a mean of: pixels, or pixels and classes, ignored ones too.
        self.focal_count = (
            self.pixels
            if plan.softmax
            else torch.full_like(self.pixels, target.numel() * logits.shape[1])
        )

    def run(self) -> tuple[Tensor, Tensor | None]:
        """Goes through all samples; returns the unweighted terms [3], focal, Dice, cross-entropy, and the gradient [N, C, h, w]."""
        gradients: list[Tensor] = []
        for sample in range(len(self.logits)):
            wide = self.stretch.wide(sample)
            collected = torch.zeros_like(wide) if self.wants_gradient else None
            sums = DiceSums.zeros(self.logits.shape[1], self.logits.device)
            for band in self._bands(sample, wide):
                if self.plan.needs_softmax:
                    self._softmax_terms(band, collected)
                if self.plan.needs_sigmoid:
                    self._sigmoid_terms(band, collected, sums)
            if self.plan.dice:
                self._dice(sample, wide, collected, sums)
            if collected is not None:
                gradients.append(self.stretch.narrow(collected))
        terms = torch.stack(
            [self.focal / self.focal_count, self.dice / len(self.logits), self.ce / self.pixels]
        )
        return terms, torch.stack(gradients) if gradients else None

    def _bands(self, sample: int, wide: Tensor) -> Iterator[Band]:
        return bands(self.stretch, sample, wide, self.target, self.chosen, self.plan.ignore_index)

    def _softmax_terms(self, band: Band, collected: Tensor | None) -> None:
        plan, softmax = self.plan, Softmax(band)
        weight = band.chosen * self.weights[band.index[0]]
        has_focal = plan.focal and plan.softmax
        self.ce += softmax.nll @ weight if plan.ce else 0.0
        self.focal += softmax.focal(plan.gamma) @ weight if has_focal else 0.0
        if collected is not None:
            slope = plan.ce / self.pixels + (
                plan.focal / self.focal_count * softmax.focal_slope(plan.gamma)
                if has_focal
                else 0.0
            )
            self.stretch.add_band(
                collected, band.rows, softmax.gradient(slope * weight, band.index)
            )

    def _sigmoid_terms(self, band: Band, collected: Tensor | None, sums: DiceSums) -> None:
        plan, binary = self.plan, Binary(band)
        if plan.focal and not plan.softmax:
            value, slope = binary.focal(plan.gamma, plan.alpha)
            self.focal += self.weights @ (value @ band.chosen)
            if collected is not None:
                by_class = plan.focal / self.focal_count * self.weights
                self.stretch.add_band(
                    collected, band.rows, slope.mul_(by_class[:, None]).mul_(band.chosen)
                )
        if plan.dice:
            sums.add(band, binary.p)

    def _dice(self, sample: int, wide: Tensor, collected: Tensor | None, sums: DiceSums) -> None:
        loss, *slopes = sums.loss_and_slopes(self.plan.dice_per_class)
        self.dice += loss
        if collected is None:
            return
        by_sums = [(self.plan.dice / len(self.logits) * slope).to(wide) for slope in slopes]
        for band in self._bands(sample, wide):
            self.stretch.add_band(
                collected, band.rows, dice_gradient(band, band.x.sigmoid(), *by_sums)
            )


class BandedLoss(torch.autograd.Function):
    """The weighted sum [] of a batch's terms, and the terms [3] unweighted and without a gradient: focal, Dice, cross-entropy."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, logits: Tensor, target: Tensor, chosen: Tensor, weights: Tensor, plan: LossSpec
    ) -> tuple[Tensor, Tensor]:
        """Shapes: logits float [N, C, h, w]; target int64 and chosen bool [N, H, W]; class weights [C]."""
        terms, gradient = Terms(
            logits, target, chosen, weights, plan, wants_gradient=ctx.needs_input_grad[0]
        ).run()
        ctx.save_for_backward(gradient)
        total = plan.focal * terms[0] + plan.dice * terms[1] + plan.ce * terms[2]
        terms = terms.to(logits)
        ctx.mark_non_differentiable(terms)
        return total.to(logits), terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scales what the forward pass has found."""
        return by_total * ctx.saved_tensors[0], None, None, None, None
