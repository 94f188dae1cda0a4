"""Laws of test-time augmentation: windows cover all pixels; flips and scales are undone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.errors import ConfigError
from segtune.training.evaluation import predict_labels
from segtune.training.tta import AugmentedInference


def average_4x4(images: Tensor) -> Tensor:
    """Return logits [B, 3, ceil(H/4), ceil(W/4)] that tell each pixel from its neighbours."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
    return F.avg_pool2d(padded, 4)


def average_whole_4x4(images: Tensor) -> Tensor:
    """Return logits [B, 3, H//4, W//4], as an encoder that drops incomplete patches."""
    return F.avg_pool2d(images, 4)


def upsample(logits: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 70, 101, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [None, 8, 32])
@pytest.mark.parametrize("window", [32, 64, 128])
def test_windows_cover_every_pixel(images: Tensor, window: int, stride: int | None) -> None:
    # The model looks at each patch alone, so the mean over any overlapping windows is the same.
    tta = AugmentedInference(window=window, stride=stride)
    (logits,) = tta.logits(average_4x4, images)
    torch.testing.assert_close(logits, average_4x4(images))


@pytest.mark.parametrize("window", [32, 64])
def test_windows_leave_no_gap_if_a_model_drops_incomplete_patches(
    images: Tensor, window: int
) -> None:
    (logits,) = AugmentedInference(window=window).logits(average_whole_4x4, images)
    torch.testing.assert_close(logits, average_whole_4x4(images))


def test_model_sees_windows_and_not_the_whole_image(images: Tensor) -> None:
    sizes = set()

    def model(window: Tensor) -> Tensor:
        sizes.add(tuple(window.shape[-2:]))
        return average_4x4(window)

    AugmentedInference(window=32, stride=32).logits(model, images)
    # The last windows reach to the border.
    assert sizes == {(32, 32), (34, 32), (32, 33), (34, 33)}


def test_logits_of_a_flipped_copy_are_flipped_back(images: Tensor) -> None:
    images = images[..., :100]  # a width of whole patches
    plain, flipped = AugmentedInference(flip=True).logits(average_4x4, images)
    torch.testing.assert_close(plain, flipped)


def test_scales_are_averaged_at_full_size_after_the_softmax(images: Tensor) -> None:
    logits = AugmentedInference(scales=(0.5, 1.0, 1.5)).logits(average_4x4, images)
    assert [scaled.shape[-1] for scaled in logits] == [13, 26, 38]
    probabilities = [upsample(scaled, 70, 101).softmax(1) for scaled in logits]
    expected = torch.stack(probabilities).mean(0).argmax(1)
    agree = predict_labels(logits, (70, 101)) == expected
    assert agree.float().mean() > 0.9999


def test_labels_are_the_argmax_of_the_upsampled_logits() -> None:
    logits = torch.randn(3, 21, 20, 30, generator=torch.Generator().manual_seed(0))
    labels = predict_labels([logits], (77, 119))
    agree = labels == upsample(logits, 77, 119).argmax(1)
    assert agree.float().mean() > 0.9999  # a few ties in the last digit
    alone = [predict_labels([sample[None]], (77, 119)) for sample in logits]
    assert torch.equal(labels, torch.cat(alone))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (1.0, -1.0)}, "--scales: -1 is not above 0"),
        ({"scales": ()}, "--scales: at least one"),
        ({"window": 33}, "--window: 33; allowed are multiples of 4 from 32"),
        ({"stride": 8}, "--stride: 8; allowed are multiples of 4 up to --window"),
        ({"window": 64, "stride": 128}, "--stride: 128"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentedInference(**options)


@pytest.mark.parametrize(("stride", "expected"), [(1, 1), (2, 2), (8, 4), (16, 4)])
@pytest.mark.parametrize("size", [(64, 96), (67, 90)])
def test_windows_of_models_of_any_stride_fit_together(
    stride: int, expected: int, size: tuple[int, int]
) -> None:
    def constant(images: torch.Tensor) -> torch.Tensor:
        height, width = (-(-side // stride) for side in images.shape[-2:])
        return torch.full((1, 2, height, width), 3.0)

    tta = AugmentedInference(window=32, stride=20)
    (logits,) = tta.logits(constant, torch.zeros(1, 3, *size))
    assert logits.shape == (1, 2, -(-size[0] // expected), -(-size[1] // expected))
    assert torch.allclose(logits, torch.tensor(3.0))


def test_a_model_of_one_logit_per_pixel_keeps_every_pixel_in_windows() -> None:
    images = torch.arange(64 * 96, dtype=torch.float32).reshape(1, 1, 64, 96)
    (logits,) = AugmentedInference(window=32, stride=20).logits(lambda part: part, images)
    assert torch.allclose(logits, images)
