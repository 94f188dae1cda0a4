"""The two clocks of a training run: epochs, and iterations of the training loop.

An optimiser step has `accumulate` iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

from segtune.mmseg.ledger import Ref, is_number

WAY_OUT = "to convert it to epochs, pass --images with the number of training images"
NO_CLOCK = f"in iterations, and the number of training images is not known; {WAY_OUT}"


@dataclass(frozen=True)
class Clock:
    """The length of a training run, and how to convert iterations."""

    epochs: int | None  # of an epoch-based loop
    iterations: int | None  # of an iteration-based loop
    per_epoch: float | None  # iterations in an epoch of segtune; None if it is not known
    accumulate: int
    times: int  # epochs of segtune in one of the config

    @property
    def total_iterations(self) -> float | None:
        """The length in iterations, if it is known."""
        if self.iterations is not None:
            return self.iterations
        known = self.epochs is not None and self.per_epoch is not None
        return self.epochs * self.times * self.per_epoch if known else None  # type: ignore[operator]


def carry_steps(ref: Ref, setting: str, clock: Clock) -> None:
    """Set a number of optimiser steps from one of iterations."""
    if is_number(ref.plain):
        ref.carry({setting: int(ref.plain / clock.accumulate)})
    else:
        ref.leave("expected a number of iterations")


def carry_interval(ref: Ref, setting: str, clock: Clock, changes_numbers: bool = True) -> None:
    """Set a number of epochs, at least 1, from one of iterations."""
    if not is_number(ref.plain):
        ref.leave("expected a number of iterations", changes_numbers)
    elif clock.per_epoch is None:
        ref.leave(NO_CLOCK, changes_numbers)
    else:
        epochs = ref.plain / clock.per_epoch
        ends = f"{clock.per_epoch:.4g} in an epoch are {epochs:.4g} epochs"
        ref.carry({setting: max(1, round(epochs))}, f"{ref.plain} iterations of {ends}")
