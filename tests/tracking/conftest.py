"""What the tests of tracking share: a config that records in TensorBoard."""

import pytest

from segtune.config.schema import ExperimentConfig


@pytest.fixture
def logged(tiny_config: ExperimentConfig) -> ExperimentConfig:
    """Return the tiny config, three steps an epoch, with a point every second step."""
    return tiny_config.override({"log.every_steps": 2})
