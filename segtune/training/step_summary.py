"""The record of an epoch from the results of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from segtune.runs.records import EpochRecord
from segtune.training.train_step import StepResult


def summary_of_steps(
    epoch: int, results: Sequence[StepResult], growth: float, scaler: torch.amp.GradScaler
) -> EpochRecord:
    """Return the record of an epoch, still without step, rate, times and validation.

    `growth` is the norm of the weights relative to the start. `results` has at least one step.
    """
    is_scaled = scaler.is_enabled()
    norms = [r.grad_norm for r in results if math.isfinite(r.grad_norm)]
    losses = {
        name: sum(r.losses[name] for r in results) / len(results) for name in results[0].losses
    }
    probed = [r.gradient_left for r in results if r.gradient_left is not None]
    return EpochRecord(
        epoch=epoch,
        losses=losses,
        grad_norm=float(np.median(norms)) if norms else 0.0,
        # The last step has none if it was not finite while float16 was left.
        gradient_left=probed[-1] if probed else 1.0,
        weight_growth=growth if math.isfinite(growth) else None,
        # Once per epoch: the host waits for the device.
        loss_scale=scaler.get_scale() if is_scaled else None,
        skipped_steps=len(results) - len(norms) if is_scaled else None,
    )
