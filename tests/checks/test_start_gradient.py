"""The closed forms against the gradients of losses/formulas.py."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segtune.checks.start_gradient import (
    FIRST_LOSS_SCALE,
    dice_factor,
    easy_gradient_fp16,
    sigmoid_focal_factor,
)
from segtune.losses import formulas


def gradient_norm(
    loss: Callable[[Tensor, Tensor], Tensor], num_classes: int, spread: float
) -> float:
    generator = torch.Generator().manual_seed(0)
    shape = (2, num_classes, 48, 48)
    logits = spread * torch.randn(shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(num_classes, (2, 48, 48), generator=generator)
    logits.requires_grad_()
    loss(logits, labels).backward()
    assert logits.grad is not None
    return float(logits.grad.norm())


def test_a_pixel_has_the_factors_of_the_issue_at_21_and_150_classes() -> None:
    assert sigmoid_focal_factor(21, 2.0) == pytest.approx(0.042, abs=5e-4)
    assert sigmoid_focal_factor(150, 2.0) == pytest.approx(0.016, abs=6e-4)


@pytest.mark.parametrize("num_classes", [7, 21, 150])
@pytest.mark.parametrize(("gamma", "alpha"), [(0.5, 0.5), (2.0, 0.5), (3.0, 0.25)])
def test_the_focal_factor_is_that_of_the_formula(
    num_classes: int, gamma: float, alpha: float
) -> None:
    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        return formulas.sigmoid_focal(logits, labels, gamma, alpha)

    measured = gradient_norm(focal, num_classes, 0.5)
    measured /= gradient_norm(formulas.cross_entropy, num_classes, 0.5)
    assert sigmoid_focal_factor(num_classes, gamma, alpha) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("num_classes", [2, 21, 150])
def test_the_dice_factor_is_that_of_the_formula_at_equal_probabilities(num_classes: int) -> None:
    measured = gradient_norm(formulas.dice, num_classes, 0.0)
    measured /= gradient_norm(formulas.cross_entropy, num_classes, 0.0)
    assert dice_factor(num_classes) == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 4.0])
def test_the_gradient_of_an_easy_pixel_is_that_of_the_formula(gamma: float) -> None:
    # One pixel of 3 classes; its label's logit has a probability of 0.99.
    logits = torch.full((1, 3, 1, 1), math.log(99), dtype=torch.float64, requires_grad=True)
    formulas.sigmoid_focal(logits, torch.zeros(1, 1, 1, dtype=torch.int64), gamma).backward()
    assert logits.grad is not None
    of_label = float(logits.grad[0, 0, 0, 0].abs()) * FIRST_LOSS_SCALE
    assert easy_gradient_fp16(3, gamma, 1, softmax=False) == pytest.approx(of_label)
