"""Numbers of a run in, a Verdict out. Knows neither models nor ranks: the trainer hands in numbers that all ranks share.

What a monitor remembers follows from the run's epoch rows and from two numbers that the checkpoints carry, so a resumed run is
watched by the thresholds of an unbroken one.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.runs.verdict import Verdict

# Steps whose median is looked at: one odd batch is no divergence.
WINDOW = 10
# An mIoU within a tenth of a constant prediction's is no knowledge yet.
BASELINE = 1.1
# From random weights healthy runs were seen to begin after 140 steps: a run of fewer is too short to be judged.
MIN_STUCK_STEPS = 150


class HealthMonitor:
    """Watches the steps and validations of one run and says when going on would be pointless."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config, self.limits = config, config.health
        self.skipped = 0
        self.first_loss: float | None = None
        self.first_norm: float | None = None
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.best_miou = 0.0
        self.fallen = 0
        self.began_constant: int | None = (
            None  # epoch before the first of the constant predictions that have not ended
        )
        self.began_flat = 0

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Remembers the epochs of an earlier attempt."""
        for row in rows:
            self.first_loss = row["loss"] if self.first_loss is None else self.first_loss
            self.first_norm = row.get("grad_norm") if self.first_norm is None else self.first_norm
            self.validation(row)

    def step(
        self, *, epoch: int, step: int, loss: float, grad_norm: float, lr: float, scaled: bool
    ) -> Verdict | None:
        """Looks at one step before the optimiser is touched.

        `epoch` counts finished epochs, `loss` and `grad_norm` are the same on all ranks, `lr` is the encoder's rate of this
        step, `scaled` whether an AMP scaler absorbs gradients that overflow. Returns a verdict of kind non-finite or
        diverged, or None.
        """
        if not math.isfinite(loss):
            return self._end(
                "non-finite",
                epoch,
                step,
                f"the loss is {loss} at step {step}, learning rate {lr:.3g}",
                self._calmer(),
            )
        self.skipped = 0 if math.isfinite(grad_norm) else self.skipped + 1
        if self.skipped >= (self.limits.max_skipped_steps if scaled else 1):
            times = f" for {self.skipped} steps in a row" if self.skipped > 1 else ""
            evidence = f"the gradient norm is {grad_norm}{times} at step {step}, loss {loss:.4g}, learning rate {lr:.3g}"
            return self._end("non-finite", epoch, step, evidence, self._calmer())
        return self._diverged(epoch, step, loss, grad_norm, lr)

    def _diverged(
        self, epoch: int, step: int, loss: float, grad_norm: float, lr: float
    ) -> Verdict | None:
        """The loss or the gradient stays far above where it began. Focal and cross-entropy grow without bound, Dice does not."""
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.losses.append(loss)
        if math.isfinite(grad_norm):
            self.norms.append(grad_norm)
        if self.first_norm is None and len(self.norms) == WINDOW:
            self.first_norm = statistics.median_low(self.norms)
        watched = (
            ("loss", self.losses, self.first_loss, self.limits.diverged_factor),
            ("gradient norm", self.norms, self.first_norm, self.limits.gradient_factor),
        )
        for name, recent, first, factor in watched:
            middle = statistics.median_low(recent) if len(recent) == WINDOW else 0.0
            if first is not None and middle > factor * first:
                times = middle / first if first else math.inf
                evidence = f"the {name} was {first:.4g} at the start and is {middle:.4g} ({times:.0f} times that) over steps {step - WINDOW + 1} to {step}, learning rate {lr:.3g}"
                return self._end("diverged", epoch, step, evidence, self._calmer())
        return None

    def validation(self, row: Mapping[str, Any]) -> Verdict | None:
        """Looks at one epoch's row; rows without a validation say nothing.

        Returns a verdict of kind forgetting, diverged, vanishing, collapsed or no-progress, or None.
        """
        if row.get("miou") is None:
            return None
        return self._forgotten(row) or self._run_away(row) or self._stuck(row)

    def _forgotten(self, row: Mapping[str, Any]) -> Verdict | None:
        """What a run had learnt, or was initialised with, is gone for several validations."""
        miou = row["miou"]
        self.best_miou = max(self.best_miou, miou, row.get("init_miou", 0.0))
        low = miou < self.limits.forgotten_share * self.best_miou
        self.fallen = self.fallen + 1 if low and self._has_learnt(row) else 0
        if self.fallen < self.limits.patience:
            return None
        evidence = f"mIoU was {100 * self.best_miou:.1f} and is below {100 * self.limits.forgotten_share:.0f} % of that for {self.fallen} validations, now {100 * miou:.1f}"
        return self._end("forgetting", row["epoch"], row["step"], evidence, self._calmer())

    def _has_learnt(self, row: Mapping[str, Any]) -> bool:
        """Whether there is anything to forget: twice the mIoU of a constant prediction."""
        return self.best_miou >= 2 * row.get("constant_miou", math.inf)

    def _run_away(self, row: Mapping[str, Any]) -> Verdict | None:
        """The weights have left the region where the model computes anything. The loss need not show it: it may sit on a bias."""
        growth = row.get("weight_growth", 1.0)
        at_baseline = row["miou"] <= BASELINE * row.get("constant_miou", 0.0)
        if (
            not at_baseline
            or self._has_learnt(row)
            or (growth is not None and growth <= self.limits.diverged_factor)
        ):
            return None
        times = (
            "without bound" if growth is None else f"to {growth:.0f} times their norm at the start"
        )
        evidence = f"the weights have grown {times} by epoch {row['epoch']}, and mIoU is {100 * row['miou']:.1f}, that of a constant prediction; learning rate {row['lr']:.3g}"
        return self._end("diverged", row["epoch"], row["step"], evidence, self._calmer())

    def _stuck(self, row: Mapping[str, Any]) -> Verdict | None:
        """Nothing is learnt: the gradient has vanished, one class is predicted everywhere, or mIoU stays where it began."""
        epoch, baseline = row["epoch"], row.get("constant_miou", 0.0)
        if row.get("top_share", 0.0) <= self.limits.constant_share:
            self.began_constant = None
        elif self.began_constant is None:
            self.began_constant = epoch - self.config.schedule.val_every
        if self.best_miou > BASELINE * baseline:
            self.began_flat = epoch
        flat, constant = (
            epoch - self.began_flat,
            epoch - self.began_constant if self.began_constant is not None else 0,
        )
        patience, left = self._patience(row), row.get("gradient_left", 1.0)
        score = f"mIoU is {100 * row['miou']:.1f}, a constant prediction has {100 * baseline:.1f}"
        if epoch >= self.config.schedule.epochs:
            return None  # there is nothing left to save
        if left < self.limits.vanished_share and 2 * flat >= patience:
            focal = self.config.loss.focal
            evidence = f"focal gamma {focal.gamma:.3g} leaves {100 * left:.2g} % of the gradient that gamma 0 would have, after {epoch} epochs {score}"
            advice = (
                "try loss.focal.gamma <= 2"
                + (", loss.focal.form softmax" if focal.form == "sigmoid" else "")
                + " or loss.dice.weight 1"
            )
            return self._end("vanishing", epoch, row["step"], evidence, advice)
        if constant >= patience:
            share = f"{100 * row['top_share']:.1f} % of the pixels are predicted as {row['top_class']!r}, for {constant} epochs now"
            return self._end(
                "collapsed", epoch, row["step"], f"{share}; {score}", self._livelier(row)
            )
        if flat >= patience:
            return self._end(
                "no-progress",
                epoch,
                row["step"],
                f"nothing learnt in {flat} epochs: {score}",
                self._livelier(row),
            )
        return None

    def _patience(self, row: Mapping[str, Any]) -> float:
        """Returns for how many epochs a run may be stuck; four validations in any case."""
        schedule = self.config.schedule
        steps_per_epoch = max(1.0, row["step"] / row["epoch"])
        after_warmup = schedule.warmup_epochs + self.limits.stuck_steps / steps_per_epoch
        at_least = max(4 * schedule.val_every, MIN_STUCK_STEPS / steps_per_epoch)
        return max(at_least, min(self.limits.stuck_share * schedule.epochs, after_warmup))

    def _calmer(self) -> str:
        optim = self.config.optim
        if optim.precision == "fp16":
            return f"try optim.precision bf16 or fp32, or optim.lr {optim.lr / 10:.2g}"
        return f"try optim.lr {optim.lr / 10:.2g}" + (
            " or optim.clip_norm 1.0" if optim.clip_norm is None else ""
        )

    def _livelier(self, row: Mapping[str, Any]) -> str:
        """Weights that have hardly moved ask for a larger rate, others for a smaller one or for a loss that sees rare classes."""
        optim, loss = self.config.optim, self.config.loss
        moved = abs(row.get("weight_growth", 1.0) - 1.0) > 0.01
        rate = optim.lr / 10 if moved else optim.lr * 10
        return f"try optim.lr {rate:.2g}" + (
            " or loss.dice.weight 1, which weighs rare classes more" if not loss.dice.weight else ""
        )

    def _end(self, kind: str, epoch: int, step: int, evidence: str, advice: str) -> Verdict:
        return Verdict(
            state="unhealthy", kind=kind, epoch=epoch, step=step, evidence=evidence, advice=advice
        )


def out_of_memory(
    config: ExperimentConfig, epoch: int, step: int, images: int, fits: int, words: str
) -> Verdict:
    """Returns the verdict of a run whose step of `images` on one worker did not fit; `fits` were seen to, 0 for not even one."""
    schedule, size = config.schedule, " x ".join(map(str, config.data.crop))
    evidence = f"a step of {images} images of {size} pixels on a worker does not fit into memory ({words[:200]})"
    advice = "not even one image fits: try a smaller data.crop or model.encoder"
    if fits:
        accumulate = schedule.accumulate * -(-images // fits)
        advice = f"{fits} fit: try schedule.accumulate {accumulate}, or schedule.batch_size {schedule.batch_size * fits // images}"
    return Verdict(
        state="unhealthy",
        kind="out-of-memory",
        epoch=epoch,
        step=step,
        evidence=evidence,
        advice=advice,
    )
