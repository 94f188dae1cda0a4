"""The weighted sum of a config: its terms, its precision, hard example mining, class weights."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from segtune.config.loss_config import LossConfig
from segtune.errors import ConfigError
from segtune.losses import formulas
from segtune.losses.segmentation import SegmentationLoss, build_loss

NUM_CLASSES = 5
IGNORE = 255

Batch = tuple[Tensor, Tensor]


def loss_of(ignore_index: int = IGNORE, /, **sections: object) -> SegmentationLoss:
    """Return the loss of these sections of `loss:`; a term without a section has weight 0."""
    no_terms = {name: {"weight": 0.0} for name in ("focal", "dice", "ce")}
    return build_loss(LossConfig.parse(no_terms | sections), NUM_CLASSES, ignore_index)


def dice_and_ce(ignore_index: int = IGNORE) -> SegmentationLoss:
    return loss_of(ignore_index, dice={"weight": 1.0}, ce={"weight": 1.0})


def softmax_term(name: Literal["focal", "ce"], **sections: object) -> SegmentationLoss:
    """Return the loss with cross-entropy or softmax focal as its only term."""
    term = {"weight": 1.0, "form": "softmax"} if name == "focal" else {"weight": 1.0}
    return loss_of(IGNORE, **{name: term}, **sections)


def test_the_sum_is_weighted_and_the_terms_are_not(batch: Batch) -> None:
    logits, target = batch
    terms = loss_of(focal={"weight": 3.0}, dice={"weight": 0.5})(logits.float(), target)
    assert set(terms) == {"total", "focal", "dice"}
    focal, dice = terms["focal"].item(), terms["dice"].item()
    assert terms["total"].item() == pytest.approx(3 * focal + 0.5 * dice)
    assert focal == pytest.approx(formulas.sigmoid_focal(logits, target).item(), rel=1e-5)
    assert dice == pytest.approx(formulas.dice(logits, target).item(), rel=1e-5)


def test_only_the_total_has_a_gradient_and_values_do_not_depend_on_it(batch: Batch) -> None:
    logits, target = batch
    loss = dice_and_ce()
    with_gradient = loss(logits.float().requires_grad_(), target)
    assert [name for name, value in with_gradient.items() if value.requires_grad] == ["total"]
    with torch.no_grad():
        assert loss(logits.float().requires_grad_(), target) == with_gradient
    assert loss(logits.float(), target) == with_gradient


def test_small_logits_are_upsampled_to_the_labels(batch: Batch) -> None:
    logits, target = batch
    small = logits[..., :3, :4].float()
    large = formulas.upsample(small, target.shape[-2:])
    loss = build_loss(LossConfig(), NUM_CLASSES)
    expected = loss(large, target)["total"].item()
    assert loss(small, target)["total"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 6, 7), (1, 5, 6, 7), (2, 5, 6)])
def test_logits_of_other_classes_or_samples_are_refused(
    batch: Batch, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="do not fit 5 classes"):
        build_loss(LossConfig(), NUM_CLASSES)(torch.zeros(shape), batch[1])


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(batch: Batch, form: str, dtype: torch.dtype) -> None:
    logits, target = batch
    half = logits.to(dtype)
    loss = loss_of(focal={"weight": 1.0, "form": form}, dice={"weight": 1.0}, ce={"weight": 1.0})
    with torch.autocast("cpu", dtype=dtype):
        terms = loss(half, target)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert terms == loss(half.float(), target)


def test_another_ignore_index_is_obeyed(batch: Batch) -> None:
    logits, target = batch[0].float(), batch[1]
    moved = target.where(target != IGNORE, -100)
    assert dice_and_ce(ignore_index=-100)(logits, moved) == dice_and_ce()(logits, target)


def test_a_sample_without_a_valid_pixel_leaves_the_others_finite(batch: Batch) -> None:
    logits, target = batch
    target[0] = IGNORE
    logits32 = logits.float().requires_grad_()
    terms = dice_and_ce()(logits32, target)
    terms["total"].backward()
    assert logits32.grad is not None
    assert logits32.grad[0].abs().max() == 0
    assert logits32.grad[1].abs().max() > 0
    second = formulas.dice(logits[1:], target[1:]).item()
    assert terms["dice"].item() == pytest.approx(second / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["focal", "ce"])
@pytest.mark.usefixtures("rows_per_band")
def test_mining_makes_all_but_the_hardest_pixels_ignored(
    batch: Batch, name: Literal["focal", "ce"]
) -> None:
    logits, target = batch
    hardest = formulas.hardest_pixels(logits, target, 0.3)
    assert hardest.sum() == 21  # of 70 valid pixels
    mined = softmax_term(name, ohem={"keep": 0.3})(logits, target)["total"].item()
    expected = softmax_term(name)(logits, target.where(hardest, IGNORE))["total"].item()
    assert mined == pytest.approx(expected)
    assert mined > softmax_term(name)(logits, target)["total"].item()


def test_mining_without_a_valid_pixel_gives_0(batch: Batch) -> None:
    logits = batch[0].float().requires_grad_()
    loss = softmax_term("ce", ohem={"keep": 0.3})
    total = loss(logits, torch.full_like(batch[1], IGNORE))["total"]
    total.backward()
    assert total == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_dice_uses_all_pixels_under_mining(batch: Batch) -> None:
    mined = loss_of(dice={"weight": 1.0}, ohem={"keep": 0.1})
    assert mined(*batch) == loss_of(dice={"weight": 1.0})(*batch)


def test_every_class_needs_its_weight() -> None:
    with pytest.raises(ConfigError, match=r"loss\.class_weights: 2 values for 5 classes"):
        softmax_term("ce", class_weights=(1.0, 2.0))
