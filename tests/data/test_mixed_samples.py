"""mixup blends two samples, and its batch carries the labels and the shares of both."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from segtune.config.schema import ExperimentConfig
from segtune.data.augment import Augmentation
from segtune.data.loader import Batch, TrainLoader
from segtune.data.mixing import blended, cutmix, mixup
from segtune.data.samples import SampleKey, TrainSamples

MIXUP = {"augment.mix.kind": "mixup", "augment.mix.prob": 0.5}
# Every step that draws random numbers.
ALL_STEPS = {
    **MIXUP,
    "augment.rotate.prob": 0.7,
    "augment.cutout.prob": 0.7,
    "augment.erase.prob": 0.7,
    "augment.erase.fill": "random",
    "augment.scales": [0.5, 1.0, 2.0],
    "augment.extra": [
        {"name": "GaussNoise", "p": 0.7},
        {"name": "Affine", "rotate": [-20, 20], "p": 0.7},
        {"name": "CoarseDropout", "p": 0.7},
    ],
}


def pixel(*colour: int) -> np.ndarray:
    return np.array([[colour]], np.uint8)


def batches(config: ExperimentConfig, rank: int = 0, ranks: int = 1, epoch: int = 1) -> list[Batch]:
    """The batches of a rank; every one has tensors for the second labels and the shares."""
    result = []
    for batch in TrainLoader(config, rank, ranks).epoch(epoch):
        second, share = batch.second_masks, batch.first_share
        result.append(
            Batch(
                batch.images.clone(),
                batch.masks.clone(),
                batch.masks.clone() if second is None else second.clone(),
                torch.ones(len(batch.images)) if share is None else share.clone(),
            )
        )
    return result


def tensors(batch: Batch) -> tuple[torch.Tensor, ...]:
    assert batch.second_masks is not None
    assert batch.first_share is not None
    return batch.images, batch.masks, batch.second_masks, batch.first_share


def are_equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(ours, theirs)
        for one, other in zip(left, right, strict=True)
        for ours, theirs in zip(tensors(one), tensors(other), strict=True)
    )


def test_a_blended_pixel_is_the_rounded_weighted_mean() -> None:
    # 0.25 * 100 + 0.75 * 7 = 30.25; 0.25 * 10 + 0.75 * 0 = 2.5 to the even 2; 0.25 * 255 = 63.75.
    assert blended(pixel(100, 10, 255), pixel(7, 0, 0), 0.25).tolist() == [[[30, 2, 64]]]
    assert blended(pixel(9, 9, 9), pixel(200, 0, 1), 1.0).tolist() == [[[9, 9, 9]]]
    assert blended(pixel(9, 9, 9), pixel(200, 0, 1), 0.0).tolist() == [[[200, 0, 1]]]


def test_mixup_returns_the_share_that_it_blended_with() -> None:
    first, second = np.full((4, 4, 3), 200, np.uint8), np.zeros((4, 4, 3), np.uint8)
    shares = []
    for seed in range(200):
        blend, share = mixup(first, second, np.random.default_rng(seed))
        assert abs(float(blend[0, 0, 0]) - 200 * share) <= 0.5
        shares.append(share)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / 12, abs=0.02)  # uniform
    assert (first == 200).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_variance_of_the_beta_distribution(alpha: float) -> None:
    zeros, ones = np.zeros((50, 50), np.uint8), np.ones((50, 50), np.uint8)
    images = np.zeros((50, 50, 3), np.uint8)
    rng = np.random.default_rng(0)
    of_blend = [mixup(images, images, rng, alpha)[1] for _ in range(2000)]
    of_paste = [cutmix(images, zeros, (images, ones), rng, alpha)[1].mean() for _ in range(2000)]
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha)
    assert np.var(of_blend) == pytest.approx(variance, rel=0.1)
    assert np.var(of_paste) == pytest.approx(variance, rel=0.12)


def test_cutmix_with_alpha_1_draws_as_it_did_without_alpha() -> None:
    mask, other = np.zeros((64, 64), np.uint8), np.ones((64, 64), np.uint8)
    image = np.zeros((64, 64, 3), np.uint8)
    _, labels = cutmix(image, mask, (image, other), np.random.default_rng(5))
    rng = np.random.default_rng(5)
    side = max(1, int(64 * np.sqrt(rng.uniform())))
    assert labels.sum() == side**2


def test_a_mixed_sample_is_the_blend_of_two_others(
    tiny_config: ExperimentConfig,
) -> None:
    config = tiny_config.override({**MIXUP, "augment.mix.prob": 1.0})
    mixed = TrainSamples(config)[SampleKey(1, 3, 5)]
    plain = TrainSamples(tiny_config)
    first = plain[SampleKey(1, 3, 5)]
    assert mixed.second_mask is not None
    assert 0 <= mixed.first_share <= 1
    assert np.array_equal(mixed.mask, first.mask)
    # The partner is augmented with random numbers of its own (stream 2).
    rng = np.random.default_rng((config.seed, 1, 5, 2))
    image, labels = Augmentation(config.data, config.augment)(*plain.decoded[5], rng)
    assert np.array_equal(mixed.second_mask, labels)
    assert np.array_equal(mixed.image, blended(first.image, image, mixed.first_share))


def test_samples_that_are_not_mixed_have_share_1_and_their_own_labels(
    tiny_config: ExperimentConfig,
) -> None:
    config = tiny_config.override(MIXUP)
    num_plain = 0
    for batch in TrainLoader(config, 0, 1).epoch(1):
        if batch.second_masks is None or batch.first_share is None:
            continue
        assert batch.second_masks.shape == batch.masks.shape
        assert batch.second_masks.dtype == batch.masks.dtype
        assert batch.first_share.dtype == torch.float32
        assert batch.first_share.shape == (len(batch.images),)
        plain = batch.first_share == 1
        num_plain += int(plain.sum())
        assert torch.equal(batch.second_masks[plain], batch.masks[plain])
    assert 4 < num_plain < 20  # of 24 samples, half of them in the mean


@pytest.mark.parametrize("kind", ["none", "cutmix"])
def test_batches_without_a_blend_have_no_second_labels(
    tiny_config: ExperimentConfig, kind: str
) -> None:
    config = tiny_config.override({"augment.mix.kind": kind, "augment.mix.prob": 1.0})
    for batch in TrainLoader(config, 0, 1).epoch(1):
        assert batch.second_masks is None
        assert batch.first_share is None


def test_more_than_255_labels_stay_whole_in_the_second_mask(tiny_config: ExperimentConfig) -> None:
    wide = {"data.ignore_index": 999, "data.label_map": {255: 999}}
    config = tiny_config.override({**MIXUP, "augment.mix.prob": 1.0, **wide})
    batch = next(TrainLoader(config, 0, 1).epoch(1))
    assert batch.second_masks is not None
    assert batch.masks.dtype == batch.second_masks.dtype == torch.int32


def test_pinning_copies_the_second_labels_and_the_shares(tiny_config: ExperimentConfig) -> None:
    # Pinned memory needs a GPU; see test_loader.py.
    batch = next(TrainLoader(tiny_config.override(MIXUP), 0, 1).epoch(1))
    with patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone):
        pinned = pin_memory(batch)
    assert isinstance(pinned, Batch)
    for ours, theirs in zip(tensors(pinned), tensors(batch), strict=True):
        assert ours is not theirs
        assert torch.equal(ours, theirs)


def test_two_ranks_read_the_mixed_batches_of_one_rank(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override(ALL_STEPS)
    halves = [batches(config, rank, 2) for rank in (0, 1)]
    joined = [
        Batch(*(torch.cat(parts) for parts in zip(tensors(one), tensors(other), strict=True)))
        for one, other in zip(*halves, strict=True)
    ]
    assert are_equal(batches(config), joined)


@pytest.mark.slow
def test_loader_processes_make_no_difference_to_any_step(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override(ALL_STEPS)
    assert are_equal(batches(config), batches(config.override({"data.num_loaders": 2})))


def test_a_resumed_run_reads_the_same_epoch_and_other_epochs_differ(
    tiny_config: ExperimentConfig,
) -> None:
    config = tiny_config.override(ALL_STEPS)
    loader = TrainLoader(config, 0, 1)
    for epoch in (1, 2):
        for _ in loader.epoch(epoch):
            pass
    resumed = batches(config, epoch=3)
    assert are_equal(resumed, batches(config, epoch=3))
    assert not are_equal(resumed, batches(config, epoch=2))


def test_settings_without_an_effect_are_named(
    tiny_config: ExperimentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config.override(
        {"augment.mix.kind": "mixup", "augment.scales": [1.0], "augment.ratio": [0.7, 1.5]}
    )
    TrainLoader(config, 0, 1)
    assert "augment.ratio is not used, because augment.scales is set" in caplog.text
    assert "augment.mix.kind is mixup, but augment.mix.prob is 0" in caplog.text
    assert "--set augment.mix.prob=0.5" in caplog.text
    caplog.clear()
    TrainLoader(tiny_config, 0, 1)
    assert caplog.text == ""
