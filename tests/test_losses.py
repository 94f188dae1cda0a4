"""Laws of the losses: the stated formulas to 1e-5, ignored pixels nowhere, finite at every corner."""

import pytest
import torch

from segtune.config import LossConfig
from segtune.losses import build_loss, cross_entropy, dice, sigmoid_focal, softmax_focal

C, IGNORE = 5, 255


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, C, 6, 7, generator=generator, dtype=torch.float64) * 3
    target = torch.randint(0, C, (2, 6, 7), generator=generator)
    target[0, :2] = IGNORE
    return logits, target


def one_hot(target):
    valid = (target != IGNORE)[:, None].double()
    return torch.nn.functional.one_hot(target.where(target != IGNORE, 0), C).permute(0, 3, 1, 2).double() * valid, valid


def reference_sigmoid_focal(logits, target, gamma, alpha):
    y, valid = one_hot(target)
    p = logits.sigmoid()
    pt = y * p + (1 - y) * (1 - p)
    weight = (alpha * y + (1 - alpha) * (1 - y)) * (1 - pt) ** gamma
    return (weight * -pt.log() * valid).sum() / logits.numel()


def reference_softmax_focal(logits, target, gamma):
    y, valid = one_hot(target)
    pt = (logits.softmax(1) * y).sum(1, keepdim=True) + (1 - valid)
    return (valid * (1 - pt) ** gamma * -pt.log()).sum() / valid.sum()


def reference_dice(logits, target):
    y, valid = one_hot(target)
    p = logits.sigmoid() * valid
    losses = [1 - 2 * (p[n] * y[n]).sum() / ((p[n] ** 2).sum() + 1e-3 + (y[n] ** 2).sum() + 1e-3) for n in range(len(p))]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("own", [-12.0, 12.0])
def test_focal_keeps_its_digits_on_confident_pixels(own):
    logits = torch.full((1, C, 2, 2), -8.0, dtype=torch.float64)
    logits[:, 1] = own
    target = torch.ones(1, 2, 2, dtype=torch.int64)
    expected = reference_sigmoid_focal(logits, target, 2.0, 0.25).item()
    assert sigmoid_focal(logits.float(), target, 2.0, 0.25).item() == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7, 8.0])
def test_focal_equals_its_formula(batch, gamma):
    logits, target = batch
    ours = sigmoid_focal(logits.float(), target, gamma, 0.25)
    assert ours.item() == pytest.approx(reference_sigmoid_focal(logits, target, gamma, 0.25).item(), rel=1e-5)
    ours = softmax_focal(logits.float(), target, gamma)
    assert ours.item() == pytest.approx(reference_softmax_focal(logits, target, gamma).item(), rel=1e-5)


def test_dice_and_cross_entropy_equal_their_formulas(batch):
    logits, target = batch
    assert dice(logits.float(), target).item() == pytest.approx(reference_dice(logits, target).item(), rel=1e-5)
    expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE)
    assert cross_entropy(logits.float(), target).item() == pytest.approx(expected.item(), rel=1e-5)


def test_dice_of_one_pixel_is_the_number_by_hand():
    logits = torch.full((1, C, 1, 1), -40.0)
    logits[0, 2] = 0.0  # probability 1/2 for the label, 0 for the rest
    expected = 1 - 2 * 0.5 / (0.25 + 1e-3 + 1 + 1e-3)
    assert dice(logits, torch.full((1, 1, 1), 2)).item() == pytest.approx(expected, rel=1e-5)


def losses():
    return {
        "sigmoid": lambda x, t: sigmoid_focal(x, t, 1.3, 0.3),
        "softmax": lambda x, t: softmax_focal(x, t, 1.3),
        "dice": dice,
        "ce": cross_entropy,
    }


@pytest.mark.parametrize("name", list(losses()))
def test_gradients_are_those_of_the_values(batch, name):
    logits, target = batch
    assert torch.autograd.gradcheck(lambda x: losses()[name](x, target[:1, :3, :3]), logits[:1, :, :3, :3].clone().requires_grad_())


