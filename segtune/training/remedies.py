"""Which settings a replay tries after a death, and which of them works. Knows no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.runs.replay_record import RemedyResult, StepNumbers
from segtune.training.health import LOW_CLIP_NORM, LOW_HEAD_LR_MULT

# The loss on the same images may be this much higher after a few steps on other images.
MARGIN = 1.05


def remedies(config: ExperimentConfig, precision: str, *, has_bf16: bool) -> list[dict[str, Any]]:
    """Return the changes of settings to try, the mildest first, as {dotted name: value}.

    `precision` is the dtype of autocast in the training run. `has_bf16` says whether this device
    computes in bfloat16.
    """
    optim = config.optim
    ways: list[dict[str, Any]] = []
    if precision == "float16" and has_bf16:
        ways.append({"optim.precision": "bf16"})
    if precision != "float32":
        ways.append({"optim.precision": "fp32"})
    has_low_clip = optim.clip_norm is not None and optim.clip_norm <= LOW_CLIP_NORM
    clip_norm = optim.clip_norm / 10 if optim.clip_norm and has_low_clip else LOW_CLIP_NORM
    ways.append({"optim.clip_norm": rounded(clip_norm)})
    if optim.head_lr_mult > LOW_HEAD_LR_MULT:
        ways.append({"optim.head_lr_mult": LOW_HEAD_LR_MULT})
    ways.append({"optim.lr": rounded(optim.lr / 10)})
    return ways


def rounded(value: float) -> float:
    """Return a value with the two digits that advice shows."""
    return float(f"{value:.2g}")


def works(steps: Sequence[StepNumbers], loss_after: float, *, stays_finite: bool) -> bool:
    """Whether all is finite, and the loss on the images of the first step has not risen."""
    return stays_finite and loss_after <= MARGIN * steps[0].loss


def best_remedy(kind: str, baseline: RemedyResult, tried: Sequence[RemedyResult]) -> int | None:
    """Return the position of the remedy to take, or None if none helps.

    After a step that is not finite, it is the mildest that works. After a divergence the step
    itself is finite, so a remedy has to end with a clearly lower loss than the training run's own
    settings.
    """
    working = [position for position, result in enumerate(tried) if result.works]
    if kind != "diverged":
        return working[0] if working and not baseline.works else None
    best = min(working, key=lambda position: tried[position].loss_after, default=None)
    if best is None or (baseline.works and tried[best].loss_after * MARGIN > baseline.loss_after):
        return None
    return best


def set_words(settings: dict[str, Any]) -> str:
    """Return settings as arguments of the command line."""
    return " ".join(f"--set {name}={value}" for name, value in settings.items())


def conclude(
    config: ExperimentConfig, kind: str, results: Sequence[RemedyResult]
) -> tuple[str, dict[str, Any]]:
    """Return one sentence that says what to do, and the settings that it names.

    The first result is that of the settings as they are. Without results, the weights before the
    step were not finite.
    """
    lower = {"optim.lr": rounded(config.optim.lr / 10)}
    start = f"start a new training run with {set_words(lower)}"
    if not results:
        return f"no remedy can be tried on weights that are not finite: {start}", lower
    baseline, tried = results[0], results[1:]
    position = best_remedy(kind, baseline, tried)
    if position is not None:
        result = tried[position]
        before, after = result.steps[0].loss, result.loss_after
        text = (
            f"{set_words(result.settings)}: {len(result.steps)} steps from these weights are "
            f"finite, and the loss on the images of the step goes from {before:.4g} to {after:.4g}"
        )
        return text, result.settings
    if kind != "diverged" and baseline.works:
        return "here the step is finite without any change, so no remedy can be judged", {}
    return f"{_why_none(baseline)}: {start}, which cannot be tried here", lower


def _why_none(baseline: RemedyResult) -> str:
    """Return why no remedy is advised; `baseline` are the settings as they are."""
    if baseline.works:
        also = "from these weights the settings as they are also work"
        return f"{also}, so no remedy is clearly better"
    if baseline.stays_finite:
        return "no remedy lowers the loss from these weights"
    return "no remedy helps from these weights, which are damaged already"
