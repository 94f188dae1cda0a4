"""The losses are those of mmsegmentation 1.2 without ignored pixels; with them, as documented.

The references are written from the formulas (docs/losses.md), in float64, without the ways that
segtune takes to save time and memory. Their gradients come from autograd.
"""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from segtune.config.loss_config import LossConfig
from segtune.losses.segmentation import build_loss

IGNORE = 255
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
ALPHAS = (0.25, 0.5, 0.75)
CLASSES = (2, 21, 150)
EPS = 1e-3
TOLERANCE = 1e-6

Reference = Callable[[Tensor, Tensor], Tensor]
every_number_of_classes = pytest.mark.parametrize("num_classes", CLASSES)


def random_batch(num_classes: int, num_ignored: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits float64 [2, C, 8, 9] and labels; the first rows of sample 0 are ignored."""
    generator = torch.Generator().manual_seed(num_classes)
    logits = 3 * torch.randn(2, num_classes, 8, 9, generator=generator, dtype=torch.float64)
    target = torch.randint(num_classes, (2, 8, 9), generator=generator)
    target[0, :num_ignored] = IGNORE
    return logits, target


def focal(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """FocalLoss(use_sigmoid=True): the mean over all pixels and classes; ignored pixels are 0."""
    log_p = torch.nn.functional.logsigmoid(logits)
    log_not_p = torch.nn.functional.logsigmoid(-logits)
    sums = []
    for label in range(logits.shape[1]):
        is_label = target == label
        is_other = (target != label) & (target != IGNORE)
        positive = -alpha * log_not_p[:, label].exp() ** gamma * log_p[:, label]
        negative = -(1 - alpha) * log_p[:, label].exp() ** gamma * log_not_p[:, label]
        sums.append(positive[is_label].sum() + negative[is_other].sum())
    return torch.stack(sums).sum() / logits.numel()


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """DiceLoss(): one Dice for each sample. The predictions in ignored pixels count."""
    losses = []
    for x, labels in zip(logits, target, strict=True):
        p = 1 / (1 + (-x).exp())
        overlap = sum(p[label][labels == label].sum() for label in range(len(p)))
        num_labels = (labels != IGNORE).sum()
        losses.append(1 - 2 * overlap / (p.pow(2).sum() + EPS + num_labels + EPS))
    return torch.stack(losses).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """CrossEntropyLoss(avg_non_ignore=False): the sum over valid pixels, by all pixels."""
    pixels = logits.movedim(1, -1)[target != IGNORE]
    labels = target[target != IGNORE]
    nll = pixels.logsumexp(1) - pixels[torch.arange(len(labels)), labels]
    return nll.sum() / target.numel()


def tversky(logits: Tensor, target: Tensor, alpha: float, beta: float) -> Tensor:
    """TverskyLoss(smooth=1): the mean over samples and all classes; ignored pixels do not count."""
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    losses = []
    for sample in range(len(p)):
        for label in range(p.shape[1]):
            is_label = target[sample] == label
            is_other = ~is_label & (target[sample] != IGNORE)
            right = p[sample, label][is_label].sum()
            wrong = alpha * p[sample, label][is_other].sum()
            missed = beta * (1 - p[sample, label][is_label]).sum()
            losses.append(1 - (right + 1) / (right + wrong + missed + 1))
    return torch.stack(losses).mean()


def lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """LovaszLoss(per_image=False, classes='present'), from sets of wrong pixels."""
    valid = target != IGNORE
    p = logits.movedim(1, -1)[valid].softmax(1)
    labels = target[valid]
    losses = []
    for label in labels.unique().tolist():
        is_label = labels == label
        errors = (is_label.double() - p[:, label]).abs()
        order = errors.argsort(descending=True)
        # Row k: the pixels that are predicted wrongly if the first k of `order` are.
        is_wrong = torch.ones(len(order) + 1, len(order)).tril(-1).bool()
        is_wrong_label = is_wrong & is_label[order]
        is_wrong_other = is_wrong & ~is_label[order]
        intersection = is_label.sum() - is_wrong_label.sum(1)
        union = is_label.sum() + is_wrong_other.sum(1)
        growth = (1 - intersection.double() / union).diff()
        losses.append((errors[order] * growth).sum())
    return torch.stack(losses).mean()


def lovasz_per_image(logits: Tensor, target: Tensor) -> Tensor:
    """LovaszLoss(per_image=True): the mean of the images' losses."""
    pairs = zip(logits.split(1), target.split(1), strict=True)
    return torch.stack([lovasz(*pair) for pair in pairs]).mean()


def assert_equal(
    settings: Mapping[str, object], reference: Reference, batch: tuple[Tensor, Tensor]
) -> None:
    """Compare value and gradient of the term in `settings`, alone, with a reference."""
    logits, target = batch
    off = {name: {"weight": 0.0} for name in ("focal", "dice", "ce")}
    loss = build_loss(LossConfig.parse({**off, **settings}), logits.shape[1])
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, expected = loss(ours, target)["total"], reference(theirs, target)
    assert value.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    (gradient,) = torch.autograd.grad(value, ours)
    (expected_gradient,) = torch.autograd.grad(expected, theirs)
    largest = expected_gradient.abs().max().item()
    torch.testing.assert_close(
        gradient, expected_gradient, rtol=TOLERANCE, atol=TOLERANCE * largest
    )


@every_number_of_classes
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("num_ignored", [0, 3])
def test_focal_is_that_of_mmseg_also_with_ignored_pixels(
    num_classes: int, alpha: float, gamma: float, num_ignored: int
) -> None:
    settings = {"focal": {"weight": 1.0, "gamma": gamma, "alpha": alpha}}
    batch = random_batch(num_classes, num_ignored)
    assert_equal(settings, lambda x, y: focal(x, y, gamma, alpha), batch)


@every_number_of_classes
def test_dice_is_that_of_mmseg(num_classes: int) -> None:
    assert_equal({"dice": {"weight": 1.0}}, dice, random_batch(num_classes))


@every_number_of_classes
def test_cross_entropy_is_that_of_mmseg(num_classes: int) -> None:
    assert_equal({"ce": {"weight": 1.0}}, cross_entropy, random_batch(num_classes))


@every_number_of_classes
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("num_ignored", [0, 3])
def test_tversky_is_that_of_mmseg_also_with_ignored_pixels(
    num_classes: int, alpha: float, num_ignored: int
) -> None:
    beta = 1 - alpha
    settings = {"tversky": {"weight": 1.0, "alpha": alpha, "beta": beta}}
    batch = random_batch(num_classes, num_ignored)
    assert_equal(settings, lambda x, y: tversky(x, y, alpha, beta), batch)


@every_number_of_classes
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("num_ignored", [0, 3])
def test_lovasz_is_that_of_mmseg_also_with_ignored_pixels(
    num_classes: int, per_image: bool, num_ignored: int
) -> None:
    settings = {"lovasz": {"weight": 1.0, "per_image": per_image}}
    reference = lovasz_per_image if per_image else lovasz
    assert_equal(settings, reference, random_batch(num_classes, num_ignored))


def term(name: str, batch: tuple[Tensor, Tensor]) -> float:
    off = {other: {"weight": float(other == name)} for other in ("focal", "dice", "ce")}
    return build_loss(LossConfig.parse(off), batch[0].shape[1])(*batch)["total"].item()


@every_number_of_classes
def test_cross_entropy_is_a_mean_over_valid_pixels_and_that_of_mmseg_over_all(
    num_classes: int,
) -> None:
    batch = random_batch(num_classes, num_ignored=3)
    num_valid, num_pixels = 2 * 8 * 9 - 3 * 9, 2 * 8 * 9
    of_mmseg = cross_entropy(*batch).item()
    assert term("ce", batch) == pytest.approx(of_mmseg * num_pixels / num_valid, rel=1e-9)
    # avg_non_ignore=True
    expected = torch.nn.functional.cross_entropy(*batch, ignore_index=IGNORE).item()
    assert term("ce", batch) == pytest.approx(expected, rel=1e-9)


@every_number_of_classes
def test_dice_of_mmseg_counts_predictions_in_ignored_pixels_and_ours_does_not(
    num_classes: int,
) -> None:
    logits, target = random_batch(num_classes, num_ignored=3)
    changed = logits.clone()
    changed[0, :, :3] = 9.0
    assert dice(changed, target).item() > dice(logits, target).item() + 1e-3
    assert term("dice", (changed, target)) == term("dice", (logits, target))
    # It is that of mmseg if nothing is predicted in ignored pixels.
    changed[0, :, :3] = -99.0
    assert term("dice", (logits, target)) == pytest.approx(dice(changed, target).item(), rel=1e-9)
