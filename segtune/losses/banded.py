"""Focal, Dice and cross-entropy over bands of rows, with their gradients in closed form.

The values and gradients are those of `formulas.py`, with less memory. The plain formulas keep a
dozen full-size copies for the backward pass: 500 MiB for two crops of 21 classes. This code adds
each band to a handful of sums and to the gradient on the logits, and then drops the band. The
gradient is all that the backward pass needs. Dice computes each band a second time, because its
gradient depends on the sums of the whole sample.

Names: `p` is a probability, `nll` is -log(p) of a pixel's label, and `grad_x` is the derivative of
the loss with respect to `x`. C is the number of classes, P the number of pixels in a band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segtune.losses.formulas import DICE_EPS
from segtune.losses.row_bands import Band, RowUpsampler, split_into_bands


@dataclass(frozen=True)
class LossSpec:
    """The weights of the terms (`focal`, `dice`, `ce`) and their parameters.

    A term with weight 0 is not computed.
    """

    focal: float
    dice: float
    ce: float
    softmax_focal: bool  # the form of the focal term: `formulas.softmax_focal` or `sigmoid_focal`
    gamma: float
    alpha: float
    dice_per_class: bool
    ignore_index: int

    @property
    def needs_softmax(self) -> bool:
        """Whether a term uses the softmax over classes."""
        return bool(self.ce or (self.focal and self.softmax_focal))

    @property
    def needs_sigmoid(self) -> bool:
        """Whether a term uses the sigmoid of each class."""
        return bool(self.dice or (self.focal and not self.softmax_focal))


class SoftmaxBand:
    """The softmax of a band, for `formulas.softmax_focal` and `formulas.cross_entropy`.

    It stays exact if the probability of the label rounds to 1 or to 0.
    """

    def __init__(self, band: Band) -> None:
        self.labels = band.labels
        top = band.logits.amax(0)
        # exp(logit - top) [C, P]. The entry of the label becomes 0 below.
        self.other_exps = torch.exp(band.logits - top)
        label_exp = band.at_label(self.other_exps)
        # The other classes are summed without the label. The total minus the label's part would
        # lose all digits on a confident pixel.
        others_exp = self.other_exps.scatter_(0, band.labels, 0.0).sum(0)
        self.total_exp = label_exp + others_exp
        self.p_others = others_exp / self.total_exp  # 1 - p of the label
        # `log1p` is exact for p near 1, the logits for p near 0, where `label_exp` underflows to 0.
        unlikely_nll = self.total_exp.log() - (band.at_label(band.logits) - top)
        likely_nll = torch.log1p(others_exp / label_exp)
        self.nll = torch.where(label_exp > 0.5 * self.total_exp, likely_nll, unlikely_nll)

    def focal(self, gamma: float) -> Tensor:
        """Return (1 - p)^gamma * nll [P]: softmax focal, or cross-entropy if gamma is 0."""
        return self.p_others.pow(gamma) * self.nll if gamma else self.nll

    def focal_derivative(self, gamma: float) -> Tensor:
        """Return the derivative of `focal` with respect to nll [P]. It is 1 if gamma is 0."""
        if not gamma:
            return torch.ones_like(self.nll)
        ratio = torch.where(self.p_others > 0, self.nll / self.p_others, 1.0)  # -> 1 as p -> 1
        return self.p_others.pow(gamma) * (1 + gamma * (1 - self.p_others) * ratio)

    def gradient(self, grad_nll: Tensor) -> Tensor:
        """Return the gradient [C, P] on the logits, from that on nll [P].

        It is grad_nll * (softmax - one-hot label). Call this once: it overwrites `other_exps`.
        """
        result = self.other_exps.mul_(grad_nll / self.total_exp)
        return result.scatter_(0, self.labels, (-grad_nll * self.p_others)[None])


class SigmoidBand:
    """The sigmoid of each class of a band, for `formulas.sigmoid_focal` and Dice."""

    def __init__(self, band: Band) -> None:
        self.band = band
        self.p = band.logits.sigmoid()

    def focal(self, gamma: float, alpha: float) -> tuple[Tensor, Tensor]:
        """Return the focal loss of each class and its gradient on the logits, both [C, P].

        The values are those of `formulas.sigmoid_focal` before class weights and mean. First, each
        class is computed as a negative. Then the value at the label is replaced by that of a
        positive. Correcting the sum over classes instead would lose digits: on a confident pixel,
        the label's value as a negative is by far the largest.
        """
        band = self.band
        # A positive with logit x has the loss of a negative with logit -x.
        positive_logits = -band.at_label(band.logits)
        positive, grad_positive = _negative_focal(positive_logits, positive_logits.sigmoid(), gamma)
        value, grad_logits = _negative_focal(band.logits, self.p, gamma)
        value.mul_(1 - alpha).scatter_(0, band.labels, alpha * positive[None])
        grad_logits.mul_(1 - alpha).scatter_(0, band.labels, -alpha * grad_positive[None])
        return value, grad_logits


def _negative_focal(logits: Tensor, p: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return p^gamma * -log(1 - p) for p = sigmoid(logits), and its gradient on the logits.

    -log(1 - sigmoid(x)) is softplus(x).
    """
    softplus = F.softplus(logits)
    if not gamma:
        return softplus, p.clone()
    p_to_gamma = _power(logits - softplus, p, gamma)
    grad_logits = (1 - p).mul_(softplus).mul_(gamma).add_(p).mul_(p_to_gamma)
    return softplus.mul_(p_to_gamma), grad_logits


