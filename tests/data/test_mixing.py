"""Laws of CutMix and MixUp: pixels and labels stay together."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from segtune.config.augment_config import MixConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.loader import Batch, TrainLoader
from segtune.data.mixing import TrainSample, mix


def constant(value: int) -> TrainSample:
    return TrainSample(np.full((8, 8, 3), value, np.uint8), np.full((8, 8), value, np.uint8))


def test_cutmix_copies_labels_with_their_pixels() -> None:
    first, second = constant(0), constant(1)
    mixed = mix(first, second, MixConfig(kind="cutmix"), np.random.default_rng(0))
    assert 0 < mixed.mask.sum() < 64
    assert np.array_equal(mixed.image[..., 0], mixed.mask)
    assert mixed.second_mask is None
    assert first.mask.sum() == 0


def test_mixup_blends_pixels_in_the_share_of_the_labels() -> None:
    mixed = mix(constant(100), constant(200), MixConfig(kind="mixup"), np.random.default_rng(0))
    share = np.random.default_rng(0).uniform()
    assert mixed.first_share == share
    assert (mixed.image == round(100 * share + 200 * (1 - share))).all()
    assert (mixed.mask == 100).all()
    assert mixed.second_mask is not None
    assert (mixed.second_mask == 200).all()


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.05, 0.8, 1.0), (1.0, 0.1, 0.3), (30, 0, 0)])
def test_alpha_decides_how_often_one_image_dominates(alpha: float, low: float, high: float) -> None:
    config = MixConfig(kind="mixup", alpha=alpha)
    rng = np.random.default_rng(0)
    shares = [mix(constant(0), constant(1), config, rng).first_share for _ in range(200)]
    assert low <= np.mean([not 0.1 < share < 0.9 for share in shares]) <= high


def batches(config: ExperimentConfig, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    yield from TrainLoader(config, rank, ranks).epoch(1)


def test_a_batch_has_second_masks_only_if_a_sample_is_mixed(tiny_config: ExperimentConfig) -> None:
    plain = next(batches(tiny_config))
    assert plain.second_masks is None
    assert plain.first_share is None
    half = tiny_config.override({"augment.mix.kind": "mixup", "augment.mix.prob": 0.5})
    mixed = next(batches(half))
    assert mixed.second_masks is not None
    assert mixed.first_share is not None
    alone = mixed.first_share == 1
    assert 0 < alone.sum() < len(alone)
    assert torch.equal(mixed.second_masks[alone], mixed.masks[alone])
    assert torch.equal(mixed.images[alone], plain.images[alone])
    assert not torch.equal(mixed.images[~alone], plain.images[~alone])


def test_mixing_does_not_depend_on_the_number_of_ranks(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"augment.mix.kind": "mixup", "augment.mix.prob": 0.5})
    whole = next(batches(config))
    parts = [next(batches(config, rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
