"""How strong the gradient of a loss is at the start, relative to softmax cross-entropy.

Closed forms of losses/formulas.py for logits that are nearly 0, without torch: a search computes
them before it starts anything. Each factor is the norm of a pixel's gradient over all classes,
divided by that of cross-entropy.
"""

from __future__ import annotations

import math

import numpy as np

# Standard deviation of the logits of an untrained head. Factors for any value up to 0.5 differ by
# less than a third.
SPREAD = 0.5
# The smallest number above 0 in half precision, and the scale at which torch's GradScaler begins.
SMALLEST_FP16 = 2.0**-24
FIRST_LOSS_SCALE = 2.0**16


def sigmoid_focal_factor(
    num_classes: int, gamma: float, alpha: float = 0.5, spread: float = SPREAD
) -> float:
    """Return the factor of sigmoid focal loss, whose mean is over pixels and classes.

    With p_t = sigmoid(x), a pixel's loss for a class is -a (1 - p_t)^gamma log(p_t), and its
    derivative is -a (1 - p_t)^gamma (1 - p_t - gamma p_t log p_t); x is the logit of the label's
    class, and minus the logit of any other. The logits are normal with mean 0 and deviation
    `spread`. Source: Lin et al. 2017, equation 5.
    """
    positive = alpha**2 * _mean_square(gamma, spread)
    negative = (1 - alpha) ** 2 * _mean_square(gamma, spread)
    norm = math.sqrt(positive + (num_classes - 1) * negative) / num_classes
    return norm / cross_entropy_norm(num_classes, spread)


def cross_entropy_norm(num_classes: int, spread: float = SPREAD) -> float:
    """Return the root mean square norm of a pixel's gradient p - y of softmax cross-entropy.

    The sum of the classes' exp(logit) is taken as constant, which it nearly is.
    """
    other = math.exp(spread**2) / num_classes**2
    return math.sqrt(1 - 2 / num_classes + num_classes * other)


def dice_factor(num_classes: int) -> float:
    """Return the factor of Dice loss over all classes of a sample together, at logits of 0.

    With M pixels and p = 1/2, the loss is 1 - A / B with A = 2 sum(p y) = M and
    B = sum(p^2) + sum(y^2) = M (C / 4 + 1). Its derivative by p is (2 A p - 2 B y) / B^2, and that
    of p by the logit is 1/4. The mean over classes (`per_class`) differs by less than 5 % if all
    classes cover the same area. Source: Milletari et al. 2016.
    """
    b = num_classes / 4 + 1
    of_label, of_others = 2 * b - 1, 1.0
    norm = 0.25 / b**2 * math.sqrt(of_label**2 + (num_classes - 1) * of_others)
    return norm / cross_entropy_norm(num_classes, 0.0)


def easy_gradient_fp16(num_classes: int, gamma: float, num_logits: int, *, softmax: bool) -> float:
    """Return the scaled gradient on one logit of a pixel that is right with probability 0.99.

    `num_logits` are the pixels of the logits of a micro-batch, over which the loss is a mean. The
    gradient is multiplied by FIRST_LOSS_SCALE; below SMALLEST_FP16, half precision stores 0. The
    derivative is that of `sigmoid_focal_factor` with alpha 1/2, without 1 / C for softmax.
    """
    share = 1 / num_logits if softmax else 0.5 / num_classes / num_logits
    return FIRST_LOSS_SCALE * share * _slope(0.99, gamma)


def _mean_square(gamma: float, spread: float) -> float:
    """Return the mean of the squared derivative of -(1 - p)^gamma log(p) over normal logits."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    squares = [_slope(1 / (1 + math.exp(-spread * node)), gamma) ** 2 for node in nodes]
    return float(np.dot(weights, squares) / weights.sum())


def _slope(p: float, gamma: float) -> float:
    """Return minus the derivative of -(1 - p)^gamma log(p) by the logit, with p = sigmoid."""
    return (1 - p) ** gamma * (1 - p - gamma * p * math.log(p))