def _power(log_p: Tensor, p: Tensor, gamma: float) -> Tensor:
    """Return p^gamma.

    It uses the logarithm, because `pow` is slow, and because the slope of `pow` at 0 is infinite if
    gamma < 1.
    """
    if gamma in (1.0, 2.0):
        return p if gamma == 1 else p * p
    return torch.exp(gamma * log_p)


@dataclass
class DiceSums:
    """The sums of one sample that Dice needs, by class [C], in float64.

    In the symbols of `formulas.dice`: `overlap` is sum(p * y), `p_squared` is sum(p^2), and
    `num_labels` is sum(y^2), the number of pixels with this label.
    """

    overlap: Tensor
    p_squared: Tensor
    num_labels: Tensor

    @classmethod
    def zeros(cls, num_classes: int, device: torch.device) -> DiceSums:
        """Return sums of 0."""
        return cls(*torch.zeros(3, num_classes, dtype=torch.float64, device=device))

    def add(self, band: Band, p: Tensor) -> None:
        """Add the probabilities [C, P] of a band."""
        self.overlap += _sum_by_label(band, band.at_label(p) * band.valid)
        self.num_labels += _sum_by_label(band, band.valid)
        self.p_squared += p.square() @ band.valid

    def loss_and_gradients(self, per_class: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss [] of the sample, and its gradients [C] on `overlap` and `p_squared`.

        The loss is that of `formulas.dice`, or of `formulas.dice_per_class` if `per_class`, before
        the mean over samples.
        """
        overlap, p_squared, num_labels = self.overlap, self.p_squared, self.num_labels
        if not per_class:
            overlap = overlap.sum(0, keepdim=True)
            p_squared = p_squared.sum(0, keepdim=True)
            num_labels = num_labels.sum(0, keepdim=True)
        present = num_labels > 0
        share = present / present.sum().clamp(min=1)
        denominator = p_squared + num_labels + 2 * DICE_EPS
        loss = ((1 - 2 * overlap / denominator) * share).sum()
        grad_overlap = -2 / denominator * share
        grad_p_squared = 2 * overlap / denominator.square() * share
        return loss, grad_overlap.expand_as(self.overlap), grad_p_squared.expand_as(self.overlap)


def _sum_by_label(band: Band, values: Tensor) -> Tensor:
    """Return the sum [C] of `values` [P] over the pixels of each label."""
    sums = values.new_zeros(band.logits.shape[0])
    return sums.index_add_(0, band.labels[0], values)


def dice_gradient(band: Band, p: Tensor, grad_overlap: Tensor, grad_p_squared: Tensor) -> Tensor:
    """Return the gradient [C, P] of Dice on the logits of a band.

    `p` [C, P] are the band's probabilities. The gradients [C] are those on the sums of its sample.
    """
    grad_p = 2 * p * grad_p_squared[:, None]
    grad_p.scatter_add_(0, band.labels, grad_overlap[band.labels])
    return grad_p.mul_(p).mul_(1 - p).mul_(band.valid)


class BandedTerms:
    """One pass over a batch: the terms and, if wanted, the gradient of their weighted sum."""

    def __init__(
        self,
        logits: Tensor,
        target: Tensor,
        selected: Tensor,
        class_weights: Tensor,
        spec: LossSpec,
        wants_gradient: bool,
    ) -> None:
        """Shapes as in `BandedLoss`."""
        self.logits = logits
        self.target = target
        self.selected = selected
        self.class_weights = class_weights
        self.spec = spec
        self.wants_gradient = wants_gradient
        self.upsampler = RowUpsampler(logits, target.shape[-2:])
        # Sums over all bands, in float64: a float32 sum of that many pixels would lose digits.
        self.focal, self.ce, self.dice = torch.zeros(3, dtype=torch.float64, device=logits.device)
        self.num_selected = selected.sum().clamp(min=1).double()
        # Softmax focal is a mean over the selected pixels. Sigmoid focal is a mean over all pixels
        # and classes, ignored pixels included.
        self.focal_count = self.num_selected
        if not spec.softmax_focal:
            num_values = target.numel() * logits.shape[1]
            self.focal_count = torch.full_like(self.num_selected, num_values)

    def compute(self) -> tuple[Tensor, Tensor | None]:
        """Return the unweighted terms [3] (focal, Dice, cross-entropy) and the gradient.

        The gradient [N, C, h, w] on the logits is that of the weighted sum, or None if not wanted.
        """
        gradients: list[Tensor] = []
        for sample in range(len(self.logits)):
            full_width = self.upsampler.upsample_width(sample)
            full_width_grad = torch.zeros_like(full_width) if self.wants_gradient else None
            sums = DiceSums.zeros(self.logits.shape[1], self.logits.device)
            for band in self._bands(sample, full_width):
                if self.spec.needs_softmax:
                    self._add_softmax_terms(band, full_width_grad)
                if self.spec.needs_sigmoid:
                    self._add_sigmoid_terms(band, full_width_grad, sums)
            if self.spec.dice:
                self._add_dice(sample, full_width, full_width_grad, sums)
            if full_width_grad is not None:
                gradients.append(self.upsampler.width_backward(full_width_grad))
        focal = self.focal / self.focal_count
        dice = self.dice / len(self.logits)
        ce = self.ce / self.num_selected
        return torch.stack([focal, dice, ce]), torch.stack(gradients) if gradients else None

    def _bands(self, sample: int, full_width: Tensor) -> Iterator[Band]:
        return split_into_bands(
            self.upsampler, sample, full_width, self.target, self.selected, self.spec.ignore_index
        )

    def _add_softmax_terms(self, band: Band, full_width_grad: Tensor | None) -> None:
        """Add a band to softmax focal and cross-entropy, and to the gradient."""
        spec = self.spec
        softmax = SoftmaxBand(band)
        pixel_weights = band.selected * self.class_weights[band.labels[0]]
        has_focal = spec.focal and spec.softmax_focal
        if spec.ce:
            self.ce += softmax.nll @ pixel_weights
        if has_focal:
            self.focal += softmax.focal(spec.gamma) @ pixel_weights
        if full_width_grad is not None:
            grad_nll = spec.ce / self.num_selected
            if has_focal:
                focal_factor = spec.focal / self.focal_count
                grad_nll = grad_nll + focal_factor * softmax.focal_derivative(spec.gamma)
            gradient = softmax.gradient(grad_nll * pixel_weights)
            self.upsampler.add_rows_backward(full_width_grad, band.rows, gradient)

    def _add_sigmoid_terms(
        self, band: Band, full_width_grad: Tensor | None, sums: DiceSums
    ) -> None:
        """Add a band to sigmoid focal and its gradient, and to the sums of Dice."""
        spec = self.spec
        sigmoid = SigmoidBand(band)
        if spec.focal and not spec.softmax_focal:
            value, grad_logits = sigmoid.focal(spec.gamma, spec.alpha)
            self.focal += self.class_weights @ (value @ band.selected)
            if full_width_grad is not None:
                class_factor = spec.focal / self.focal_count * self.class_weights
                gradient = grad_logits.mul_(class_factor[:, None]).mul_(band.selected)
                self.upsampler.add_rows_backward(full_width_grad, band.rows, gradient)
        if spec.dice:
            sums.add(band, sigmoid.p)

    def _add_dice(
        self, sample: int, full_width: Tensor, full_width_grad: Tensor | None, sums: DiceSums
    ) -> None:
        """Add a sample to Dice and, in a second pass over its bands, to the gradient."""
        loss, grad_overlap, grad_p_squared = sums.loss_and_gradients(self.spec.dice_per_class)
        self.dice += loss
        if full_width_grad is None:
            return
        weight = self.spec.dice / len(self.logits)
        grad_overlap = (weight * grad_overlap).to(full_width)
        grad_p_squared = (weight * grad_p_squared).to(full_width)
        for band in self._bands(sample, full_width):
            gradient = dice_gradient(band, band.logits.sigmoid(), grad_overlap, grad_p_squared)
            self.upsampler.add_rows_backward(full_width_grad, band.rows, gradient)


class BandedLoss(torch.autograd.Function):
    """The weighted sum [] of the terms, and the unweighted terms [3]: focal, Dice, cross-entropy.

    Same value and gradient as the weighted sum of the formulas. Only that sum has a gradient. The
    forward pass computes it; the backward pass scales it.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        selected: Tensor,
        class_weights: Tensor,
        spec: LossSpec,
    ) -> tuple[Tensor, Tensor]:
        """Compute the terms and the gradient on the logits.

        Shapes: logits float [N, C, h, w]; target int64 and selected bool [N, H, W]; class_weights
        [C]. `selected` are the pixels that count in focal and cross-entropy; each has a label.
        """
        wants_gradient = ctx.needs_input_grad[0]
        banded = BandedTerms(logits, target, selected, class_weights, spec, wants_gradient)
        terms, gradient = banded.compute()
        ctx.save_for_backward(gradient)
        total = spec.focal * terms[0] + spec.dice * terms[1] + spec.ce * terms[2]
        terms = terms.to(logits)
        ctx.mark_non_differentiable(terms)
        return total.to(logits), terms

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_total: Tensor, _grad_terms: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient on the logits: that of the forward pass times `grad_total`."""
        return grad_total * ctx.saved_tensors[0], None, None, None, None
