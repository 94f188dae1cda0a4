"""The learning rate of every step of every shipped config is that of mmengine's schedulers.

The computation here is independent: it repeats the recursions of LinearLR and PolyLR on the
learning rate of a parameter group, as mmengine runs them, instead of the closed form.
"""

from pathlib import Path

import numpy as np
import pytest
from shipped import CONFIGS

from segtune.config.schema import ExperimentConfig, load_config
from segtune.training.schedule import factor_of_step

# Training images by the beginning of a config's name. The cells are an example.
NUM_IMAGES = {
    "voc12_": 1464,
    "voc12aug_": 10_582,
    "ade20k_": 20_210,
    "camvid_": 367,
    "shapes_": 160,
    "cells_": 200,
}


def mmengine_rates(config: ExperimentConfig, steps_per_epoch: int, peak: float) -> list[float]:
    """Return the learning rate of each position: a step, or an epoch with `schedule.by` epoch."""
    schedule = config.schedule
    per_epoch = steps_per_epoch if schedule.by == "step" else 1
    warmup_end = round(schedule.warmup_epochs * per_epoch)
    end = schedule.epochs * per_epoch
    rate, rates = peak, []
    for position in range(end):
        if position < warmup_end:  # LinearLR(start_factor, begin=0, end=warmup_end)
            total = warmup_end - 1
            rise = 1 - schedule.warmup_start
            if position == 0:
                rate *= schedule.warmup_start
            else:
                rate *= 1 + rise / (total * schedule.warmup_start + (position - 1) * rise)
        elif position > warmup_end:  # PolyLR(eta_min, power, begin=warmup_end, end=end)
            total, last_step = end - warmup_end - 1, position - warmup_end
            shrink = (1 - 1 / (total - last_step + 1)) ** schedule.poly_power
            rate = (rate - schedule.eta_min) * shrink + schedule.eta_min
        rates.append(rate)
    return rates


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_learning_rate_of_every_step_is_that_of_mmengine(path: Path) -> None:
    config = load_config(path)
    schedule, optim = config.schedule, config.optim
    num_images = next(number for start, number in NUM_IMAGES.items() if path.stem.startswith(start))
    steps_per_epoch = num_images // schedule.batch_size
    # In mmengine, eta_min is that of every group; here, that of the encoder.
    assert schedule.eta_min == 0 or optim.head_lr_mult == 1
    per_position = 1 if schedule.by == "step" else steps_per_epoch
    for peak in {optim.lr, optim.lr * optim.head_lr_mult}:
        expected = mmengine_rates(config, steps_per_epoch, peak)
        assert len(expected) * per_position == schedule.epochs * steps_per_epoch
        floor = schedule.eta_min / optim.lr
        ours = [
            peak * factor_of_step(position * per_position, steps_per_epoch, schedule, floor)
            for position in range(len(expected))
        ]
        # The recursion loses digits, the closed form does not.
        np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-12 * peak)
