"""The learning rate as a pure function of the step: linear warmup, then the poly schedule."""

from __future__ import annotations

from segtune.config.schedule_config import ScheduleConfig
from segtune.config.schema import ExperimentConfig


def lr_factor(config: ExperimentConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, which counts from 0, relative to `optim.lr`."""
    floor = config.schedule.eta_min / config.optim.lr
    return factor_of_step(step, steps_per_epoch, config.schedule, floor)


def factor_of_step(
    step: int, steps_per_epoch: int, config: ScheduleConfig, floor: float = 0.0
) -> float:
    """Return the learning rate of a step, which counts from 0, relative to the peak.

    With `config.by` epoch, all steps of an epoch have the same learning rate. `floor` is the
    learning rate at the end relative to the peak.
    """
    if config.by == "step":
        position, total = step, config.total_steps(steps_per_epoch)
        warmup = config.warmup_steps
        if warmup is None:
            warmup = round(config.warmup_epochs * steps_per_epoch)
    else:
        position, total = step // steps_per_epoch, config.epochs
        warmup = round(config.warmup_epochs)
    return learning_rate_factor(
        position,
        total=total,
        warmup=warmup,
        warmup_start=config.warmup_start,
        power=config.poly_power,
        floor=floor,
    )


def learning_rate_factor(
    position: int, *, total: int, warmup: int, warmup_start: float, power: float, floor: float = 0.0
) -> float:
    """Return the learning rate at `position` of 0..total-1 relative to the peak.

    Positions are steps or epochs. The first `warmup` positions rise linearly from `warmup_start` to
    1. The others fall from 1 to the floor: floor + (1 - floor) * (1 - progress)^power. The last
    position of the warmup and the first one after it both have the peak. This is mmengine's
    LinearLR followed by PolyLR. There, a warmup of one position would never leave `warmup_start`;
    here, the position after it has the peak.
    """
    if position < warmup:
        return warmup_start + (1 - warmup_start) * position / max(1, warmup - 1)
    progress = (position - warmup) / max(1, total - warmup - 1)
    return floor + (1 - floor) * max(0.0, 1 - progress) ** power


def plan_in_words(
    config: ScheduleConfig, num_images: int, world_size: int, steps_per_epoch: int
) -> str:
    """Return how the number of steps of a training run follows from the settings."""
    sign = "x" if config.steps is None else "in"
    return (
        f"steps: {num_images} images / {config.batch_size} per batch ({world_size} workers) = "
        f"{steps_per_epoch} per epoch {sign} {config.epochs} epochs = "
        f"{config.total_steps(steps_per_epoch)}"
    )
