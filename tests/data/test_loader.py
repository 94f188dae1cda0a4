"""Samples depend on (seed, epoch, index) only, not on the number of ranks or loader processes."""

from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TrainLoader,
    ValLoader,
    normalize,
    num_loaders,
)
from segtune.data.samples import SampleKey, TrainSamples
from segtune.errors import ConfigError

# Every kind of randomness that a sample can have.
ALL_AUGMENTATIONS = {
    "augment.cutout.prob": 0.7,
    "augment.mix.kind": "cutmix",
    "augment.mix.prob": 0.7,
    "augment.photometric": True,
    "augment.ratio": [0.5, 2.0],
}
Batches = Sequence[tuple[Tensor, Tensor]]


def read_epoch(loader: TrainLoader, epoch: int = 1) -> Batches:
    return [(batch.images.clone(), batch.masks.clone()) for batch in loader.epoch(epoch)]


def read(config: ExperimentConfig, rank: int = 0, world_size: int = 1) -> Batches:
    return read_epoch(TrainLoader(config, rank, world_size))


def are_equal(left: Batches, right: Batches) -> bool:
    if len(left) != len(right):
        return False
    return all(
        torch.equal(images, other_images) and torch.equal(masks, other_masks)
        for (images, masks), (other_images, other_masks) in zip(left, right, strict=True)
    )


def joined(first: Batches, second: Batches) -> Batches:
    """Join the batches of two ranks, or two micro-batches of the same step."""
    return [
        (torch.cat([images, more_images]), torch.cat([masks, more_masks]))
        for (images, masks), (more_images, more_masks) in zip(first, second, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("loaders", [2, 4])
def test_loader_processes_make_no_difference(tiny_config: ExperimentConfig, loaders: int) -> None:
    config = tiny_config.override(ALL_AUGMENTATIONS)
    assert are_equal(read(config), read(config.override({"data.num_loaders": loaders})))


def test_two_ranks_read_the_batches_of_one_rank(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override(ALL_AUGMENTATIONS)
    assert are_equal(read(config), joined(read(config, 0, 2), read(config, 1, 2)))


def test_accumulation_reads_the_same_global_batches(tiny_config: ExperimentConfig) -> None:
    micro_batches = read(tiny_config.override({"schedule.accumulate": 2}))
    assert are_equal(read(tiny_config), joined(micro_batches[::2], micro_batches[1::2]))


@pytest.mark.parametrize("loaders", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_epochs_differ_and_repeat(tiny_config: ExperimentConfig, loaders: int) -> None:
    loader = TrainLoader(tiny_config.override({"data.num_loaders": loaders}), 0, 1)
    first, second, again = (read_epoch(loader, epoch) for epoch in (1, 2, 1))
    assert not are_equal(first, second)
    assert are_equal(first, again)


def test_an_image_is_augmented_anew_in_each_epoch(tiny_config: ExperimentConfig) -> None:
    samples = TrainSamples(tiny_config.override(ALL_AUGMENTATIONS))
    first, second, again = (samples[SampleKey(epoch, 0, 1)][0] for epoch in (1, 2, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("loaders", [0, 1])
def test_loading_leaves_torchs_global_generator_untouched(
    tiny_config: ExperimentConfig, loaders: int
) -> None:
    config = tiny_config.override({"data.num_loaders": loaders})
    before = torch.get_rng_state()
    assert len(list(TrainLoader(config, 0, 1).epoch(1))) == 3
    assert len(list(ValLoader(config, 0, 1))) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("cpus", "expected"), [(0.5, 0), (1.0, 0), (2.0, 1), (2.9, 1), (5.0, 4), (64.0, 4)]
)
def test_auto_loaders_leave_a_cpu_for_the_rank(cpus: float, expected: int) -> None:
    auto = ExperimentConfig()
    assert num_loaders(auto, cpus) == expected
    assert num_loaders(auto.override({"data.num_loaders": 7}), cpus) == 7


def test_every_image_is_validated_once_over_all_ranks(tiny_config: ExperimentConfig) -> None:
    names = []
    for rank in range(3):
        for batch in ValLoader(tiny_config, rank, 3):
            names += batch.names
    assert len(names) == len(set(names)) == 7


def test_batch_sizes_that_do_not_fit_are_refused(tiny_config: ExperimentConfig) -> None:
    with pytest.raises(
        ConfigError, match="8 does not divide among 3 workers x accumulate 1; the nearest is 9"
    ):
        TrainLoader(tiny_config, 0, 3)
    with pytest.raises(ConfigError, match="25 is more than the 24 training images"):
        TrainLoader(tiny_config.override({"schedule.batch_size": 25}), 0, 1)


def test_normalised_mean_colour_is_zero() -> None:
    image = torch.tensor(IMAGENET_MEAN).round().to(torch.uint8).view(1, 3, 1, 1)
    assert normalize(image).abs().max() < 0.01
    expected = (174 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
    assert normalize(image + 50)[0, 0, 0, 0] == pytest.approx(expected, abs=1e-4)


def test_the_pinning_thread_of_torch_pins_our_batches(tiny_config: ExperimentConfig) -> None:
    # Pinned memory needs a GPU. The fake below only shows that torch calls our `pin_memory`, and
    # that it pins every tensor of a batch.
    train_batch = next(TrainLoader(tiny_config, 0, 1).epoch(1))
    val_batch = next(iter(ValLoader(tiny_config, 0, 1)))
    for batch in (train_batch, val_batch):
        with patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone):
            pinned = pin_memory(batch)
        assert pinned.images is not batch.images
        assert pinned.masks is not batch.masks
        assert torch.equal(pinned.images, batch.images)
        assert torch.equal(pinned.masks, batch.masks)
