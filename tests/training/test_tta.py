"""Laws of test-time augmentation: flips and scales are undone."""

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


def upsample(logits: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 70, 101, generator=torch.Generator().manual_seed(0))


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
    ("scales", "message"),
    [((1.0, -1.0), "--scales: -1 is not above 0"), ((), "--scales: at least one")],
)
def test_impossible_scales_are_refused(scales: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AugmentedInference(scales=scales)
