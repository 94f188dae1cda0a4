"""The banded kernels give the values and gradients of the formulas, and stay finite everywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from segtune.config.loss_config import LossConfig
from segtune.losses import formulas
from segtune.losses.segmentation import build_loss, hardest_pixels

NUM_CLASSES = 5
IGNORE = 255
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.7, 8.0)

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A term of the loss: its formula, and the settings that ask for it and no other term."""

    formula: Loss
    settings: dict[str, object]

    def banded(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return what the kernels compute."""
        return term_alone(self.settings)(logits, target)["total"]

    def plain(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return what the formula gives on logits of the labels' size."""
        if logits.shape[-2:] != target.shape[-2:]:
            logits = formulas.upsample(logits, target.shape[-2:])
        return self.formula(logits, target)


def term_alone(settings: dict[str, object]) -> torch.nn.Module:
    """Return the loss of `settings`, in which terms that they do not name have weight 0."""
    no_terms = {name: {"weight": 0.0} for name in ("focal", "dice", "ce")}
    return build_loss(LossConfig.parse(no_terms | settings), NUM_CLASSES)


def sigmoid_focal(gamma: float, alpha: float, class_weights: Sequence[float] | None = None) -> Case:
    weights = None if class_weights is None else torch.tensor(class_weights)
    focal = {"weight": 1.0, "form": "sigmoid", "gamma": gamma, "alpha": alpha}
    return Case(
        partial(formulas.sigmoid_focal, gamma=gamma, alpha=alpha, class_weights=weights),
        {"focal": focal, "class_weights": class_weights},
    )


def softmax_focal(gamma: float, class_weights: Sequence[float] | None = None) -> Case:
    weights = None if class_weights is None else torch.tensor(class_weights)
    return Case(
        partial(formulas.softmax_focal, gamma=gamma, class_weights=weights),
        {
            "focal": {"weight": 1.0, "form": "softmax", "gamma": gamma},
            "class_weights": class_weights,
        },
    )


CASES = {
    **{f"sigmoid focal, gamma {gamma}": sigmoid_focal(gamma, 0.25) for gamma in GAMMAS},
    **{f"softmax focal, gamma {gamma}": softmax_focal(gamma) for gamma in GAMMAS},
    "sigmoid focal, class weights": sigmoid_focal(2.0, 0.5, CLASS_WEIGHTS),
    "softmax focal, class weights": softmax_focal(2.0, CLASS_WEIGHTS),
    "dice": Case(formulas.dice, {"dice": {"weight": 1.0}}),
    "dice per class": Case(formulas.dice_per_class, {"dice": {"weight": 1.0, "per_class": True}}),
    "cross-entropy": Case(formulas.cross_entropy, {"ce": {"weight": 1.0}}),
    "cross-entropy, class weights": Case(
        partial(formulas.cross_entropy, class_weights=torch.tensor(CLASS_WEIGHTS)),
        {"ce": {"weight": 1.0}, "class_weights": CLASS_WEIGHTS},
    ),
    "label smoothing": Case(
        partial(formulas.cross_entropy, label_smoothing=0.1),
        {"ce": {"weight": 1.0}, "label_smoothing": 0.1},
    ),
    "label smoothing, class weights": Case(
        partial(
            formulas.cross_entropy, class_weights=torch.tensor(CLASS_WEIGHTS), label_smoothing=0.4
        ),
        {"ce": {"weight": 1.0}, "label_smoothing": 0.4, "class_weights": CLASS_WEIGHTS},
    ),
    "tversky": Case(formulas.tversky, {"tversky": {"weight": 1.0}}),
    "tversky, alpha and beta": Case(
        partial(formulas.tversky, alpha=0.9, beta=0.2),
        {"tversky": {"weight": 1.0, "alpha": 0.9, "beta": 0.2}},
    ),
    "lovasz": Case(formulas.lovasz_softmax, {"lovasz": {"weight": 1.0}}),
    "lovasz per image": Case(
        partial(formulas.lovasz_softmax, per_image=True),
        {"lovasz": {"weight": 1.0, "per_image": True}},
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def assert_same_values_and_gradients(case: Case, logits: Tensor, target: Tensor) -> None:
    """Compare the kernels in float32 with the formula in float64, to 1e-5."""
    logits32 = logits.float().requires_grad_()
    logits64 = logits.clone().requires_grad_()
    value, expected = case.banded(logits32, target), case.plain(logits64, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, logits32)
    (expected_gradient,) = torch.autograd.grad(expected, logits64)
    largest = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("size", [(6, 7), (3, 4), (2, 2)])
@every_case
@pytest.mark.usefixtures("rows_per_band")
def test_values_and_gradients_are_those_of_the_formula(
    batch: Batch, case: Case, size: tuple[int, int]
) -> None:
    logits, target = batch
    assert_same_values_and_gradients(case, logits[..., : size[0], : size[1]], target)


@every_case
def test_a_sample_without_a_valid_pixel_counts_as_in_the_formula(batch: Batch, case: Case) -> None:
    logits, target = batch
    target[0] = IGNORE
    assert_same_values_and_gradients(case, logits, target)


@every_case
def test_gradients_are_those_of_the_values(batch: Batch, case: Case) -> None:
    logits, target = batch
    small = logits[:, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: case.banded(x, target), small)


@pytest.mark.parametrize("label_logit", [-12.0, 12.0])
def test_sigmoid_focal_keeps_its_digits_on_confident_pixels(label_logit: float) -> None:
    logits = torch.full((1, NUM_CLASSES, 2, 2), -8.0, dtype=torch.float64)
    logits[:, 1] = label_logit
    target = torch.ones(1, 2, 2, dtype=torch.int64)
    case = sigmoid_focal(2.0, 0.25)
    expected = case.plain(logits, target).item()
    assert case.banded(logits.float(), target).item() == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.parametrize("name", ["tversky", "lovasz", "lovasz per image"])
@pytest.mark.parametrize("predicted", ["label", "other class"])
def test_losses_on_probabilities_keep_their_digits_in_saturated_pixels(
    name: str, predicted: str
) -> None:
    # 1 - p is about 1e-7, for which 1 - float32(p) has one digit or none.
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(2, NUM_CLASSES, 3, 4, generator=generator, dtype=torch.float64)
    logits = logits.float().double()
    target = torch.randint(NUM_CLASSES, (2, 3, 4), generator=generator)
    top = target if predicted == "label" else (target + 1) % NUM_CLASSES
    logits.scatter_(1, top[:, None], 17.0)
    case = CASES[name]
    logits32, logits64 = logits.float().requires_grad_(), logits.clone().requires_grad_()
    value, expected = case.banded(logits32, target), case.plain(logits64, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=0)
    (gradient,) = torch.autograd.grad(value, logits32)
    (expected_gradient,) = torch.autograd.grad(expected, logits64)
    assert expected_gradient.abs().max() < 1e-5
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-14)


@pytest.mark.parametrize("scale", [100.0, 1e4, 1e30])
@pytest.mark.parametrize("name", ["tversky", "lovasz", "label smoothing"])
def test_new_terms_are_finite_in_saturated_pixels(name: str, scale: float) -> None:
    signs = (-1.0) ** torch.arange(NUM_CLASSES)
    logits = (scale * signs[:, None, None]).expand(1, -1, 4, 4).clone().requires_grad_()
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    target[:, :2] = 1
    value = CASES[name].banded(logits, target)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_dice_of_one_pixel_is_the_number_by_hand() -> None:
    logits = torch.full((1, NUM_CLASSES, 1, 1), -40.0)
    logits[0, 2] = 0.0  # probability 1/2 for the label, 0 for the other classes
    expected = 1 - 2 * 0.5 / (0.25 + 1e-3 + 1 + 1e-3)
    value = CASES["dice"].banded(logits, torch.full((1, 1, 1), 2))
    assert value.item() == pytest.approx(expected, rel=1e-5)


@every_case
def test_ignored_pixels_change_nothing_and_get_no_gradient(batch: Batch, case: Case) -> None:
    logits, target = batch
    logits32 = logits.float().requires_grad_()
    value = case.banded(logits32, target)
    value.backward()
    assert logits32.grad is not None
    assert logits32.grad[0, :, :2].abs().max() == 0
    changed = logits.float().clone()
    changed[0, :, :2] = 100.0
    assert case.banded(changed, target).item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("scale", [40.0, -40.0, 0.0])
@pytest.mark.parametrize("ignored", [False, True])
def test_values_and_gradients_are_finite_in_saturated_and_ignored_pixels(
    form: str, gamma: float, scale: float, ignored: bool
) -> None:
    focal = {"weight": 1.0, "gamma": gamma, "form": form}
    logits = torch.zeros(1, NUM_CLASSES, 4, 4)
    logits[:, 1] = scale
    # Half of the pixels are saturated in every class.
    signs = (-1.0) ** torch.arange(NUM_CLASSES)
    logits[:, :, 2:] = scale * signs[:, None, None]
    logits.requires_grad_()
    target = torch.full((1, 4, 4), IGNORE if ignored else 1)
    if not ignored:
        target[:, :, 2:] = 0
    loss = term_alone({"focal": focal, "dice": {"weight": 1.0}, "ce": {"weight": 1.0}})
    terms = loss(logits, target)
    terms["total"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    if ignored:
        assert terms["total"] == 0
        assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("rows_per_band")
def test_gradient_is_that_of_the_weighted_sum(batch: Batch, form: str, dtype: torch.dtype) -> None:
    logits, target = batch
    focal = formulas.sigmoid_focal if form == "sigmoid" else formulas.softmax_focal
    loss = term_alone(
        {"focal": {"weight": 3.0, "form": form}, "dice": {"weight": 0.5}, "ce": {"weight": 2.0}}
    )
    ours, plain = logits.to(dtype).requires_grad_(), logits.clone().requires_grad_()
    value = 7 * loss(ours, target)["total"]
    terms = (
        focal(plain, target),
        formulas.dice(plain, target),
        formulas.cross_entropy(plain, target),
    )
    expected = 7 * (3 * terms[0] + 0.5 * terms[1] + 2 * terms[2])
    (expected_gradient,) = torch.autograd.grad(expected, plain)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    largest = expected_gradient.abs().max().item()
    for _ in range(2):  # a second backward pass gives the same gradient
        (gradient,) = torch.autograd.grad(value, ours, retain_graph=True)
        torch.testing.assert_close(
            gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance * largest
        )


@pytest.mark.parametrize("size", [(6, 7), (3, 4)])
@pytest.mark.parametrize("keep", [0.01, 0.3, 0.55, 1.0])
@pytest.mark.usefixtures("rows_per_band")
def test_hardest_pixels_are_those_of_the_formula(
    batch: Batch, keep: float, size: tuple[int, int]
) -> None:
    logits, target = batch[0][..., : size[0], : size[1]], batch[1]
    expected = formulas.hardest_pixels(formulas.upsample(logits, (6, 7)), target, keep)
    assert torch.equal(hardest_pixels(logits, target, keep), expected)


def test_nothing_of_full_size_is_kept_for_the_backward_pass() -> None:
    logits = torch.randn(2, 21, 32, 32).requires_grad_()
    target = torch.randint(0, 21, (2, 128, 128))
    saved_bytes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved_bytes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        build_loss(LossConfig(), 21)(logits, target)["total"].backward()
    assert sum(saved_bytes) < 0.25 * 4 * 2 * 21 * 128 * 128  # a quarter of the logits at full size
