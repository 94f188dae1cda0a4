"""The settings of the length, the learning rate schedule and the validation interval."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from segtune.config.settings import Settings


class ScheduleConfig(Settings):
    """Length, batch size, learning rate schedule (warmup, then poly) and validation interval."""

    epochs: int = Field(default=200, ge=1, description="Passes over the training images.")
    steps: int | None = Field(
        default=None,
        ge=1,
        description="Length in optimiser steps, for example 40000, 80000 or 160000, in place of "
        "schedule.epochs, which then follows from the number of images. The last epoch may be "
        "shorter. Validations stay at the ends of epochs. Not in a search, which counts in "
        "epochs. null: schedule.epochs decides.",
    )
    batch_size: int = Field(
        default=18,
        ge=1,
        description="Images per optimiser step, all workers together. Must be a multiple of "
        "accumulate and of the number of workers.",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Backward passes per optimiser step. Raise it if the batch does not fit into "
        "memory.",
    )
    by: Literal["step", "epoch"] = Field(
        default="step",
        description="step: the learning rate changes at every step. epoch: it changes once per "
        "epoch, as with by_epoch in mmengine. Both follow mmengine's LinearLR and PolyLR: the last "
        "step (or epoch) of the warmup and the first one after it have the peak, and the last one "
        "of all has eta_min.",
    )
    warmup_epochs: float = Field(
        default=15,
        ge=0,
        description="Length of the linear warmup in epochs. May be a fraction, such as 0.5, unless "
        "schedule.by is epoch. Must be less than epochs.",
    )
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        description="Length of the linear warmup in steps, in place of schedule.warmup_epochs, "
        "for example 1500. Only if schedule.by is step. null: schedule.warmup_epochs decides.",
    )
    warmup_start: float = Field(
        default=1.0e-6,
        gt=0,
        le=1,
        description="Learning rate at step 0, as a fraction of the peak.",
    )
    poly_power: float = Field(
        default=1.0,
        ge=0,
        description="Exponent of the poly schedule after warmup: the learning rate falls to "
        "eta_min with (1 - progress)^poly_power. 0: it stays constant.",
    )
    eta_min: float = Field(
        default=0.0,
        ge=0,
        description="Learning rate of the encoder at the end (not a fraction). The head ends at "
        "optim.head_lr_mult times this.",
    )
    val_every: int = Field(
        default=10,
        ge=1,
        description="Epochs between validations. The last epoch is always validated.",
    )

    @model_validator(mode="after")
    def _check_warmup_and_batch(self) -> Self:
        self._check_warmup()
        if self.batch_size % self.accumulate:
            raise ValueError(
                "batch_size must be a multiple of accumulate, "
                f"got batch_size {self.batch_size} and accumulate {self.accumulate}"
            )
        return self

    def _check_warmup(self) -> None:
        if self.warmup_steps is None:
            if self.warmup_epochs >= self.epochs:
                raise ValueError(
                    "warmup_epochs must be less than epochs, "
                    f"got {self.warmup_epochs:g} of {self.epochs}"
                )
            if self.by == "epoch" and self.warmup_epochs % 1:
                raise ValueError(
                    "warmup_epochs must be a whole number if by is epoch, "
                    f"got {self.warmup_epochs:g}; by: step allows fractions"
                )
        elif self.by == "epoch":
            raise ValueError("warmup_steps needs by: step; use warmup_epochs with by: epoch")
        elif self.steps and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps must be less than steps, got {self.warmup_steps} of {self.steps}"
            )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimiser steps of the whole training run."""
        return self.steps or steps_per_epoch * self.epochs

    def steps_of_epoch(self, epoch: int, steps_per_epoch: int) -> int:
        """Return the optimiser steps of an epoch, from 1: fewer in the last one with `steps`."""
        if self.steps is None:
            return steps_per_epoch
        return min(steps_per_epoch, self.steps - (epoch - 1) * steps_per_epoch)

    def validates(self, epoch: int) -> bool:
        """Whether there is a validation after `epoch`, which counts from 1."""
        return epoch % self.val_every == 0 or epoch == self.epochs
