"""Focal, Dice, cross-entropy and Tversky over bands of rows, with gradients in closed form.

The values and gradients are those of `formulas.py`, with less memory. The plain formulas keep a
dozen full-size copies for the backward pass: 500 MiB for two crops of 21 classes. This code adds
each band to a handful of sums and to the gradient on the logits, and then drops the band. The
gradient is all that the backward pass needs. Dice and Tversky compute each band a second time,
because their gradients depend on the sums of the whole sample. The terms of one band are in
`pixel_terms.py` and `region_terms.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segtune.losses.pixel_terms import SigmoidBand, SoftmaxBand
from segtune.losses.region_terms import (
    DiceSums,
    TverskySums,
    dice_gradient,
    tversky_gradient,
)
from segtune.losses.row_bands import Band, RowUpsampler, split_into_bands


@dataclass(frozen=True)
class LossSpec:
    """The weights of the terms (`focal`, `dice`, `ce`, `tversky`) and their parameters.

    A term with weight 0 is not computed.
    """

    focal: float
    dice: float
    ce: float
    tversky: float
    softmax_focal: bool  # the form of the focal term: `formulas.softmax_focal` or `sigmoid_focal`
    gamma: float
    alpha: float
    dice_per_class: bool
    label_smoothing: float
    tversky_alpha: float
    tversky_beta: float
    ignore_index: int

    @property
    def needs_softmax(self) -> bool:
        """Whether a term uses the softmax over classes in the first pass over a sample."""
        return bool(self.ce or (self.focal and self.softmax_focal))

    @property
    def needs_sigmoid(self) -> bool:
        """Whether a term uses the sigmoid of each class."""
        return bool(self.dice or (self.focal and not self.softmax_focal))

    @property
    def is_empty(self) -> bool:
        """Whether no term is computed."""
        return not (self.focal or self.dice or self.ce or self.tversky)


@dataclass(frozen=True)
class BandedLabels:
    """What a batch of N samples is compared with.

    - `target`: int64 [N, H, W];
    - `selected`: [N, H, W], which pixels count in focal and cross-entropy, bool, or their weights.
      Each has a label;
    - `shares`: [N], the weight of each sample in Dice and Tversky; None: 1. A mixed image counts as
      two samples with shares that add up to 1;
    - `num_images`: the sum of the shares.
    """

    target: Tensor
    selected: Tensor
    shares: Tensor | None
    num_images: int


class BandedTerms:
    """One pass over a batch: the terms and, if wanted, the gradient of their weighted sum."""

    def __init__(
        self,
        logits: Tensor,
        labels: BandedLabels,
        class_weights: Tensor,
        spec: LossSpec,
        wants_gradient: bool,
    ) -> None:
        """Shapes as in `BandedLoss`."""
        self.logits = logits
        self.labels = labels
        self.class_weights = class_weights
        self.spec = spec
        self.wants_gradient = wants_gradient
        self.upsampler = RowUpsampler(logits, labels.target.shape[-2:])
        # Sums over all bands, in float64: a float32 sum of that many pixels would lose digits.
        zeros = torch.zeros(4, dtype=torch.float64, device=logits.device)
        self.focal, self.ce, self.dice, self.tversky = zeros
        selected = labels.selected
        is_mask = selected.dtype == torch.bool
        num_selected = selected.sum() if is_mask else selected.sum(dtype=torch.float64)
        self.num_selected = num_selected.where(num_selected > 0, 1).double()
        # Softmax focal is a mean over the selected pixels. Sigmoid focal is a mean over all pixels
        # and classes, ignored pixels included.
        self.focal_count = self.num_selected
        if not spec.softmax_focal:
            num_values = labels.num_images * labels.target[0].numel() * logits.shape[1]
            self.focal_count = torch.full_like(self.num_selected, num_values)

    def compute(self) -> tuple[Tensor, Tensor | None]:
        """Return the unweighted terms [4] (focal, Dice, cross-entropy, Tversky) and the gradient.

        The gradient [N, C, h, w] on the logits is that of the weighted sum, or None if not wanted.
        """
        gradients: list[Tensor] = []
        for sample in range(len(self.logits)):
            full_width = self.upsampler.upsample_width(sample)
            full_width_grad = torch.zeros_like(full_width) if self.wants_gradient else None
            self._add_sample(sample, full_width, full_width_grad)
            if full_width_grad is not None:
                gradients.append(self.upsampler.width_backward(full_width_grad))
        focal = self.focal / self.focal_count
        dice = self.dice / self.labels.num_images
        ce = self.ce / self.num_selected
        tversky = self.tversky / self.labels.num_images
        terms = torch.stack([focal, dice, ce, tversky])
        return terms, torch.stack(gradients) if gradients else None

    def _add_sample(self, sample: int, full_width: Tensor, full_width_grad: Tensor | None) -> None:
        """Add a sample to the terms, and to its gradient [C, h, W]."""
        num_classes, device = self.logits.shape[1], self.logits.device
        dice_sums = DiceSums.zeros(num_classes, device)
        tversky_sums = TverskySums.zeros(num_classes, device) if self.spec.tversky else None
        for band in self._bands(sample, full_width):
            if self.spec.needs_softmax:
                self._add_softmax_terms(band, full_width_grad)
            if self.spec.needs_sigmoid:
                self._add_sigmoid_terms(band, full_width_grad, dice_sums)
            if tversky_sums:
                tversky_sums.add(band)
        if self.spec.dice:
            self._add_dice(sample, full_width, full_width_grad, dice_sums)
        if tversky_sums:
            self._add_tversky(sample, full_width, full_width_grad, tversky_sums)

    def _bands(self, sample: int, full_width: Tensor) -> Iterator[Band]:
        labels = self.labels
        return split_into_bands(
            self.upsampler,
            sample,
            full_width,
            labels.target,
            labels.selected,
            self.spec.ignore_index,
        )

    def _share(self, sample: int) -> Tensor | float:
        """Return the weight of a sample in Dice and Tversky."""
        return 1.0 if self.labels.shares is None else self.labels.shares[sample].double()

    def _add_softmax_terms(self, band: Band, full_width_grad: Tensor | None) -> None:
        """Add a band to softmax focal and cross-entropy, and to the gradient."""
        spec = self.spec
        softmax = SoftmaxBand(band)
        pixel_weights = band.selected * self.class_weights[band.labels[0]]
        has_focal = spec.focal and spec.softmax_focal
        has_smoothing = spec.ce and spec.label_smoothing
        hard_share = 1 - spec.label_smoothing
        if spec.ce:
            nll_sum = softmax.nll @ pixel_weights
            self.ce += hard_share * nll_sum if has_smoothing else nll_sum
        if has_smoothing:
            self._add_smoothing(band, softmax, full_width_grad)
        if has_focal:
            self.focal += softmax.focal(spec.gamma) @ pixel_weights
        if full_width_grad is not None:
            grad_nll = spec.ce * hard_share / self.num_selected
            if has_focal:
                focal_factor = spec.focal / self.focal_count
                grad_nll = grad_nll + focal_factor * softmax.focal_derivative(spec.gamma)
            gradient = softmax.gradient(grad_nll * pixel_weights)
            self.upsampler.add_rows_backward(full_width_grad, band.rows, gradient)

    def _add_smoothing(
        self, band: Band, softmax: SoftmaxBand, full_width_grad: Tensor | None
    ) -> None:
        """Add the part of cross-entropy that is spread over all classes, and its gradient."""
        share = self.spec.label_smoothing / self.logits.shape[1]
        self.ce += share * (softmax.of_all_classes(self.class_weights) @ band.selected)
        if full_width_grad is not None:
            factor = self.spec.ce * share / self.num_selected
            gradient = softmax.gradient_of_all_classes(self.class_weights)
            gradient.mul_(factor * band.selected)
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
        self.dice += loss * self._share(sample)
        if full_width_grad is None:
            return
        weight = self.spec.dice / self.labels.num_images * self._share(sample)
        grad_overlap = (weight * grad_overlap).to(full_width)
        grad_p_squared = (weight * grad_p_squared).to(full_width)
        for band in self._bands(sample, full_width):
            gradient = dice_gradient(band, band.logits.sigmoid(), grad_overlap, grad_p_squared)
            self.upsampler.add_rows_backward(full_width_grad, band.rows, gradient)

    def _add_tversky(
        self, sample: int, full_width: Tensor, full_width_grad: Tensor | None, sums: TverskySums
    ) -> None:
        """Add a sample to Tversky and, in a second pass over its bands, to the gradient."""
        spec = self.spec
        loss, grad_label, grad_others = sums.loss_and_gradients(
            spec.tversky_alpha, spec.tversky_beta
        )
        self.tversky += loss * self._share(sample)
        if full_width_grad is None:
            return
        weight = spec.tversky / self.labels.num_images * self._share(sample)
        grad_label = (weight * grad_label).to(full_width)
        grad_others = (weight * grad_others).to(full_width)
        for band in self._bands(sample, full_width):
            gradient = tversky_gradient(band, grad_label, grad_others)
            self.upsampler.add_rows_backward(full_width_grad, band.rows, gradient)


class BandedLoss(torch.autograd.Function):
    """The weighted sum [] of the terms, and the unweighted terms [4].

    These are focal, Dice, cross-entropy and Tversky. Same value and gradient as the weighted sum of
    the formulas. Only that sum has a gradient. The forward pass computes it; the backward pass
    scales it.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        logits: Tensor,
        labels: BandedLabels,
        class_weights: Tensor,
        spec: LossSpec,
    ) -> tuple[Tensor, Tensor]:
        """Compute the terms and the gradient on the logits.

        Shapes: logits float [N, C, h, w]; `labels` of the same N; class_weights [C].
        """
        wants_gradient = ctx.needs_input_grad[0]
        banded = BandedTerms(logits, labels, class_weights, spec, wants_gradient)
        terms, gradient = banded.compute()
        ctx.save_for_backward(gradient)
        total = spec.focal * terms[0] + spec.dice * terms[1] + spec.ce * terms[2]
        if spec.tversky:
            total = total + spec.tversky * terms[3]
        terms = terms.to(logits)
        ctx.mark_non_differentiable(terms)
        return total.to(logits), terms

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_total: Tensor, _grad_terms: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient on the logits: that of the forward pass times `grad_total`."""
        return grad_total * ctx.saved_tensors[0], None, None, None
