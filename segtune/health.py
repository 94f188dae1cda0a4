"""Numbers of a run in, a Verdict out. Knows neither models nor ranks: the trainer hands in numbers that all ranks share.

What a monitor remembers follows from the run's epoch rows, so a resumed run is watched as an unbroken one.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from segtune.config import ExperimentConfig
from segtune.verdict import Verdict

# Steps whose median loss is looked at: one odd batch is no divergence.
WINDOW = 10


class HealthMonitor:
    """Watches the steps and validations of one run and says when going on would be pointless."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config, self.limits = config, config.health
        self.skipped = 0
        self.first_loss: float | None = None
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.best_miou = 0.0
        self.fallen = 0

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Remembers the epochs of an earlier attempt."""
        for row in rows:
            self.first_loss = row["loss"] if self.first_loss is None else self.first_loss
            self.validation(row)

    def step(self, *, epoch: int, step: int, loss: float, grad_norm: float, lr: float, scaled: bool) -> Verdict | None:
        """Looks at one step before the optimiser is touched.

        `epoch` counts finished epochs, `loss` and `grad_norm` are the same on all ranks, `lr` is the encoder's rate of this
        step, `scaled` whether an AMP scaler absorbs gradients that overflow. Returns a verdict of kind non-finite or
        diverged, or None.
        """
        if not math.isfinite(loss):
            return self._end("non-finite", epoch, step, f"the loss is {loss} at step {step}, learning rate {lr:.3g}", self._calmer())
        self.skipped = 0 if math.isfinite(grad_norm) else self.skipped + 1
        if self.skipped >= (self.limits.max_skipped_steps if scaled else 1):
            times = f" for {self.skipped} steps in a row" if self.skipped > 1 else ""
            evidence = f"the gradient norm is {grad_norm}{times} at step {step}, loss {loss:.4g}, learning rate {lr:.3g}"
            return self._end("non-finite", epoch, step, evidence, self._calmer())
        return self._diverged(epoch, step, loss, lr)

    def _diverged(self, epoch: int, step: int, loss: float, lr: float) -> Verdict | None:
        """The loss stays far above where it began. Focal and cross-entropy grow without bound, Dice does not."""
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.recent.append(loss)
        middle = statistics.median_low(self.recent)
        if len(self.recent) < WINDOW or middle <= self.limits.diverged_factor * self.first_loss:
            return None
        times = middle / self.first_loss if self.first_loss else math.inf
        evidence = f"the loss was {self.first_loss:.4g} at the start and is {middle:.4g} ({times:.0f} times that) over steps {step - WINDOW + 1} to {step}, learning rate {lr:.3g}"
        return self._end("diverged", epoch, step, evidence, self._calmer())

    def validation(self, row: Mapping[str, Any]) -> Verdict | None:
        """Looks at one epoch's row. Returns a verdict of kind forgetting, or None; rows without a validation say nothing."""
        miou = row.get("miou")
        if miou is None:
            return None
        self.best_miou = max(self.best_miou, miou)
        # Below twice the mIoU of a constant prediction there was nothing yet that could be forgotten.
        known = self.best_miou >= 2 * row.get("constant_miou", math.inf)
        self.fallen = self.fallen + 1 if known and miou < self.limits.forgotten_share * self.best_miou else 0
        if self.fallen < self.limits.patience:
            return None
        evidence = f"mIoU was {100 * self.best_miou:.1f} and is below {100 * self.limits.forgotten_share:.0f} % of that for {self.fallen} validations, now {100 * miou:.1f}"
        return self._end("forgetting", row["epoch"], row["step"], evidence, self._calmer())

    def _calmer(self) -> str:
        optim = self.config.optim
        if optim.precision == "fp16":
            return f"try optim.precision bf16 or fp32, or optim.lr {optim.lr / 10:.2g}"
        return f"try optim.lr {optim.lr / 10:.2g}" + (" or optim.clip_norm 1.0" if optim.clip_norm is None else "")

    def _end(self, kind: str, epoch: int, step: int, evidence: str, advice: str) -> Verdict:
        return Verdict(state="unhealthy", kind=kind, epoch=epoch, step=step, evidence=evidence, advice=advice)
