"""Laws of the losses: the stated formulas to 1e-5, ignored pixels nowhere, finite at every corner."""

import pytest
import torch
import torch.nn.functional as F

from segtune.config.schema import LossConfig
from segtune.errors import ConfigError
from segtune.losses import row_bands
from segtune.losses.segmentation import SegmentationLoss, build_loss, hardest_pixels

C, IGNORE = 5, 255
OFF = {"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 0.0}}


@pytest.fixture
def batch():
    """Labels, and logits [N, C, 6, 7] of their size."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, C, 6, 7, generator=generator, dtype=torch.float64) * 3
    target = torch.randint(0, C, (2, 6, 7), generator=generator)
    target[0, :2] = IGNORE
    return logits, target


@pytest.fixture(params=[1, 3, 1000], ids=lambda rows: f"{rows} rows")
def band_rows(request, monkeypatch):
    """The same in bands of one row, of some rows with a rest, and in one."""
    monkeypatch.setitem(row_bands.VALUES_PER_BAND, "cpu", C * 7 * request.param)


def one_term(name, num_classes=C, **settings):
    """Returns the loss whose only term is `name` (focal, dice or ce); settings go to the term, class_weights and ohem to the loss."""
    general = {key: settings.pop(key) for key in ("class_weights", "ohem") if key in settings}
    return build_loss(
        LossConfig.parse({**OFF, **general, name: {"weight": 1.0, **settings}}), num_classes
    )


def full_size(logits, target):
    if logits.shape[-2:] == target.shape[-2:]:
        return logits
    return F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)


def one_hot(target):
    valid = (target != IGNORE)[:, None].double()
    return F.one_hot(target.where(target != IGNORE, 0), C).permute(
        0, 3, 1, 2
    ).double() * valid, valid


def plain_sigmoid_focal(logits, target, gamma=2.0, alpha=0.5, class_weights=(1.0,) * C):
    y, valid = one_hot(target)
    p = logits.sigmoid()
    pt = y * p + (1 - y) * (1 - p)
    weight = (
        (alpha * y + (1 - alpha) * (1 - y))
        * (1 - pt) ** gamma
        * torch.tensor(class_weights).view(1, -1, 1, 1)
    )
    return (weight * -pt.log() * valid).sum() / logits.numel()


def plain_softmax_focal(logits, target, gamma=2.0, class_weights=(1.0,) * C):
    y, valid = one_hot(target)
    pt = (logits.softmax(1) * y).sum(1, keepdim=True) + 0.5 * (
        1 - valid
    )  # its gradient is finite there
    weight = (y * torch.tensor(class_weights).view(1, -1, 1, 1)).sum(1, keepdim=True)
    return (weight * valid * (1 - pt) ** gamma * -pt.log()).sum() / valid.sum()


def plain_ce(logits, target, class_weights=(1.0,) * C):
    return plain_softmax_focal(logits, target, 0.0, class_weights)


def plain_dice(logits, target, per_class=False):
    y, valid = one_hot(target)
    p = logits.sigmoid() * valid
    losses = []
    for pn, yn in zip(p, y, strict=True):
        groups = [(pn[c], yn[c]) for c in range(C) if yn[c].sum()] if per_class else [(pn, yn)]
        parts = [
            1 - 2 * (a * b).sum() / ((a**2).sum() + 1e-3 + (b**2).sum() + 1e-3) for a, b in groups
        ]
        losses.append(torch.stack(parts).mean())
    return torch.stack(losses).mean()


WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.7, 8.0)
# Plain formula, and what both of them are asked for.
PLAIN = {
    **{f"sigmoid gamma {g}": (plain_sigmoid_focal, {"gamma": g, "alpha": 0.25}) for g in GAMMAS},
    **{f"softmax gamma {g}": (plain_softmax_focal, {"gamma": g}) for g in GAMMAS},
    "sigmoid class weights": (plain_sigmoid_focal, {"class_weights": WEIGHTS}),
    "softmax class weights": (plain_softmax_focal, {"class_weights": WEIGHTS}),
    "dice": (plain_dice, {}),
    "dice per class": (plain_dice, {"per_class": True}),
    "ce": (plain_ce, {}),
    "ce class weights": (plain_ce, {"class_weights": WEIGHTS}),
}


def both(case):
    """Returns our loss and the plain one of a case, each as a function of logits and labels."""
    plain, settings = PLAIN[case]
    name = case.split()[0]
    form = {"form": name} if name in ("sigmoid", "softmax") else {}
    ours = one_term("focal" if form else name, **settings, **form)
    return lambda x, t: ours(x, t)["total"], lambda x, t: plain(full_size(x, t), t, **settings)


@pytest.mark.parametrize("size", [(6, 7), (3, 4), (2, 2)])
@pytest.mark.parametrize("case", PLAIN)
def test_values_and_gradients_are_those_of_the_plain_formula(batch, case, size, band_rows):
    ours, plain = both(case)
    logits, target = batch[0][..., : size[0], : size[1]], batch[1]
    x, y = logits.float().requires_grad_(), logits.clone().requires_grad_()
    value, expected = ours(x, target), plain(y, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,), (wanted,) = torch.autograd.grad(value, x), torch.autograd.grad(expected, y)
    torch.testing.assert_close(
        gradient.double(), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item()
    )


@pytest.mark.parametrize("case", PLAIN)
def test_gradients_are_those_of_the_values(batch, case):
    logits, target = batch[0][:, :, :3, :3].clone().requires_grad_(), batch[1]
    assert torch.autograd.gradcheck(lambda x: both(case)[0](x, target), logits)


@pytest.mark.parametrize("own", [-12.0, 12.0])
def test_focal_keeps_its_digits_on_confident_pixels(own):
    logits = torch.full((1, C, 2, 2), -8.0, dtype=torch.float64)
    logits[:, 1] = own
    target = torch.ones(1, 2, 2, dtype=torch.int64)
    expected = plain_sigmoid_focal(logits, target, 2.0, 0.25).item()
    assert one_term("focal", alpha=0.25)(logits.float(), target)["total"].item() == pytest.approx(
        expected, rel=1e-5, abs=0
    )


def test_dice_of_one_pixel_is_the_number_by_hand():
    logits = torch.full((1, C, 1, 1), -40.0)
    logits[0, 2] = 0.0  # probability 1/2 for the label, 0 for the rest
    expected = 1 - 2 * 0.5 / (0.25 + 1e-3 + 1 + 1e-3)
    assert one_term("dice")(logits, torch.full((1, 1, 1), 2))["total"].item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("case", PLAIN)
def test_ignored_pixels_have_no_say_and_get_no_gradient(batch, case):
    logits, target = batch
    loss = both(case)[0]
    x = logits.float().requires_grad_()
    value = loss(x, target)
    value.backward()
    assert x.grad is not None
    assert x.grad[0, :, :2].abs().max() == 0
    other = logits.float().clone()
    other[0, :, :2] = 100.0
    assert loss(other, target).item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("scale", [40.0, -40.0, 0.0])
@pytest.mark.parametrize("ignored", [False, True])
def test_values_and_gradients_are_finite_at_every_corner(form, gamma, scale, ignored):
    config = LossConfig.parse(
        {"focal": {"gamma": gamma, "form": form}, "dice": {"weight": 1.0}, "ce": {"weight": 1.0}}
    )
    logits = torch.zeros(1, C, 4, 4)
    logits[:, 1] = scale
    logits[:, :, 2:] = (
        scale * (-1.0) ** torch.arange(C)[:, None, None]
    )  # half of the pixels: saturated in every class
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
    config = LossConfig.parse(
        {"focal": {"weight": 3.0}, "dice": {"weight": 0.5}, "ce": {"weight": 0.0}}
    )
    terms = build_loss(config, C)(logits.float(), target)
    assert set(terms) == {"total", "focal", "dice"}
    assert terms["total"].item() == pytest.approx(
        3 * terms["focal"].item() + 0.5 * terms["dice"].item()
    )
    assert terms["dice"].item() == pytest.approx(plain_dice(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_that_of_the_weighted_sum(batch, form, dtype, band_rows):
    logits, target = batch
    focal = plain_sigmoid_focal if form == "sigmoid" else plain_softmax_focal
    config = LossConfig.parse(
        {"focal": {"weight": 3.0, "form": form}, "dice": {"weight": 0.5}, "ce": {"weight": 2.0}}
    )
    x, y = logits.to(dtype).requires_grad_(), logits.clone().requires_grad_()
    value = 7 * build_loss(config, C)(x, target)["total"]
    expected = 7 * (3 * focal(y, target) + 0.5 * plain_dice(y, target) + 2 * plain_ce(y, target))
    (wanted,) = torch.autograd.grad(expected, y)
    exact = 1e-5 if dtype is torch.float32 else 1e-12
    for _ in range(2):  # a second pass backward finds the same
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        torch.testing.assert_close(
            gradient.double(), wanted, rtol=exact, atol=exact * wanted.abs().max().item()
        )


def test_values_are_the_same_where_nobody_wants_a_gradient(batch):
    logits, target = batch
    loss = build_loss(LossConfig.parse({"dice": {"weight": 1.0}, "ce": {"weight": 1.0}}), C)
    learning = loss(logits.float().requires_grad_(), target)
    assert [name for name, value in learning.items() if value.requires_grad] == ["total"]
    with torch.no_grad():
        assert loss(logits.float().requires_grad_(), target) == learning
    assert loss(logits.float(), target) == learning


def test_small_logits_are_upsampled_to_the_labels(batch):
    logits, target = batch
    small = logits[..., :3, :4].float()
    big = torch.nn.functional.interpolate(
        small, size=target.shape[-2:], mode="bilinear", align_corners=False
    )
    loss = build_loss(LossConfig(), C)
    assert loss(small, target)["total"].item() == pytest.approx(
        loss(big, target)["total"].item(), rel=1e-6
    )
    with pytest.raises(ValueError, match="do not fit 5 classes"):
        loss(torch.zeros(2, 4, 6, 7), target)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(batch, form, dtype):
    logits, target = batch
    half = logits.to(dtype)
    loss = build_loss(
        LossConfig.parse({"focal": {"form": form}, "dice": {"weight": 1.0}, "ce": {"weight": 1.0}}),
        C,
    )
    with torch.autocast("cpu", dtype=dtype):
        terms = loss(half, target)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert terms == loss(half.float(), target)


def test_another_ignore_index_is_obeyed(batch):
    logits, target = batch
    moved = target.where(target != IGNORE, -100)
    config = LossConfig.parse({"dice": {"weight": 1.0}, "ce": {"weight": 1.0}})
    assert build_loss(config, C, ignore_index=-100)(logits.float(), moved) == build_loss(config, C)(
        logits.float(), target
    )


def test_sample_without_a_valid_pixel_leaves_the_others_finite(batch):
    logits, target = batch
    target = target.clone()
    target[0] = IGNORE
    x = logits.float().requires_grad_()
    terms = build_loss(LossConfig.parse({"dice": {"weight": 1.0}, "ce": {"weight": 1.0}}), C)(
        x, target
    )
    terms["total"].backward()
    assert x.grad is not None
    assert x.grad[0].abs().max() == 0
    assert x.grad[1].abs().max() > 0
    assert terms["dice"].item() == pytest.approx(
        plain_dice(logits[1:], target[1:]).item() / 2, rel=1e-5
    )


@pytest.mark.parametrize("name", ["focal", "ce"])
def test_hard_examples_are_those_whose_label_is_the_least_likely(batch, name, band_rows):
    logits, target = batch
    p = (logits.softmax(1) * one_hot(target)[0]).sum(1)
    hard = p[target != IGNORE].sort().values[: -(-70 * 3 // 10)]  # 0.3 of the 70 valid pixels
    chosen = (target != IGNORE) & (p <= hard[-1])
    assert torch.equal(hardest_pixels(logits, target, 0.3), chosen)
    form = {"form": "softmax"} if name == "focal" else {}
    kept = one_term(name, ohem={"keep": 0.3}, **form)(logits, target)["total"]
    assert kept.item() == pytest.approx(
        one_term(name, **form)(logits, target.where(chosen, IGNORE))["total"].item()
    )
    assert kept.item() > one_term(name, **form)(logits, target)["total"].item()


def test_hard_examples_of_nothing_are_nothing(batch):
    logits = batch[0].float().requires_grad_()
    total = one_term("ce", ohem={"keep": 0.3})(logits, torch.full_like(batch[1], IGNORE))["total"]
    total.backward()
    assert total == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_dice_looks_at_all_pixels_whatever_is_mined(batch):
    logits, target = batch
    assert one_term("dice", ohem={"keep": 0.1})(logits, target) == one_term("dice")(logits, target)


def test_every_class_has_to_have_its_weight():
    with pytest.raises(ConfigError, match=r"loss\.class_weights: 2 values for 5 classes"):
        one_term("ce", class_weights=(1.0, 2.0))


def test_nothing_of_full_size_is_kept_for_backward():
    logits = torch.randn(2, 21, 32, 32).requires_grad_()
    target = torch.randint(0, 21, (2, 128, 128))
    kept: list[int] = []

    def pack(tensor):
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        SegmentationLoss(LossConfig(), 21)(logits, target)["total"].backward()
    assert sum(kept) < 0.25 * 4 * 2 * 21 * 128 * 128  # one full-size copy of the logits
