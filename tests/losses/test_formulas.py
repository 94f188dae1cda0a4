"""The formulas of the losses, against numbers computed by hand on masks of 2 x 2 pixels."""

from collections.abc import Callable
from functools import partial
from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.losses import formulas

IGNORE = 255
EPS = 1e-3
LOG3 = log(3.0)  # as a logit: sigmoid is 3/4, and softmax against one logit of 0 is 3/4

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid focal": formulas.sigmoid_focal,
    "softmax focal": formulas.softmax_focal,
    "cross-entropy": formulas.cross_entropy,
    "dice": formulas.dice,
    "dice per class": formulas.dice_per_class,
    "tversky": formulas.tversky,
    "lovasz": formulas.lovasz_softmax,
    "lovasz per image": partial(formulas.lovasz_softmax, per_image=True),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


def mask(*rows: list[int]) -> Tensor:
    """Return the labels [1, H, W] of a sample, from its rows."""
    return torch.tensor([rows])


def same_logits(*classes: float, size: tuple[int, int] = (2, 2)) -> Tensor:
    """Return logits [1, C, H, W] that are the same in every pixel."""
    logits = torch.tensor(classes, dtype=torch.float64)
    return logits.view(1, -1, 1, 1).expand(1, -1, *size).clone()


def test_sigmoid_focal_weighs_positives_and_negatives() -> None:
    logits = same_logits(LOG3, LOG3)
    positive = 0.2 * (1 / 4) ** 2 * log(4 / 3)  # label: p_t = 3/4
    negative = 0.8 * (3 / 4) ** 2 * log(4)  # other class: p_t = 1/4
    loss = formulas.sigmoid_focal(logits, mask([0, 0], [1, 1]), gamma=2.0, alpha=0.2)
    assert loss.item() == pytest.approx((positive + negative) / 2)


def test_sigmoid_focal_is_a_mean_over_ignored_pixels_too() -> None:
    loss = formulas.sigmoid_focal(same_logits(0.0, 0.0), mask([0, 1], [1, IGNORE]), gamma=2.0)
    value = 0.5 * (1 / 2) ** 2 * log(2)
    assert loss.item() == pytest.approx(value * 6 / 8)  # 3 of 4 pixels, 2 classes


def test_sigmoid_focal_weighs_the_column_of_a_class() -> None:
    weights = torch.tensor([2.0, 0.0])
    loss = formulas.sigmoid_focal(
        same_logits(LOG3, LOG3), mask([0, 0], [1, 1]), gamma=0.0, class_weights=weights
    )
    first_column = (0.5 * log(4 / 3) + 0.5 * log(4)) / 2  # half of its pixels are positives
    assert loss.item() == pytest.approx(2.0 * first_column / 2)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_softmax_focal_is_a_mean_over_valid_pixels(gamma: float) -> None:
    loss = formulas.softmax_focal(same_logits(LOG3, 0.0), mask([0, 1], [IGNORE, IGNORE]), gamma)
    easy, hard = (1 / 4) ** gamma * log(4 / 3), (3 / 4) ** gamma * log(4)
    assert loss.item() == pytest.approx((easy + hard) / 2)


def test_class_weights_do_not_change_what_the_mean_is_divided_by() -> None:
    loss = formulas.cross_entropy(
        same_logits(LOG3, 0.0), mask([0, 1], [1, 1]), class_weights=torch.tensor([3.0, 0.0])
    )
    assert loss.item() == pytest.approx(3.0 * log(4 / 3) / 4)


def test_cross_entropy_is_that_of_pytorch(batch: tuple[Tensor, Tensor]) -> None:
    loss = formulas.cross_entropy(*batch)
    assert loss.item() == pytest.approx(F.cross_entropy(*batch, ignore_index=IGNORE).item())


def test_dice_sums_over_all_classes_and_valid_pixels() -> None:
    loss = formulas.dice(same_logits(0.0, 0.0, 0.0), mask([0, 0], [1, IGNORE]))
    overlap, p_squared, y_squared = 3 / 2, 9 / 4, 3
    assert loss.item() == pytest.approx(1 - 2 * overlap / (p_squared + y_squared + 2 * EPS))


def test_dice_per_class_leaves_out_classes_without_a_pixel() -> None:
    loss = formulas.dice_per_class(same_logits(0.0, 0.0, 0.0), mask([0, 0], [1, IGNORE]))
    first = 1 - 2 * 1 / (3 / 4 + 2 + 2 * EPS)
    second = 1 - 2 * (1 / 2) / (3 / 4 + 1 + 2 * EPS)
    assert loss.item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("class_weights", [None, torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0])])
