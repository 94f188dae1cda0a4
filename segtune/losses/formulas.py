"""The plain formula of every loss term: the definition that the fast code has to reproduce.

A training run does not use this file. It uses `banded.py`, which computes the same values and
gradients in far less memory. The formulas are for readers and for the tests, which compare the two
in float64. They are not stable in half precision, or if a probability rounds to 0 or 1.

Every loss takes the same inputs:
- `logits`: float [N, C, H, W], at the size of the labels (`upsample` brings smaller logits there);
- `target`: int64 [N, H, W], a label in 0..C-1 or `ignore_index`. Pixels with `ignore_index` are
  called ignored, all others valid;
- `class_weights`: float [C], default all 1.

Every loss returns a scalar []. Autograd gives its gradient. A batch without a valid pixel gives 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.config.data_config import IGNORE_INDEX

# V-Net's smoothing term. mmsegmentation adds it to each of the two sums of squares.
DICE_EPS = 1e-3
# Added to the numerator and the denominator of Tversky, as in mmsegmentation.
TVERSKY_SMOOTH = 1.0


def sigmoid_focal(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.5,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the focal loss of C binary classifiers, each for one class against the rest.

    For a pixel and a class c, with p = sigmoid(logit) and y = 1 if c is the pixel's label, else 0:

        p_t     = p      if y = 1, else 1 - p
        alpha_t = alpha  if y = 1, else 1 - alpha
        loss    = class_weights[c] * alpha_t * (1 - p_t)^gamma * -log(p_t)

    The result is the mean over all N * C * H * W values. Ignored pixels count in it as 0, as in
    mmsegmentation.
    Source: Lin et al. 2017 (Focal Loss for Dense Object Detection), equation 5.
    """
    labels, valid = one_hot(target, logits, ignore_index)
    p = logits.sigmoid()
    p_t = labels * p + (1 - labels) * (1 - p)
    alpha_t = labels * alpha + (1 - labels) * (1 - alpha)
    weights = _weights_or_ones(class_weights, logits).view(1, -1, 1, 1)
    losses = weights * alpha_t * (1 - p_t) ** gamma * -p_t.log()
    return (losses * valid).mean()


