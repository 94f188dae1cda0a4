"""Focal, Dice and cross-entropy over bands of rows, with their gradients in closed form.

The values and gradients are those of `formulas.py`, with less memory. The plain formulas keep a
dozen full-size copies for the backward pass: 500 MiB for two crops of 21 classes. This code adds
each band to a handful of sums and to the gradient on the logits, and then drops the band. The
gradient is all that the backward pass needs. Dice computes each band a second time, because its
gradient depends on the sums of the whole sample. The terms of one band are in `pixel_terms.py` and
`region_terms.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segtune.losses.pixel_terms import SigmoidBand, SoftmaxBand
from segtune.losses.region_terms import DiceSums, dice_gradient
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