def test_label_smoothing_is_that_of_pytorch(
    batch: tuple[Tensor, Tensor], smoothing: float, class_weights: Tensor | None
) -> None:
    weights = None if class_weights is None else class_weights.double()
    loss = formulas.cross_entropy(*batch, class_weights=weights, label_smoothing=smoothing)
    expected = F.cross_entropy(
        *batch,
        weight=weights,
        label_smoothing=smoothing,
        ignore_index=IGNORE,
        reduction="sum",
    )
    assert loss.item() == pytest.approx(expected.item() / (batch[1] != IGNORE).sum().item())


def test_tversky_weighs_false_positives_and_false_negatives() -> None:
    # p is 3/4 for class 0 and 1/4 for class 1, in each of two pixels of class 0 and one of class 1
    loss = formulas.tversky(same_logits(LOG3, 0.0), mask([0, 0], [1, IGNORE]), alpha=0.2, beta=0.6)
    first = (6 / 4 + 1) / (6 / 4 + 0.2 * 3 / 4 + 0.6 * 2 / 4 + 1)
    second = (1 / 4 + 1) / (1 / 4 + 0.2 * 2 / 4 + 0.6 * 3 / 4 + 1)
    assert loss.item() == pytest.approx(1 - (first + second) / 2)


def test_lovasz_of_a_hard_prediction_is_1_minus_iou() -> None:
    # Predicted: 0 in the first column, 1 in the second one.
    row = torch.tensor([[99.0, -99.0]]).double()
    logits = torch.stack([row.expand(2, 2), -row.expand(2, 2)])[None]
    loss = formulas.lovasz_softmax(logits, mask([0, 1], [0, 0]))
    assert loss.item() == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)


def test_lovasz_per_image_is_a_mean_over_samples_and_counts_an_ignored_one_as_0() -> None:
    logits, target = same_logits(0.0, 0.3), mask([0, 0], [1, IGNORE])
    both = formulas.lovasz_softmax(
        logits.repeat(2, 1, 1, 1),
        torch.cat([target, torch.full_like(target, IGNORE)]),
        per_image=True,
    )
    alone = formulas.lovasz_softmax(logits, target)
    assert both.item() == pytest.approx(alone.item() / 2)


@pytest.mark.parametrize("loss", [formulas.dice, formulas.dice_per_class])
def test_dice_is_a_mean_over_samples_and_counts_an_ignored_one_as_0(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    logits, target = same_logits(0.0, 0.0), mask([0, 0], [1, IGNORE])
    both = loss(logits.repeat(2, 1, 1, 1), torch.cat([target, torch.full_like(target, IGNORE)]))
    assert both.item() == pytest.approx(loss(logits, target).item() / 2)


@every_loss
def test_perfect_prediction_has_almost_no_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    target = mask([0, 1], [1, IGNORE])
    sign = torch.where(target == 0, 1.0, -1.0).double()
    logits = torch.stack([20 * sign, -20 * sign], dim=1)
    assert 0 <= loss(logits, target).item() < 2 * EPS


@every_loss
def test_ignored_pixels_change_nothing_and_get_no_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], batch: tuple[Tensor, Tensor]
) -> None:
    logits, target = batch
    changed = logits.where((target != IGNORE)[:, None], 5.0).requires_grad_()
    value = loss(changed, target)
    value.backward()
    assert value.item() == pytest.approx(loss(logits, target).item(), rel=1e-12)
    assert changed.grad is not None
    assert changed.grad[0, :, :2].abs().max() == 0


@every_loss
def test_batch_without_a_valid_pixel_gives_0(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = same_logits(1.0, -1.0).requires_grad_()
    value = loss(logits, torch.full((1, 2, 2), IGNORE))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def probabilities(*rows: list[float]) -> Tensor:
    """Return logits [1, 2, H, W] for which the softmax probability of class 0 is `rows`."""
    p = torch.tensor([rows], dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], dim=1)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (0.25, [[False, True], [False, False]]),
        (0.5, [[False, True], [True, False]]),
        (0.51, [[False, True], [True, True]]),
        (1.0, [[True, True], [True, True]]),
    ],
)
def test_hardest_pixels_have_the_lowest_probability_of_their_label(
    keep: float, kept: list[list[bool]]
) -> None:
    logits = probabilities([0.9, 0.1], [0.2, 0.6])
    hardest = formulas.hardest_pixels(logits, mask([0, 0], [0, 0]), keep)
    assert hardest.tolist() == [kept]


def test_hardest_pixels_are_a_share_of_the_valid_pixels_and_ties_are_kept() -> None:
    logits = probabilities([0.2, 0.1], [0.2, 0.9])
    hardest = partial(formulas.hardest_pixels, logits, mask([0, IGNORE], [0, 0]))
    assert hardest(0.3).tolist() == [[[True, False], [True, False]]]
    assert hardest(1.0).tolist() == [[[True, False], [True, True]]]


def test_no_pixel_is_hard_if_none_is_valid() -> None:
    hardest = formulas.hardest_pixels(same_logits(0.0, 0.0), torch.full((1, 2, 2), IGNORE), 0.5)
    assert not hardest.any()
