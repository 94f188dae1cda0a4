"""A cheaper version of a config: fewer epochs, smaller images, fewer images. Knows no searches."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from segtune.config.schema import ExperimentConfig
from segtune.config.settings import Settings


class ProxyConfig(Settings):
    """How the config is made cheaper for a search, and how its ranking is checked afterwards."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Epochs of a trial. schedule.warmup_epochs, schedule.val_every and "
        "checkpoint.every shrink in proportion. null: as in the config.",
    )
    resolution: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Factor for data.resize, data.crop, val.window and val.stride. Sides of images "
        "and crops are rounded to multiples of 32 pixels. null: as in the config.",
    )
    num_images: int | None = Field(
        default=None,
        ge=1,
        description="Train on the first N images only. null: as in the config.",
    )
    carry: int = Field(
        default=4,
        ge=2,
        description="How many trials are trained at full length after the search, besides the "
        "config itself. Half of them are the best trials; the others are spread evenly over the "
        "rest, so that ranks can be compared.",
    )
    warn_below: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        description="Warn if Spearman's rank correlation between mIoU on the proxy and mIoU at "
        "full length is below this. The proxy's ranking is then close to chance.",
    )


def epoch_changes(config: ExperimentConfig, epochs: int) -> dict[str, Any]:
    """Return {dotted name: value} that makes a config `epochs` long.

    The warmup and the intervals between validations and between checkpoints change in proportion.
    """
    schedule, share = config.schedule, epochs / config.schedule.epochs
    warmup = schedule.warmup_epochs * share
    return {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": warmup if schedule.by == "step" else round(warmup),
        "schedule.val_every": max(1, round(schedule.val_every * share)),
        "checkpoint.every": max(1, round(config.checkpoint.every * share)),
    }


def shorten(config: ExperimentConfig, proxy: ProxyConfig) -> ExperimentConfig:
    """Return the config at the proxy's size. Raises ConfigError if the result is not valid."""
    changes: dict[str, Any] = {}
    if proxy.epochs:
        changes |= epoch_changes(config, proxy.epochs)
    if proxy.resolution:
        for name in ("data.resize", "data.crop"):
            sides = config.get(name)
            changes[name] = [max(32, 32 * round(side * proxy.resolution / 32)) for side in sides]
        for name, smallest in (("val.window", 32), ("val.stride", 1)):
            sides = config.get(name) or ()
            shorter = [max(smallest, round(side * proxy.resolution)) for side in sides]
            changes[name] = shorter or None
    if proxy.num_images:
        changes["data.num_images"] = proxy.num_images
    return config.override(changes)
