"""Numbers of a run in, a Verdict out. Knows neither models nor ranks: the trainer hands in numbers that all ranks share."""

from __future__ import annotations

import math

from segtune.config import ExperimentConfig
from segtune.verdict import Verdict


class HealthMonitor:
    """Watches the steps of one run and says when going on would be pointless."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.skipped = 0

    def step(self, *, epoch: int, step: int, loss: float, grad_norm: float, lr: float, scaled: bool) -> Verdict | None:
        """Looks at one step before the optimiser is touched.

        `epoch` counts finished epochs, `loss` and `grad_norm` are sums over the ranks, `lr` the encoder's rate of this
        step, `scaled` whether an AMP scaler absorbs gradients that overflow. Returns a verdict of kind non-finite, or None.
        """
        if not math.isfinite(loss):
            return self._non_finite(epoch, step, f"the loss is {loss} at step {step}, learning rate {lr:.3g}")
        self.skipped = 0 if math.isfinite(grad_norm) else self.skipped + 1
        limit = self.config.health.max_skipped_steps if scaled else 1
        if self.skipped < limit:
            return None
        times = f" for {self.skipped} steps in a row" if self.skipped > 1 else ""
        return self._non_finite(
            epoch, step, f"the gradient norm is {grad_norm}{times} at step {step}, loss {loss:.4g}, learning rate {lr:.3g}"
        )

    def _non_finite(self, epoch: int, step: int, evidence: str) -> Verdict:
        optim = self.config.optim
        advice = f"try optim.lr {optim.lr / 10:.2g}"
        if optim.precision == "fp16":
            advice = "try optim.precision bf16 or fp32, or " + advice.removeprefix("try ")
        elif optim.clip_norm is None:
            advice += " or optim.clip_norm 1.0"
        return Verdict(state="unhealthy", kind="non-finite", epoch=epoch, step=step, evidence=evidence, advice=advice)
