"""Loss terms of a sample that depend on sums over its pixels, with gradients in closed form.

A first pass over the bands of a sample adds up the sums. A second pass computes the gradient of
each pixel from them. Names are those of `pixel_terms.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segtune.losses.formulas import DICE_EPS, TVERSKY_SMOOTH
from segtune.losses.row_bands import Band
from segtune.losses.softmax import Softmax


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


@dataclass
class TverskySums:
    """The sums of one sample that Tversky needs, by class [C], in float64.

    `true_p` is the sum of p over the pixels of the class, `false_n` that of 1 - p, and `false_p`
    the sum of p over all other pixels.
    """

    true_p: Tensor
    false_p: Tensor
    false_n: Tensor

    @classmethod
    def zeros(cls, num_classes: int, device: torch.device) -> TverskySums:
        """Return sums of 0."""
        return cls(*torch.zeros(3, num_classes, dtype=torch.float64, device=device))

    def add(self, band: Band) -> None:
        """Add a band."""
        softmax = Softmax(band.logits)
        self.true_p += _sum_by_label(band, band.at_label(softmax.p) * band.valid)
        self.false_n += _sum_by_label(band, softmax.missing(band.labels) * band.valid)
        # Summed without the label: a difference of two sums would lose digits.
        self.false_p += softmax.p.scatter(0, band.labels, 0.0) @ band.valid

    def loss_and_gradients(self, alpha: float, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss [] of the sample, and its gradients [C] on p.

        The first gradient is for pixels of the class, the second one for all others.
        """
        cost = alpha * self.false_p + beta * self.false_n
        gain = self.true_p + TVERSKY_SMOOTH
        squares = (gain + cost).square() * len(cost)
        loss = (cost / (gain + cost)).mean()
        return loss, -(cost + beta * gain) / squares, alpha * gain / squares


def tversky_gradient(band: Band, grad_label: Tensor, grad_others: Tensor) -> Tensor:
    """Return the gradient [C, P] of Tversky on the logits of a band.

    The gradients [C] on p are those of `TverskySums.loss_and_gradients`.
    """
    grad_p = grad_others[:, None].expand_as(band.logits).clone()
    grad_p.scatter_(0, band.labels, grad_label[band.labels])
    return Softmax(band.logits).gradient(grad_p).mul_(band.valid)
