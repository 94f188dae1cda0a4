"""Judges the numbers of a training run and returns a Verdict if training on would be pointless.

Knows neither models nor ranks: the trainer passes numbers that are equal on all ranks. The state of
a monitor follows from the epoch records and from two numbers in the checkpoints. So a resumed
training run is judged by the thresholds of an unbroken one.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence

from segtune.config.schema import ExperimentConfig
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.verdict import Verdict

# The median over this many steps is judged, because a single unusual batch is no divergence.
WINDOW = 10
# A model whose mIoU is within 10 % of a constant prediction's has not learnt anything yet.
BASELINE_MARGIN = 1.1
# From random weights, healthy training runs took up to 140 steps to begin to learn. The patience is
# at least this many steps, so a shorter training run is not judged.
MIN_STUCK_STEPS = 150
# What cured NaN in mixed precision on ADE20K (configs/ade20k_segformer_b2_v1_3.yaml): gradients
# clipped to this norm, and a head that learns at this multiple of the encoder's learning rate.
LOW_CLIP_NORM = 2.0
LOW_HEAD_LR_MULT = 3.0


class HealthMonitor:
    """Watches the steps and the validations of one training run."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.limits = config.health
        self.first_loss: float | None = None
        self.first_norm: float | None = None  # median gradient norm of the first WINDOW steps
        self.best_miou = 0.0
        self._num_skipped = 0  # steps in a row whose gradients were not finite
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._num_low = 0  # validations in a row with a low mIoU
        self._flat_since = 0  # the last epoch that was better than a constant prediction
        # The epoch before the first constant prediction of the current streak.
        self._constant_since: int | None = None

    def replay(self, epochs: Iterable[EpochRecord]) -> None:
        """Restore the state after the epochs of an earlier attempt."""
        for record in epochs:
            if self.first_loss is None:
                self.first_loss = record.losses.get("loss")
            if self.first_norm is None:
                self.first_norm = record.grad_norm
            self.validation(record)

    def step(
        self, *, epoch: int, step: int, loss: float, grad_norm: float, lr: float, scaled: bool
    ) -> Verdict | None:
        """Judge one optimiser step; return a non-finite or diverged verdict, or None.

        The trainer reads a step up to `train_step.LAG` steps late. This is safe, because a step
        that is not finite never changes the weights. `epoch` is the last finished epoch, `lr` the
        encoder's learning rate of this step. `scaled` says whether an AMP scaler skips gradients
        that overflow.
        """
        at_step = f"at step {step}, learning rate {lr:.3g}"
        if not math.isfinite(loss):
            return self._end("non-finite", epoch, step, f"the loss is {loss} {at_step}")
        self._num_skipped = 0 if math.isfinite(grad_norm) else self._num_skipped + 1
        if self._num_skipped >= (self.limits.max_skipped_steps if scaled else 1):
            times = f" for {self._num_skipped} steps in a row" if self._num_skipped > 1 else ""
            evidence = f"the gradient norm is {grad_norm}{times} {at_step}, loss {loss:.4g}"
            return self._end("non-finite", epoch, step, evidence)
        return self._diverged(epoch, step, loss, grad_norm, lr)

    def first_steps(self, losses: Sequence[float], lr: float) -> Verdict | None:
        """Judge the losses of the first steps of a training run, all at the learning rate `lr`.

        `step` needs more steps than these. Return a diverged verdict if their median, without the
        first, is far above the first loss.
        """
        first, *others = losses or [0.0]
        median = statistics.median_low(others) if others else first
        if not 0 < self.limits.diverged_factor * first < median:
            return None
        evidence = (
            f"the loss was {first:.4g} at step 1 and is {median:.4g} ({median / first:.0f} times "
            f"that) over steps 2 to {len(losses)}, learning rate {lr:.3g}"
        )
        return self._end("diverged", 0, len(losses), evidence)

    def _diverged(
        self, epoch: int, step: int, loss: float, grad_norm: float, lr: float
    ) -> Verdict | None:
        """Judge whether the loss or the gradient norm stays far above its start.

        Focal loss and cross-entropy grow without bound; Dice does not.
        """
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self._losses.append(loss)
        if math.isfinite(grad_norm):
            self._norms.append(grad_norm)
        if self.first_norm is None and len(self._norms) == WINDOW:
            self.first_norm = statistics.median_low(self._norms)
        watched = (
            ("loss", self._losses, self.first_loss, self.limits.diverged_factor),
            ("gradient norm", self._norms, self.first_norm, self.limits.gradient_factor),
        )
        for name, recent, first, factor in watched:
            median = statistics.median_low(recent) if len(recent) == WINDOW else 0.0
            if first is not None and median > factor * first:
                times = median / first if first else math.inf
                evidence = (
                    f"the {name} was {first:.4g} at the start and is {median:.4g} "
                    f"({times:.0f} times that) over steps {step - WINDOW + 1} to {step}, "
                    f"learning rate {lr:.3g}"
                )
                return self._end("diverged", epoch, step, evidence)
        return None

    def validation(self, record: EpochRecord) -> Verdict | None:
        """Judge one epoch; an epoch without a validation is not judged.

        Returns None, or a verdict of kind forgetting, diverged, vanishing, collapsed or
        no-progress.
        """
        scores = record.validation
        if scores is None:
            return None
        self.best_miou = max(self.best_miou, scores.miou, record.init_miou or 0.0)
        return (
            self._forgetting(record, scores)
            or self._weights_diverged(record, scores)
            or self._stuck(record, scores)
        )

    def _forgetting(self, record: EpochRecord, scores: ValidationScores) -> Verdict | None:
        """Judge whether the model has lost what it, or its initial weights, had learnt."""
        low = scores.miou < self.limits.forgotten_share * self.best_miou
        self._num_low = self._num_low + 1 if low and self._has_learnt(scores) else 0
        if self._num_low < self.limits.patience:
            return None
        evidence = (
            f"mIoU was {100 * self.best_miou:.1f} and is below "
            f"{100 * self.limits.forgotten_share:.0f} % of that for {self._num_low} validations, "
            f"now {100 * scores.miou:.1f}"
        )
        return self._end("forgetting", record.epoch, record.step, evidence)

    def _has_learnt(self, scores: ValidationScores) -> bool:
        """Whether the best mIoU was at least twice that of a constant prediction."""
        return self.best_miou >= 2 * scores.constant_miou

    def _weights_diverged(self, record: EpochRecord, scores: ValidationScores) -> Verdict | None:
        """Judge whether the weights have grown so far that the model computes nothing useful.

        The loss need not show it, because a large bias alone can keep the loss low.
        """
        growth = record.weight_growth
        at_baseline = scores.miou <= BASELINE_MARGIN * scores.constant_miou
        has_grown = growth is None or growth > self.limits.diverged_factor
        if not (at_baseline and has_grown) or self._has_learnt(scores):
            return None
        times = (
            "without bound" if growth is None else f"to {growth:.0f} times their norm at the start"
        )
        evidence = (
            f"the weights have grown {times} by epoch {record.epoch}, and mIoU is "
            f"{100 * scores.miou:.1f}, that of a constant prediction; "
            f"learning rate {record.lr:.3g}"
        )
        return self._end("diverged", record.epoch, record.step, evidence)

    def _stuck(self, record: EpochRecord, scores: ValidationScores) -> Verdict | None:
        """Judge whether the model learns nothing: vanishing, collapsed or no-progress."""
        self._update_streaks(record.epoch, scores)
        if record.epoch >= self.config.schedule.epochs:
            return None  # the training run is over: ending it would save nothing
        if scores.constant_miou >= 1:
            return None  # one class is labelled: predicting it everywhere is right
        patience = self._patience(record)
        num_flat = record.epoch - self._flat_since
        num_constant = 0 if self._constant_since is None else record.epoch - self._constant_since
        score = (
            f"mIoU is {100 * scores.miou:.1f}, "
            f"a constant prediction has {100 * scores.constant_miou:.1f}"
        )
        if record.gradient_left < self.limits.vanished_share and 2 * num_flat >= patience:
            return self._vanishing(record, score)
        advice = self._advise_if_stuck(record)
        if num_constant >= patience:
            evidence = (
                f"{100 * scores.top_share:.1f} % of the pixels are predicted as "
                f"{scores.top_class!r}, for {num_constant} epochs now; {score}"
            )
            return self._end("collapsed", record.epoch, record.step, evidence, advice)
        if num_flat >= patience:
            evidence = f"nothing learnt in {num_flat} epochs: {score}"
            return self._end("no-progress", record.epoch, record.step, evidence, advice)
        return None

    def _update_streaks(self, epoch: int, scores: ValidationScores) -> None:
        """Update since when one class has been predicted everywhere, and nothing was learnt."""
        if scores.top_share <= self.limits.constant_share:
            self._constant_since = None
        elif self._constant_since is None:
            self._constant_since = epoch - self.config.schedule.val_every
        if self.best_miou > BASELINE_MARGIN * scores.constant_miou:
            self._flat_since = epoch

    def _vanishing(self, record: EpochRecord, score: str) -> Verdict:
        focal = self.config.loss.focal
        evidence = (
            f"focal gamma {focal.gamma:.3g} leaves {100 * record.gradient_left:.2g} % of the "
            f"gradient that gamma 0 would have, after {record.epoch} epochs {score}"
        )
        form = ", loss.focal.form softmax" if focal.form == "sigmoid" else ""
        advice = f"try loss.focal.gamma <= 2{form} or loss.dice.weight 1"
        return self._end("vanishing", record.epoch, record.step, evidence, advice)

    def _patience(self, record: EpochRecord) -> float:
        """Return for how many epochs the model may learn nothing; at least four validations."""
        schedule = self.config.schedule
        steps_per_epoch = max(1.0, record.step / record.epoch)
        after_warmup = schedule.warmup_epochs + self.limits.stuck_steps / steps_per_epoch
        at_least = max(4 * schedule.val_every, MIN_STUCK_STEPS / steps_per_epoch)
        return max(at_least, min(self.limits.stuck_share * schedule.epochs, after_warmup))

    def _advise_smaller_steps(self) -> str:
        optim = self.config.optim
        precision = "optim.precision bf16 or fp32, or " if optim.precision == "fp16" else ""
        ways = [f"optim.lr {optim.lr / 10:.2g}"]
        if optim.clip_norm is None or optim.clip_norm > LOW_CLIP_NORM:
            ways.append(f"optim.clip_norm {LOW_CLIP_NORM:g}")
        if optim.head_lr_mult > LOW_HEAD_LR_MULT:
            ways.append(f"optim.head_lr_mult {LOW_HEAD_LR_MULT:g}")
        return f"try {precision}{' or '.join(ways)}"

    def _advise_if_stuck(self, record: EpochRecord) -> str:
        """Return advice for a model that learns nothing.

        If the weights have hardly moved, the learning rate is too small. Otherwise it is too large,
        or the loss neglects rare classes.
        """
        optim = self.config.optim
        has_moved = record.weight_growth is None or abs(record.weight_growth - 1.0) > 0.01
        lr = optim.lr / 10 if has_moved else optim.lr * 10
        dice = "" if self.config.loss.dice.weight else " or loss.dice.weight 1"
        return f"try optim.lr {lr:.2g}{dice}" + (dice and ", which weighs rare classes more")

    def _end(
        self, kind: str, epoch: int, step: int, evidence: str, advice: str | None = None
    ) -> Verdict:
        """Return an unhealthy verdict; without `advice` it advises smaller steps."""
        advice = self._advise_smaller_steps() if advice is None else advice
        return Verdict(
            state="unhealthy", kind=kind, epoch=epoch, step=step, evidence=evidence, advice=advice
        )


def out_of_memory(
    config: ExperimentConfig,
    *,
    epoch: int,
    step: int,
    num_images: int,
    num_fitting: int,
    message: str,
) -> Verdict:
    """Return the verdict of a training run whose step did not fit into memory.

    `num_images` is the number of images of the step on one worker. `num_fitting` is how many images
    fit when they were tried (0: not even one). `message` is the allocator's error.
    """
    schedule = config.schedule
    size = " x ".join(map(str, config.data.crop))
    evidence = (
        f"a step of {num_images} images of {size} pixels on a worker does not fit into memory "
        f"({message[:200]})"
    )
    advice = "not even one image fits: try a smaller data.crop or model.encoder"
    if num_fitting:
        accumulate = schedule.accumulate * -(-num_images // num_fitting)
        batch_size = schedule.batch_size * num_fitting // num_images
        advice = (
            f"{num_fitting} fit: try schedule.accumulate {accumulate}, "
            f"or schedule.batch_size {batch_size}"
        )
    return Verdict(
        state="unhealthy",
        kind="out-of-memory",
        epoch=epoch,
        step=step,
        evidence=evidence,
        advice=advice,
    )
