"""Parameters, FLOPs, memory and speed of a config's network."""

import pytest
from torch import nn

from segtune.config.schema import ExperimentConfig
from segtune.training.model_profile import count_flops, profile


def test_a_multiplication_with_an_addition_counts_as_two_operations() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Conv2d(8, 5, 1))
    pixels = 16 * 24  # at a quarter of 64 x 96
    assert count_flops(network, 64, 96) == 2 * pixels * (3 * 8 * 9 + 8 * 5)


def test_numbers_of_a_network_are_those_of_its_training_step(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"schedule.accumulate": 2, "data.crop": [64, 96]})
    result = profile(config, 7, seconds=0.01)
    assert result.parameters == result.encoder_parameters + result.head_parameters
    assert (result.height, result.width, result.batch_size) == (64, 96, 4)
    assert result.head_parameters == pytest.approx(64 * (16 + 32 + 64 + 96 + 4 * 64), rel=0.05)
    assert result.macs == result.flops // 2 > 0
    assert result.train_images_per_s
    assert result.train_memory
    assert result.train_memory > 4 * result.parameters * 3  # weights, gradients and moments
    assert result.frozen_parameters == 0
