"""Laws of augmentation and loading: what a sample looks like depends on (seed, epoch, index) and on nothing else."""

from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from segtune.config.schema import AugmentConfig, DataConfig
from segtune.data.augment import Augmentation, cutmix, fit_scale, resize_and_crop, resize_to_fit
from segtune.data.loader import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SampleKey,
    TrainLoader,
    ValLoader,
    normalize,
)
from segtune.data.photometric import PhotometricDistortion
from segtune.errors import ConfigError

EVERYTHING = {
    "augment.cutout.prob": 0.7,
    "augment.mix.kind": "cutmix",
    "augment.mix.prob": 0.7,
    "augment.photometric": True,
    "augment.ratio": [0.5, 2.0],
}


def batches(config, epoch=1, rank=0, world_size=1):
    return [
        (b.images.clone(), b.masks.clone())
        for b in TrainLoader(config, rank, world_size).epoch(epoch)
    ]


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, two, strict=True)
    )


@pytest.mark.slow
def test_loaders_make_no_difference(tiny_config):
    config = tiny_config.override(EVERYTHING)
    alone = batches(config)
    assert same(alone, batches(config.override({"data.num_loaders": 2})))
    assert same(alone, batches(config.override({"data.num_loaders": 4})))


def test_ranks_see_together_what_one_sees(tiny_config):
    config = tiny_config.override(EVERYTHING)
    parts = [batches(config, rank=rank, world_size=2) for rank in (0, 1)]
    joined = [
        tuple(torch.cat(pair) for pair in zip(a, b, strict=True))
        for a, b in zip(*parts, strict=True)
    ]
    assert same(batches(config), joined)


def test_accumulation_sees_the_same_global_batches(tiny_config):
    parts = batches(tiny_config.override({"schedule.accumulate": 2}))
    joined = [
        tuple(torch.cat(pair) for pair in zip(a, b, strict=True))
        for a, b in zip(parts[::2], parts[1::2], strict=True)
    ]
    assert same(batches(tiny_config), joined)


@pytest.mark.parametrize("loaders", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_epochs_differ_and_repeat(tiny_config, loaders):
    loader = TrainLoader(tiny_config.override({"data.num_loaders": loaders}), 0, 1)
    epochs = [[(b.images.clone(), b.masks.clone()) for b in loader.epoch(e)] for e in (1, 2, 1)]
    assert not same(epochs[0], epochs[1])
    assert same(epochs[0], epochs[2])


def test_samples_of_one_batch_differ_in_their_augmentation(tiny_config):
    sample = TrainLoader(tiny_config.override(EVERYTHING), 0, 1)._loader.dataset
    assert not np.array_equal(sample[SampleKey(1, 0, 1)][0], sample[SampleKey(2, 0, 1)][0])
    assert np.array_equal(sample[SampleKey(1, 0, 1)][0], sample[SampleKey(1, 0, 1)][0])


def test_every_image_is_validated_once_over_all_ranks(tiny_config):
    names = [name for rank in range(3) for b in ValLoader(tiny_config, rank, 3) for name in b.names]
    assert len(names) == len(set(names)) == 7


def test_batches_that_cannot_be_formed_are_refused(tiny_config):
    with pytest.raises(
        ConfigError, match="8 does not divide among 3 workers x accumulate 1; the nearest is 6"
    ):
        TrainLoader(tiny_config, 0, 3)
    with pytest.raises(ConfigError, match="25 is more than the 24 training images"):
        TrainLoader(tiny_config.override({"schedule.batch_size": 25}), 0, 1)


def augmentation(data=None, **augment):
    plain = {"ratio": [1.0, 1.0], "cat_max_ratio": 1.0, "flip": 0.0, "photometric": False}
    return Augmentation(
        DataConfig.parse({"resize": [64, 64], "crop": [32, 32], **(data or {})}),
        AugmentConfig.parse({**plain, **augment}),
    )


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (64, 64))
    labels = np.zeros((64, 64), np.uint8)
    labels[20:40, 20:40] = 1
    labels[:, 60:] = 255
    return image, labels


