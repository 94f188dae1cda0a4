"""Loss terms of a band of rows in which a pixel's loss depends on this pixel only.

These are softmax focal, cross-entropy and sigmoid focal, with their gradients in closed form.

Names: `p` is a probability, `nll` is -log(p) of a pixel's label, and `grad_x` is the derivative of
the loss with respect to `x`. C is the number of classes, P the number of pixels in a band.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.losses.row_bands import Band


class SoftmaxBand:
    """The softmax of a band, for `formulas.softmax_focal` and `formulas.cross_entropy`.

    It stays exact if the probability of the label rounds to 1 or to 0.
    """

    def __init__(self, band: Band) -> None:
        self.labels = band.labels
        self.logits = band.logits
        self.top = top = band.logits.amax(0)
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

    def of_all_classes(self, class_weights: Tensor) -> Tensor:
        """Return the sum [P] of class_weights[c] * -log(p of class c), for label smoothing."""
        logits = self.logits - self.top
        return class_weights.sum() * self.total_exp.log() - class_weights @ logits

    def gradient_of_all_classes(self, class_weights: Tensor) -> Tensor:
        """Return the gradient [C, P] of `of_all_classes` on the logits. Call before `gradient`."""
        p = (self.other_exps / self.total_exp).scatter_(0, self.labels, (1 - self.p_others)[None])
        return p.mul_(class_weights.sum()).sub_(class_weights[:, None])

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