@pytest.mark.parametrize("name", list(losses()))
def test_ignored_pixels_have_no_say_and_get_no_gradient(batch, name):
    logits, target = batch
    x = logits.float().requires_grad_()
    value = losses()[name](x, target)
    value.backward()
    assert x.grad is not None
    assert x.grad[0, :, :2].abs().max() == 0
    other = logits.float().clone()
    other[0, :, :2] = 100.0
    assert losses()[name](other, target).item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("scale", [40.0, -40.0, 0.0])
@pytest.mark.parametrize("ignored", [False, True])
def test_values_and_gradients_are_finite_at_every_corner(form, gamma, scale, ignored):
    config = LossConfig.parse({"focal": {"gamma": gamma, "form": form}, "dice": {"weight": 1.0}, "ce": {"weight": 1.0}})
    logits = torch.zeros(1, C, 4, 4)
    logits[:, 1] = scale
    logits[:, :, 2:] = scale * (-1.0) ** torch.arange(C)[:, None, None]  # half of the pixels: saturated in every class
    logits.requires_grad_()
    target = torch.full((1, 4, 4), IGNORE if ignored else 1)
    if not ignored:
        target[:, :, 2:] = 0
    terms = build_loss(config, C)(logits, target)
    terms["total"].backward()
    assert all(torch.isfinite(v) for v in terms.values())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    if ignored:
        assert terms["total"] == 0
        assert logits.grad.abs().max() == 0


def test_sum_is_weighted_and_terms_are_not(batch):
    logits, target = batch
    config = LossConfig.parse({"focal": {"weight": 3.0}, "dice": {"weight": 0.5}, "ce": {"weight": 0.0}})
    terms = build_loss(config, C)(logits.float(), target)
    assert set(terms) == {"total", "focal", "dice"}
    assert terms["total"].item() == pytest.approx(3 * terms["focal"].item() + 0.5 * terms["dice"].item())
    assert terms["dice"].item() == pytest.approx(dice(logits.float(), target).item())


def test_small_logits_are_upsampled_to_the_labels(batch):
    logits, target = batch
    small = logits[..., :3, :4].float()
    big = torch.nn.functional.interpolate(small, size=target.shape[-2:], mode="bilinear", align_corners=False)
    loss = build_loss(LossConfig(), C)
    assert loss(small, target)["total"] == loss(big, target)["total"]
    with pytest.raises(ValueError, match="do not fit 5 classes"):
        loss(torch.zeros(2, 4, 6, 7), target)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(batch, form, dtype):
    logits, target = batch
    half = logits.to(dtype)
    loss = build_loss(LossConfig.parse({"focal": {"form": form}, "dice": {"weight": 1.0}, "ce": {"weight": 1.0}}), C)
    with torch.autocast("cpu", dtype=dtype):
        terms = loss(half, target)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert terms == loss(half.float(), target)


def test_another_ignore_index_is_obeyed(batch):
    logits, target = batch
    moved = target.where(target != IGNORE, -100)
    config = LossConfig.parse({"dice": {"weight": 1.0}, "ce": {"weight": 1.0}})
    assert build_loss(config, C, ignore_index=-100)(logits.float(), moved) == build_loss(config, C)(logits.float(), target)


def test_sample_without_a_valid_pixel_leaves_the_others_finite(batch):
    logits, target = batch
    target = target.clone()
    target[0] = IGNORE
    x = logits.float().requires_grad_()
    terms = build_loss(LossConfig.parse({"dice": {"weight": 1.0}, "ce": {"weight": 1.0}}), C)(x, target)
    terms["total"].backward()
    assert x.grad is not None
    assert x.grad[0].abs().max() == 0
    assert x.grad[1].abs().max() > 0
    assert terms["dice"].item() == pytest.approx(reference_dice(logits[1:], target[1:]).item() / 2, rel=1e-5)
