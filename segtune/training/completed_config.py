"""What of a config follows from the data set: numbers that the record of a training run holds."""

from __future__ import annotations

from segtune.config.schema import ExperimentConfig
from segtune.data.class_weights import with_class_weights
from segtune.data.layouts import open_split
from segtune.data.masks import check_mask_settings
from segtune.data.value_range import find_value_range


def completed(config: ExperimentConfig, *, is_quiet: bool) -> ExperimentConfig:
    """Return the config with its value range, class weights and number of epochs.

    `is_quiet` logs nothing. The settings of the masks are checked first, because this reads images.
    """
    check_mask_settings(config.data)
    config = _with_epochs(config)
    value_range = find_value_range(config.data, is_quiet=is_quiet)
    config = config.override({"data.value_range": value_range})
    return with_class_weights(config, is_quiet=is_quiet)


def _with_epochs(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with the number of epochs that follows from `schedule.steps`.

    Reads the list of training images if `schedule.steps` is set.
    """
    schedule = config.schedule
    if schedule.steps is None:
        return config
    num_images = len(open_split(config.data, "train"))
    steps_per_epoch = max(1, num_images // schedule.batch_size)
    return config.override({"schedule.epochs": -(-schedule.steps // steps_per_epoch)})
