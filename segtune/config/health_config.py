"""The settings that say when a training run is unhealthy."""

from __future__ import annotations

from pydantic import Field

from segtune.config.settings import Settings, Share


class HealthConfig(Settings):
    """When a training run is unhealthy and ends early, and when a process counts as hung."""

    max_skipped_steps: int = Field(
        default=20,
        ge=1,
        description="fp16 only: training ends after this many steps in a row with non-finite "
        "gradients. The loss scaler skips such steps and needs a few to settle. In any other "
        "precision, training ends at the first such step.",
    )
    diverged_factor: float = Field(
        default=20.0,
        gt=1,
        description="Training ends if the median loss of 10 steps exceeds this multiple of the "
        "first loss; healthy losses fall. It also ends if the weight norm exceeds this multiple "
        "of its initial value while mIoU is no better than predicting one class everywhere; "
        "healthy norms stay within a few multiples.",
    )
    gradient_factor: float = Field(
        default=1000.0,
        gt=1,
        description="Training ends if the median gradient norm of 10 steps exceeds this multiple "
        "of the median of the first 10 steps. A healthy norm may rise a hundredfold.",
    )
    forgotten_share: Share = Field(
        default=0.5,
        description="Training ends if mIoU stays below this fraction of its best value for "
        "health.patience validations. Validation noise is only a few per cent.",
    )
    patience: int = Field(
        default=2,
        ge=1,
        description="How many validations in a row mIoU must be below health.forgotten_share "
        "before training ends. A single low validation may be an accident.",
    )
    stuck_share: Share = Field(
        default=0.75,
        description="Training ends if, for this fraction of all epochs, the model has predicted "
        "one class everywhere or mIoU has been no better than that. The time is at least 4 "
        "validations and 150 steps. On a short schedule, the latest healthy training run measured "
        "started to learn after 0.6 of its epochs.",
    )
    stuck_steps: int = Field(
        default=1000,
        ge=1,
        description="Upper limit of the time in health.stuck_share: the warmup plus this many "
        "optimiser steps. On a long schedule, learning does not start later than on a short one.",
    )
    constant_share: Share = Field(
        default=0.999,
        description="The model counts as predicting one class everywhere if that class covers "
        "more than this fraction of the pixels. A few other pixels do not make it a useful model.",
    )
    vanished_share: Share = Field(
        default=0.05,
        description="The gradient has vanished if the focusing exponent (loss.focal.gamma) leaves "
        "less than this fraction of the gradient that exponent 0 would give. Training then ends "
        "after half the time of health.stuck_share if nothing has been learnt.",
    )
    hung_factor: float = Field(
        default=50.0,
        ge=1,
        description="A search stops a trial that makes no step for this many times its median "
        "step time, and starts it again from its last checkpoint (see search.retries).",
    )
    hung_after_s: float = Field(
        default=300.0,
        ge=1,
        description="Shortest time without a step, in seconds, after which a trial counts as "
        "hung. Writing a checkpoint to slow storage takes its time.",
    )
