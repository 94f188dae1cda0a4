"""Laws of looking at test time: windows cover every pixel, flips and scales come back in place, one batch is as good as one image."""

import pytest
import torch
import torch.nn.functional as F

from segtune.errors import ConfigError
from segtune.training.evaluation import predict_labels
from segtune.training.tta import AugmentedInference


def shrink(images):
    """A model whose logits say where a pixel lies and what it looks like: [B, 3, H/4, W/4]."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 4, 0, -height % 4), mode="replicate")
    return F.avg_pool2d(padded, 4)


@pytest.fixture
def images():
    return torch.rand(2, 3, 70, 101, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [None, 8, 32])
@pytest.mark.parametrize("window", [32, 64, 128])
def test_windows_see_every_pixel_as_the_whole_image_does(images, window, stride):
    # The model looks at each pixel by itself, so whatever windows overlap, the mean is the same.
    (slid,) = AugmentedInference(window=window, stride=stride).logits(shrink, images)
    torch.testing.assert_close(slid, shrink(images))


@pytest.mark.parametrize("window", [32, 64])
def test_windows_leave_no_gap_where_a_model_sees_whole_patches_only(images, window):
    def floor(part):
        return F.avg_pool2d(part, 4)

    (slid,) = AugmentedInference(window=window).logits(floor, images)
    torch.testing.assert_close(slid, floor(images))


def test_windows_are_what_the_model_is_given(images):
    sizes = set()

    def noted(part):
        sizes.add(tuple(part.shape[-2:]))
        return shrink(part)

    AugmentedInference(window=32, stride=32).logits(noted, images)
    assert sizes == {(32, 32), (34, 32), (32, 33), (34, 33)}  # the last ones reach the border


def test_flipped_look_comes_back_the_right_way_round(images):
    images = images[..., :100]  # a width that the model's steps divide
    plain, flipped = AugmentedInference(flip=True).logits(shrink, images)
    torch.testing.assert_close(plain, flipped)


def test_scales_are_averaged_at_full_size_after_the_softmax(images):
    looks = AugmentedInference(scales=(0.5, 1.0, 1.5)).logits(shrink, images)
    assert [look.shape[-1] for look in looks] == [13, 26, 38]
    full = [
        F.interpolate(look, size=(70, 101), mode="bilinear", align_corners=False).softmax(1)
        for look in looks
    ]
    expected = torch.stack(full).mean(0).argmax(1)
    assert (predict_labels(looks, (70, 101)) == expected).float().mean() > 0.9999


def test_labels_are_the_argmax_of_the_upsampled_logits():
    logits = torch.randn(3, 21, 20, 30, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, size=(77, 119), mode="bilinear", align_corners=False).argmax(1)
    found = predict_labels([logits], (77, 119))
    assert (found == expected).float().mean() > 0.9999  # ties in the last digit
    assert torch.equal(found, torch.cat([predict_labels([one[None]], (77, 119)) for one in logits]))


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"scales": (1.0, -1.0)}, "--scales: -1 is not above 0"),
        ({"scales": ()}, "--scales: at least one"),
        ({"window": 33}, "--window: 33; allowed are multiples of 4 from 32"),
        ({"stride": 8}, "--stride: 8; allowed are multiples of 4 up to --window"),
        ({"window": 64, "stride": 128}, "--stride: 128"),
    ],
)
def test_impossible_options_are_told(options, law):
    with pytest.raises(ConfigError, match=law):
        AugmentedInference(**options)
