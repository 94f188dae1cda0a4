"""Rules about the loss: terms that hardly train alone, and focal loss in half precision."""

from __future__ import annotations

from collections.abc import Iterator

from segtune.checks.data_sizes import DataSizes
from segtune.checks.drawn_trials import DrawnTrials
from segtune.checks.findings import Finding
from segtune.checks.start_gradient import (
    FIRST_LOSS_SCALE,
    SMALLEST_FP16,
    SPREAD,
    dice_factor,
    easy_gradient_fp16,
    sigmoid_focal_factor,
)
from segtune.config.schema import ExperimentConfig
from segtune.errors import setting
from segtune.tuning.study import Study

LARGE_GAMMA = 2.0
# The logits of most models have a quarter of the crop's side.
LOGIT_STRIDE = 4
GAMMA_STEP = 0.25


def focal_alone(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find trials that train on the sigmoid form of focal loss alone with gamma 2 or more."""
    share = drawn.share(_is_focal_alone)
    if not share:
        return
    gamma = min(c.loss.focal.gamma for c in drawn.configs if _is_focal_alone(c))
    alpha = drawn.own.loss.focal.alpha
    num_classes = sizes.classes_of(drawn.own)
    factor = sigmoid_focal_factor(num_classes, gamma, alpha)
    yield Finding(
        "warning",  # it trains: 1.7 mIoU below cross-entropy in docs/evidence.md
        "focal-alone",
        "loss.focal.gamma",
        f"sigmoid focal loss with gamma {gamma:g} or more is the only term of the loss in "
        f"{drawn.words(share)}: with {num_classes} classes, the gradient of a pixel at the start "
        f"is {factor:.2g} of cross-entropy's",
        f"(1 - p)^gamma and the mean over classes make it small (Lin et al. 2017, eq. 5, for "
        f"logits with a deviation of {SPREAD:g}), so that training starts late",
        f"add a term with {setting('loss.ce.weight', '1.0')}, or take "
        f"{setting('loss.focal.form', 'softmax')}, or a gamma below {LARGE_GAMMA:g}",
    )


def dice_alone(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find trials that train on Dice loss alone."""
    share = drawn.share(lambda config: _terms(config) == {"dice"})
    if not share:
        return
    num_classes = sizes.classes_of(drawn.own)
    yield Finding(
        "warning",
        "dice-alone",
        "loss.dice.weight",
        f"Dice loss is the only term of the loss in {drawn.words(share)}: with {num_classes} "
        f"classes, the gradient of a pixel at the start is {dice_factor(num_classes):.2g} of "
        "cross-entropy's",
        "it depends on sums over the whole image, so a pixel that is wrong is hardly corrected "
        "while most are wrong (Milletari et al. 2016; derivative at equal probabilities)",
        f"add a term with {setting('loss.ce.weight', '1.0')}",
    )


def gamma_in_fp16(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find trials in fp16 whose gamma makes the gradients of easy pixels round to 0."""
    num_classes = sizes.classes_of(drawn.own)

    def easy_gradient(config: ExperimentConfig, gamma: float) -> float:
        num_logits = _num_logits(config, study.search.workers_per_trial)
        is_softmax = config.loss.focal.form == "softmax"
        gradient = easy_gradient_fp16(num_classes, gamma, num_logits, softmax=is_softmax)
        return config.loss.focal.weight * gradient

    def underflows(config: ExperimentConfig) -> bool:
        focal = config.loss.focal
        if config.optim.precision != "fp16" or not focal.weight or not focal.gamma:
            return False
        return easy_gradient(config, focal.gamma) < SMALLEST_FP16

    share = drawn.share(underflows)
    if not share:
        return
    config = next(filter(underflows, drawn.configs))
    gamma = config.loss.focal.gamma
    gammas = (GAMMA_STEP * i for i in range(int(gamma / GAMMA_STEP), -1, -1))
    enough = next((g for g in gammas if easy_gradient(config, g) >= SMALLEST_FP16), 0.0)
    yield Finding(
        "warning",
        "gamma-fp16",
        "loss.focal.gamma",
        f"fp16 together with a large gamma in {drawn.words(share)}: with gamma {gamma:g}, the "
        f"gradient on a logit of a pixel that is right with p 0.99 is "
        f"{easy_gradient(config, gamma):.1e} at the first loss scale of {FIRST_LOSS_SCALE:.0f}",
        f"half precision stores less than {SMALLEST_FP16:.0e} as 0, and a larger scale lets hard "
        "pixels overflow, whose steps are skipped (IEEE 754 binary16; Micikevicius et al. 2018)",
        f"take {setting('optim.precision', 'bf16')} or fp32, or a gamma of at most {enough:g}",
    )


def _is_focal_alone(config: ExperimentConfig) -> bool:
    focal = config.loss.focal
    is_large = focal.form == "sigmoid" and focal.gamma >= LARGE_GAMMA
    return is_large and _terms(config) == {"focal"}


def _terms(config: ExperimentConfig) -> set[str]:
    """Return the names of the terms of the loss that are computed."""
    return {name for name, weight in config.loss.weights.items() if weight}


def _num_logits(config: ExperimentConfig, workers: int) -> int:
    """Return the pixels of the logits of a micro-batch on one worker."""
    height, width = config.data.crop
    images = max(1, config.schedule.batch_size // (config.schedule.accumulate * workers))
    return max(1, images * height * width // LOGIT_STRIDE**2)
