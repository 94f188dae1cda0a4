"""A cheaper stand-in for a config: fewer epochs, smaller images, a part of the data. Knows nothing of searches."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from segtune.config.schema import ExperimentConfig, Share
from segtune.config.settings import Settings


class ProxyConfig(Settings):
    """What a study searches on instead of its config, and how far that is trusted."""

    epochs: int | None = Field(
        default=None,
        ge=1,
        description="epochs of a trial; warmup and validations shrink in proportion",
    )
    resolution: Share | None = Field(
        default=None, gt=0, description="scale of data.resize and data.crop, in steps of 32 pixels"
    )
    num_images: int | None = Field(
        default=None, ge=1, description="train on the first N images only"
    )
    carry: int = Field(
        default=4,
        ge=2,
        description="trials that are trained at full length afterwards, the best and some of the others",
    )
    warn_below: float = Field(
        default=0.5,
        ge=-1,
        le=1,
        description="a rank correlation of proxy and full mIoU below this is warned of: the proxy ranks by chance",
    )


def shorten(config: ExperimentConfig, proxy: ProxyConfig) -> ExperimentConfig:
    """Returns the config at the proxy's size. Raises ConfigError where that is impossible."""
    changes: dict[str, Any] = {}
    if proxy.epochs:
        share = proxy.epochs / config.schedule.epochs
        changes["schedule.epochs"] = proxy.epochs
        changes["schedule.warmup_epochs"] = config.schedule.warmup_epochs * share
        changes["schedule.val_every"] = max(1, round(config.schedule.val_every * share))
        changes["checkpoint.every"] = max(1, round(config.checkpoint.every * share))
    if proxy.resolution:
        for name in ("data.resize", "data.crop"):
            changes[name] = [
                max(32, 32 * round(side * proxy.resolution / 32)) for side in config.get(name)
            ]
    if proxy.num_images:
        changes["data.num_images"] = proxy.num_images
    return config.override(changes)