@pytest.mark.parametrize("seed", range(60))
def test_cropping_first_equals_resizing_first(seed):
    # The plain way: resize the whole image, then cut the same window out of it.
    rng = np.random.default_rng(seed)
    scale = float(rng.choice([0.5, 1.0, 2.0, rng.uniform(0.5, 3.0)]))
    image = cv2.resize(rng.integers(0, 255, (20, 26, 3), np.uint8), (260, 200))
    labels = cv2.resize(
        rng.integers(0, 9, (20, 26), np.uint8), (260, 200), interpolation=cv2.INTER_NEAREST
    )
    full = (round(200 * scale), round(260 * scale))
    size = [min(160, f) for f in full]
    top, left = (int(rng.integers(0, f - s + 1)) for f, s in zip(full, size, strict=True))
    ours, our_labels = resize_and_crop(
        image, labels, (top, left, *size), scale, False, PhotometricDistortion()
    )
    part = (slice(top, top + size[0]), slice(left, left + size[1]))
    whole = cv2.resize(image, full[::-1], interpolation=cv2.INTER_LINEAR)[part]
    assert np.abs(ours.astype(int) - whole.astype(int)).max() <= 3
    ys, xs = (
        ((np.arange(f) + 0.5) * n / f).astype(int) for f, n in zip(full, labels.shape, strict=True)
    )
    assert (
        our_labels == labels[ys][:, xs][part]
    ).mean() > 0.99  # rounding where a pixel lies on the border of two


@pytest.mark.parametrize("scale", [0.06, 33.0, 64.0])
def test_extreme_scales_are_cut_alike(scale):
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    full = (round(48 * scale), round(64 * scale))
    size = [min(96, f) for f in full]
    for share in (0.0, 0.37, 1.0):
        top, left = (int(share * (f - s)) for f, s in zip(full, size, strict=True))
        ours, labels = resize_and_crop(
            image, image[..., 0].copy(), (top, left, *size), scale, False, PhotometricDistortion()
        )
        whole = cv2.resize(image, full[::-1], interpolation=cv2.INTER_LINEAR)[
            top : top + size[0], left : left + size[1]
        ]
        assert ours.shape == whole.shape
        assert labels.shape == whole.shape[:2]
        assert np.abs(ours.astype(int) - whole.astype(int)).mean() < 2


def test_crops_lie_anywhere_in_the_resized_image_alike(scene):
    cut = augmentation({"crop": [32, 32]}, ratio=[0.75, 1.5])
    drawn = [cut._draw_window(64, 64, 1.5, np.random.default_rng(seed))[:2] for seed in range(3000)]
    counts = np.bincount(np.array(drawn).ravel(), minlength=65)
    assert len(counts) == 65  # 96 - 32 + 1 places
    assert counts.min() > 0.5 * counts.mean()


def test_small_images_are_padded_with_mean_colour_and_ignore(scene):
    image, labels = augmentation({"crop": [96, 80]})(*scene, np.random.default_rng(0))
    assert image.shape == (96, 80, 3)
    assert (labels[64:] == 255).all()
    assert image[95, 79].tolist() == [124, 116, 104]
    assert np.array_equal(image[:64, :64], scene[0])


def test_crops_of_one_class_are_drawn_again(scene):
    image, labels = scene
    shares = {}
    for ratio in (1.0, 0.75):
        cut = augmentation(cat_max_ratio=ratio)
        crops = [cut(image, labels, np.random.default_rng(i))[1] for i in range(200)]
        shares[ratio] = np.mean([(c == 0).mean() > 0.75 for c in crops])
    assert shares[0.75] < 0.5 * shares[1.0]


def test_flip_turns_image_and_mask_together(scene):
    image, labels = augmentation({"crop": [64, 64]}, flip=1.0)(*scene, np.random.default_rng(0))
    assert np.array_equal(image, scene[0][:, ::-1])
    assert np.array_equal(labels, scene[1][:, ::-1])


def test_cutout_fills_image_with_mean_and_labels_with_ignore(scene):
    image, labels = augmentation({"crop": [64, 64]}, cutout={"prob": 1.0})(
        *scene, np.random.default_rng(0)
    )
    holes = (image == (124, 116, 104)).all(-1)
    assert 0 < holes.mean() < 0.2
    assert (labels[holes] == 255).all()
    assert np.array_equal(labels[~holes], scene[1][~holes])


def test_photometric_distortion_leaves_labels_and_size_alone(scene):
    image, labels = augmentation({"crop": [64, 64]}, photometric=True)(
        *scene, np.random.default_rng(1)
    )
    assert np.array_equal(labels, scene[1])
    assert image.shape == scene[0].shape
    assert image.dtype == np.uint8
    assert not np.array_equal(image, scene[0])