def softmax_focal(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the focal loss of one classifier over C classes.

    For a valid pixel with label c, and p = softmax(logits of the pixel)[c]:

        loss = class_weights[c] * (1 - p)^gamma * -log(p)

    The result is the mean over the valid pixels. It is not divided by the class weights.
    Source: Lin et al. 2017, equation 4, on softmax instead of sigmoid.
    """
    valid = target != ignore_index
    p = label_probability(logits, target, ignore_index)[valid]
    weights = _weights_or_ones(class_weights, logits)[target[valid]]
    losses = weights * (1 - p) ** gamma * -p.log()
    return losses.sum() / valid.sum().clamp(min=1)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the softmax cross-entropy: class_weights[c] * -log(p), as mean over the valid pixels.

    p and c are those of `softmax_focal`, which is cross-entropy for gamma = 0. Unlike PyTorch's
    `cross_entropy`, the mean is not divided by the class weights, so that a weight means the same
    in every batch. With label smoothing s, the loss of a pixel is

        (1 - s) * class_weights[c] * -log(p) + s / C * sum over all classes k of
        class_weights[k] * -log(softmax(logits of the pixel)[k])

    Source: Szegedy et al. 2016 (Rethinking the Inception Architecture), section 7.
    """
    hard = softmax_focal(logits, target, 0.0, class_weights, ignore_index)
    if not label_smoothing:
        return hard
    valid = target != ignore_index
    weights = _weights_or_ones(class_weights, logits).view(1, -1, 1, 1)
    sums = (weights * -logits.log_softmax(1)).sum(1)[valid]
    even = sums.sum() / valid.sum().clamp(min=1) / logits.shape[1]
    return (1 - label_smoothing) * hard + label_smoothing * even


def dice(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Return the soft Dice loss, with one Dice for all classes of a sample together.

    For one sample, with sums over its classes and its valid pixels, p = sigmoid(logits), y the
    one-hot labels:

        loss = 1 - 2 * sum(p * y) / (sum(p^2) + eps + sum(y^2) + eps),   eps = DICE_EPS

    The result is the mean over the N samples. A sample without a valid pixel counts in it as 0.
    Source: Milletari et al. 2016 (V-Net); sigmoid and eps as in mmsegmentation.
    """
    return _dice_losses(logits, target, (1, 2, 3), ignore_index)[0].mean()


def dice_per_class(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Return the soft Dice loss, with one Dice for each class of a sample.

    The formula is that of `dice`, with sums over the valid pixels of one sample and one class. The
    result is averaged over the classes that are present in the sample's labels, then over the N
    samples. A sample without a valid pixel counts as 0.
    Source: Milletari et al. 2016 (V-Net); the mean over present classes is ours.
    """
    losses, present = _dice_losses(logits, target, (2, 3), ignore_index)
    return (losses.sum(1) / present.sum(1).clamp(min=1)).mean()


def tversky(
    logits: Tensor,
    target: Tensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the Tversky loss, with one Tversky index for each class of a sample.

    For one sample and one class, with sums over the valid pixels, p = softmax(logits)[class], y = 1
    if the class is the pixel's label, else 0:

        TP = sum(p * y),  FP = sum(p * (1 - y)),  FN = sum((1 - p) * y)
        loss = 1 - (TP + 1) / (TP + alpha * FP + beta * FN + 1)

    The result is the mean over all C classes, also over absent ones, and over the N samples. A
    sample without a valid pixel counts as 0.
    Source: Salehi et al. 2017 (Tversky loss function for image segmentation using 3D fully
    convolutional deep networks); the 1 and the mean as in mmsegmentation.
    """
    labels, valid = one_hot(target, logits, ignore_index)
    p = logits.softmax(1)
    true_p = (p * labels).sum((2, 3))
    false_p = (p * (valid - labels)).sum((2, 3))
    false_n = ((1 - p) * labels).sum((2, 3))
    gain = true_p + TVERSKY_SMOOTH
    return (1 - gain / (gain + alpha * false_p + beta * false_n)).mean()


def lovasz_softmax(
    logits: Tensor, target: Tensor, per_image: bool = False, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return the Lovász-Softmax loss, a piecewise linear extension of 1 - IoU.

    For one class, a pixel's error is 1 - p if the class is its label, otherwise p, with
    p = softmax(logits)[class]. Let the errors of the valid pixels be sorted from the largest to the
    smallest, and let J(k) be 1 - IoU of a prediction that is wrong in the first k pixels and right
    in all others:

        loss = sum over k of error[k] * (J(k) - J(k - 1))

    The result is the mean over the classes that are present in the labels, for all pixels of the
    batch together, or with `per_image` for each sample, and then averaged over the N samples. A
    sample without a valid pixel counts as 0.
    Source: Berman et al. 2018 (The Lovász-Softmax loss), equations 8 to 11 and algorithm 1.
    """
    groups = [slice(n, n + 1) for n in range(len(logits))] if per_image else [slice(None)]
    losses = [_lovasz_of_group(logits[g], target[g], ignore_index) for g in groups]
    return torch.stack(losses).mean()


def _lovasz_of_group(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    valid = target != ignore_index
    p = logits.softmax(1).permute(0, 2, 3, 1)[valid]
    labels = target[valid]
    losses = [_lovasz_of_class(p[:, c], labels == c) for c in labels.unique().tolist()]
    return torch.stack(losses).mean() if losses else 0 * logits.sum()


def _lovasz_of_class(p: Tensor, is_label: Tensor) -> Tensor:
    errors, order = torch.where(is_label, 1 - p, p).sort(descending=True)
    y = is_label[order].to(p)
    jaccard = 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))
    return errors @ torch.diff(jaccard, prepend=jaccard.new_zeros(1))


def hardest_pixels(
    logits: Tensor, target: Tensor, keep: float, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return which pixels online hard example mining keeps, bool [N, H, W].

    Of the M valid pixels of a batch, it keeps the ceil(keep * M) pixels whose label has the lowest
    softmax probability, 0 < keep <= 1. Pixels that are as hard as the last one are kept, too. Focal
    and cross-entropy then treat all other pixels as ignored; Dice still uses every valid pixel.
    Source: Shrivastava et al. 2016 (Training Region-based Object Detectors with Online Hard Example
    Mining), applied to pixels instead of regions.
    """
    valid = target != ignore_index
    if not valid.any():
        return valid
    p = label_probability(logits, target, ignore_index)
    num_kept = math.ceil(keep * int(valid.sum()))
    return valid & (p <= p[valid].sort().values[num_kept - 1])


def upsample(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return logits [N, C, h, w] at `size` (H, W), upsampled bilinearly (align_corners=False)."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def one_hot(target: Tensor, logits: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the one-hot labels [N, C, H, W] and the valid pixels [N, 1, H, W].

    Both are 0 or 1, in the dtype of `logits`. The labels of an ignored pixel are 0 for every class.
    """
    valid = target != ignore_index
    labels = F.one_hot(target.where(valid, 0), logits.shape[1]).permute(0, 3, 1, 2)
    return (labels * valid[:, None]).to(logits), valid[:, None].to(logits)


def label_probability(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return the softmax probability [N, H, W] of each pixel's label.

    For an ignored pixel, it is the probability of class 0.
    """
    labels = target.where(target != ignore_index, 0)
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def _dice_losses(
    logits: Tensor, target: Tensor, dims: tuple[int, ...], ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the Dice losses with sums over `dims` of [N, C, H, W], and which are present (bool).

    A loss is present if a pixel in its sums has a label; otherwise it is 0. Both results have the
    shape that the sums leave.
    """
    labels, valid = one_hot(target, logits, ignore_index)
    p = logits.sigmoid() * valid
    overlap = (p * labels).sum(dims)
    sums_of_squares = (p**2).sum(dims) + DICE_EPS + (labels**2).sum(dims) + DICE_EPS
    present = labels.sum(dims) > 0
    return (1 - 2 * overlap / sums_of_squares) * present, present


def _weights_or_ones(class_weights: Tensor | None, logits: Tensor) -> Tensor:
    return logits.new_ones(logits.shape[1]) if class_weights is None else class_weights.to(logits)
