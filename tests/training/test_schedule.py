"""Laws of the learning rate, by step and by epoch."""

import pytest

from segtune.config.schedule_config import ScheduleConfig
from segtune.errors import ConfigError
from segtune.training.schedule import factor_of_step, learning_rate_factor


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.01), (1, 0.505), (2, 1.0), (3, 1.0), (6, 0.5), (9, 0.0)],
)
def test_learning_rate_warms_up_linearly_and_decays_by_the_power(
    step: int, expected: float
) -> None:
    factor = learning_rate_factor(step, total=10, warmup=3, warmup_start=0.01, power=1.0)
    assert factor == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "power", "floor", "expected"),
    [
        (8, 0.9, 0.2, 0.2),  # the last step has the floor
        (7, 0.0, 0.0, 1.0),  # power 0 does not decay
        (4, 2.0, 0.0, 0.25),  # half of the way, squared
        (4, 1.0, 0.2, 0.6),  # half of the way from 1 to the floor
    ],
)
def test_learning_rate_ends_at_the_floor(
    step: int, power: float, floor: float, expected: float
) -> None:
    factor = learning_rate_factor(
        step, total=9, warmup=0, warmup_start=0.1, power=power, floor=floor
    )
    assert factor == pytest.approx(expected)


def test_warmup_of_one_step_is_followed_by_the_peak() -> None:
    factors = [
        learning_rate_factor(step, total=3, warmup=1, warmup_start=0.1, power=1.0)
        for step in range(3)
    ]
    assert factors == [0.1, 1.0, 0.0]


def test_learning_rate_by_epoch_is_the_same_in_all_steps_of_an_epoch() -> None:
    config = ScheduleConfig(
        epochs=5, by="epoch", warmup_epochs=2, warmup_start=0.5, poly_power=1.0, val_every=1
    )
    factors = [factor_of_step(step, 3, config) for step in range(15)]
    assert factors == [factor for factor in (0.5, 1.0, 1.0, 0.5, 0.0) for _ in range(3)]


def test_a_fraction_of_a_warmup_epoch_needs_steps() -> None:
    with pytest.raises(ConfigError, match=r"warmup_epochs must be a whole number.*by: step"):
        ScheduleConfig.parse({"by": "epoch", "warmup_epochs": 1.5})
