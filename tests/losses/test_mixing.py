"""MixUp: every term of a mixed batch is the mixture of its losses against both masks."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.config.loss_config import LossConfig
from segtune.losses import formulas
from segtune.losses.labels import Mixing
from segtune.losses.segmentation import SegmentationLoss, build_loss

NUM_CLASSES = 5
IGNORE = 255
SHARES = torch.tensor([0.3, 0.85])

Batch = tuple[Tensor, Tensor]
TERMS: dict[str, dict[str, object]] = {
    "sigmoid focal": {"focal": {"weight": 2.0}},
    "softmax focal": {"focal": {"weight": 2.0, "form": "softmax"}},
    "dice": {"dice": {"weight": 2.0}},
    "dice per class": {"dice": {"weight": 2.0, "per_class": True}},
    "cross-entropy": {"ce": {"weight": 2.0}},
    "label smoothing": {"ce": {"weight": 2.0}, "label_smoothing": 0.2},
    "tversky": {"tversky": {"weight": 2.0}},
    "lovasz": {"lovasz": {"weight": 2.0}},
    "lovasz per image": {"lovasz": {"weight": 2.0, "per_image": True}},
    "mining": {"ce": {"weight": 1.0}, "ohem": {"keep": 0.1}},
}
PER_SAMPLE = [name for name in TERMS if name not in ("lovasz", "mining")]
every_term = pytest.mark.parametrize("settings", TERMS.values(), ids=list(TERMS))


def term_alone(settings: dict[str, object]) -> SegmentationLoss:
    off = {name: {"weight": 0.0} for name in ("focal", "dice", "ce")}
    return build_loss(LossConfig.parse(off | settings), NUM_CLASSES)


def random_labels(seed: int = 1) -> Tensor:
    return torch.randint(NUM_CLASSES, (2, 6, 7), generator=torch.Generator().manual_seed(seed))


def value_and_gradient(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def test_cross_entropy_of_a_mixture_is_that_of_soft_labels(batch: Batch) -> None:
    logits, first, second = batch[0], random_labels(1), random_labels(2)
    loss = term_alone({"ce": {"weight": 1.0}})
    one_hot = [F.one_hot(labels, NUM_CLASSES).movedim(-1, 1) for labels in (first, second)]
    share = SHARES.double().view(2, 1, 1, 1)
    soft = share * one_hot[0] + (1 - share) * one_hot[1]
    mixing = Mixing(second, SHARES.double())
    value, gradient = value_and_gradient(logits, lambda x: loss(x, first, mixing)["total"])
    expected, expected_gradient = value_and_gradient(logits, lambda x: F.cross_entropy(x, soft))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", PER_SAMPLE)
@pytest.mark.parametrize("size", [(6, 7), (3, 4)])
def test_each_sample_has_its_own_mixture(batch: Batch, name: str, size: tuple[int, int]) -> None:
    logits, first, second = batch[0][..., : size[0], : size[1]], random_labels(1), random_labels(2)
    loss = term_alone(TERMS[name])

    def by_definition(x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for n in range(2):
            sample = slice(n, n + 1)
            for labels, share in ((first, SHARES[n]), (second, 1 - SHARES[n])):
                total = total + share * loss(x[sample], labels[sample])["total"] / 2
        return total

    mixing = Mixing(second, SHARES)
    value, gradient = value_and_gradient(logits, lambda x: loss(x, first, mixing)["total"])
    expected, expected_gradient = value_and_gradient(logits, by_definition)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-9)


@every_term
def test_equal_shares_mix_the_losses_of_the_batch(
    batch: Batch, settings: dict[str, object]
) -> None:
    logits, first, second = batch[0], random_labels(1), random_labels(2)
    loss = term_alone(settings)
    mixing = Mixing(second, torch.tensor([0.25, 0.25]))
    value, gradient = value_and_gradient(logits, lambda x: loss(x, first, mixing)["total"])
    expected, expected_gradient = value_and_gradient(
        logits,
        lambda x: 0.25 * loss(x, first)["total"] + 0.75 * loss(x, second)["total"],
    )
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@every_term
def test_a_batch_with_shares_of_1_is_not_mixed(batch: Batch, settings: dict[str, object]) -> None:
    logits, target = batch
    loss = term_alone(settings)
    mixing = Mixing(random_labels(2), torch.ones(2))
    value, gradient = value_and_gradient(logits, lambda x: loss(x, target, mixing)["total"])
    expected, expected_gradient = value_and_gradient(logits, lambda x: loss(x, target)["total"])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-15)


@every_term
def test_mixing_a_mask_with_itself_changes_nothing(
    batch: Batch, settings: dict[str, object]
) -> None:
    logits, target = batch
    loss = term_alone(settings)
    mixed = loss(logits, target, Mixing(target, torch.tensor([0.4, 0.4])))["total"]
    torch.testing.assert_close(mixed, loss(logits, target)["total"], rtol=1e-7, atol=0)


@every_term
def test_pixels_that_both_masks_ignore_get_no_gradient(
    batch: Batch, settings: dict[str, object]
) -> None:
    logits, target = batch
    second = random_labels(2).where(target != IGNORE, IGNORE)
    loss = term_alone(settings)
    mixing = Mixing(second, SHARES)
    _, gradient = value_and_gradient(logits, lambda x: loss(x, target, mixing)["total"])
    assert gradient[0, :, :2].abs().max() == 0
    assert gradient[0, :, 2:].abs().max() > 0


@every_term
def test_a_mixed_batch_without_a_valid_pixel_gives_0(
    batch: Batch, settings: dict[str, object]
) -> None:
    nothing = torch.full((2, 6, 7), IGNORE)
    loss = term_alone(settings)
    mixing = Mixing(nothing, SHARES)
    value, gradient = value_and_gradient(batch[0], lambda x: loss(x, nothing, mixing)["total"])
    assert value == 0
    assert gradient.abs().max() == 0


def test_a_pixel_that_one_mask_ignores_counts_with_the_share_of_the_other() -> None:
    logits = torch.tensor([[[[1.0, -2.0]], [[0.0, 0.5]]]], dtype=torch.float64)
    first, second = torch.tensor([[[0, IGNORE]]]), torch.tensor([[[1, 1]]])
    nll = -logits.log_softmax(1)[0, :, 0]
    mixing = Mixing(second, torch.tensor([0.25], dtype=torch.float64))
    config = LossConfig.parse(
        {"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 1.0}}
    )
    value = build_loss(config, 2)(logits, first, mixing)["total"].item()
    expected = (0.25 * nll[0, 0] + 0.75 * nll[1, 0] + 0.75 * nll[1, 1]) / (0.25 + 0.75 + 0.75)
    assert value == pytest.approx(expected.item())


def test_each_mask_has_its_own_hardest_pixels(batch: Batch) -> None:
    logits, first, second = batch[0], random_labels(1), random_labels(2)
    loss = term_alone({"ce": {"weight": 1.0}, "ohem": {"keep": 0.3}})
    plain = term_alone({"ce": {"weight": 1.0}})
    kept = [
        labels.where(formulas.hardest_pixels(logits, labels, 0.3), IGNORE)
        for labels in (first, second)
    ]
    mixing = Mixing(second, torch.tensor([0.5, 0.5]))
    value = loss(logits, first, mixing)["total"].item()
    expected = sum(plain(logits, labels)["total"].item() for labels in kept) / 2
    assert value == pytest.approx(expected)


@every_term
def test_the_second_mask_of_a_sample_that_is_not_mixed_does_not_matter(
    batch: Batch, settings: dict[str, object]
) -> None:
    logits, first, second = batch[0], random_labels(1), random_labels(2)
    other = second.clone()
    other[0] = random_labels(3)[0]
    loss = term_alone(settings)
    shares = torch.tensor([1.0, 0.5])
    values = [loss(logits, first, Mixing(labels, shares))["total"] for labels in (second, other)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