def test_photometric_distortion_is_the_formula_when_everything_is_drawn():
    pixel = np.array([[[100, 60, 20]]], np.uint8)
    hsv = cv2.cvtColor(((pixel + 20) * 0.5).astype(np.uint8), cv2.COLOR_RGB2HSV).astype(float)
    hsv[..., 0] = (hsv[..., 0] + 10) % 180
    hsv[..., 1] = (hsv[..., 1] * 1.5).clip(0, 255)
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    assert np.array_equal(PhotometricDistortion(20.0, 0.5, 1.5, 10, True).apply(pixel), expected)
    last = PhotometricDistortion(20.0, 1.5, contrast_first=False).apply(pixel)
    assert last.tolist() == [[[180, 120, 60]]]
    assert PhotometricDistortion().apply(pixel) is pixel


def test_each_part_of_the_distortion_is_drawn_half_of_the_time():
    drawn = [PhotometricDistortion.draw(np.random.default_rng(seed)) for seed in range(400)]
    for name in ("brightness", "contrast", "saturation", "hue", "contrast_first"):
        neutral = np.mean(
            [getattr(one, name) == getattr(PhotometricDistortion(), name) for one in drawn]
        )
        assert 0.4 < neutral < 0.6, name
    assert max(abs(one.brightness) for one in drawn) == pytest.approx(32, abs=1)
    assert sorted({one.hue for one in drawn})[:: len({one.hue for one in drawn}) - 1] == [-17, 17]


@pytest.mark.parametrize("scale", [1.3, 2.5])
def test_colours_before_and_after_the_resize_come_to_the_same(scene, scale):
    colours, window = PhotometricDistortion(10.0, 1.2, 0.8, 5), (3, 5, 60, 50)
    before, _ = resize_and_crop(*scene, window, scale, False, colours)
    after = colours.apply(resize_and_crop(*scene, window, scale, False, PhotometricDistortion())[0])
    assert np.abs(before.astype(int) - after).mean() < 1.5


def test_a_flip_on_the_way_is_a_flip_at_the_end(scene):
    window = (3, 5, 60, 50)
    for scale in (0.9, 1.7):
        turned = resize_and_crop(*scene, window, scale, True, PhotometricDistortion())
        plain = resize_and_crop(*scene, window, scale, False, PhotometricDistortion())
        assert np.abs(turned[0].astype(int) - plain[0][:, ::-1]).max() <= 2
        assert (turned[1] == plain[1][:, ::-1]).mean() > 0.98


def test_cutmix_brings_labels_with_the_pixels():
    zeros = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    ones = np.ones((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    image, labels = cutmix(*zeros, ones, np.random.default_rng(0))
    assert 0 < labels.sum() < 64
    assert np.array_equal(image[..., 0], labels)
    assert zeros[1].sum() == 0


def test_images_fit_the_long_and_the_short_side():
    assert fit_scale(360, 480, (2048, 512)) == pytest.approx(512 / 360)
    assert fit_scale(100, 1000, (2048, 512)) == pytest.approx(2.048)
    assert resize_to_fit(np.zeros((360, 480, 3), np.uint8), (240, 240)).shape == (180, 240, 3)


def test_normalised_mean_colour_is_zero():
    image = torch.tensor(IMAGENET_MEAN).round().to(torch.uint8).view(1, 3, 1, 1)
    assert normalize(image).abs().max() < 0.01
    assert normalize(image + 50)[0, 0, 0, 0] == pytest.approx(
        (174 - IMAGENET_MEAN[0]) / IMAGENET_STD[0], abs=1e-4
    )


def test_batches_are_pinned_where_the_loader_is_asked_to(tiny_config):
    # Without a GPU there is no such memory; that torch finds the method is what can be seen here.
    for batch in (
        next(TrainLoader(tiny_config, 0, 1).epoch(1)),
        next(iter(ValLoader(tiny_config, 0, 1))),
    ):
        with patch.object(torch.Tensor, "pin_memory", lambda self: self + 0):
            pinned = pin_memory(batch)
        assert pinned is not batch
        assert torch.equal(pinned.images, batch.images)
        assert torch.equal(pinned.masks, batch.masks)
