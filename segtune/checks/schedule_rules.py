"""Rules about the schedule and the learning rate."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from segtune.checks.data_sizes import DataSizes
from segtune.checks.drawn_trials import DrawnTrials
from segtune.checks.findings import Finding, percent
from segtune.config.schema import ExperimentConfig
from segtune.errors import setting
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study

# The decades in which an optimiser's learning rate can be right. AdamW: a step moves a weight by
# about the learning rate (Kingma and Ba 2015, section 2.1), and the weights of transformers begin
# with a deviation of 0.02, so a larger rate replaces them in one step. SGD: recipes have 0.01 (in
# mmsegmentation) to 0.1 for 256 images (Goyal et al. 2017), and fine-tuning a thousandth of that.
PLAUSIBLE_LR = {"adamw": (1e-7, 2e-2), "sgd": (1e-5, 1.0)}
LR_REASON = {
    "adamw": "a step of AdamW moves each weight by about the learning rate (Kingma and Ba 2015, "
    "section 2.1), and weights begin at about 0.02",
    "sgd": "recipes for SGD have 0.01 (mmsegmentation) to 0.1 (Goyal et al. 2017)",
}
# A smaller share of the trials outside the plausible decades is not worth a word.
FEW_TRIALS = 0.05
# Settings that act by their order of magnitude.
LOGARITHMIC = (
    "optim.lr",
    "optim.head_lr_mult",
    "optim.weight_decay",
    "schedule.eta_min",
    "schedule.warmup_start",
)


def warmup_within_budget(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find trials with a warmup that is not shorter than the trial, as a proxy can make them."""

    def too_long(config: ExperimentConfig) -> bool:
        warmup = warmup_epochs(config, sizes)
        return warmup is not None and warmup >= config.schedule.epochs

    share = drawn.share(too_long)
    if not share:
        return
    config = next(filter(too_long, drawn.configs))
    schedule, steps = config.schedule, sizes.steps_per_epoch(config)
    assert steps  # `warmup_epochs` is less than `epochs` in every config
    total = schedule.total_steps(steps)
    yield Finding(
        "error" if share == 1 else "warning",
        "warmup",
        "schedule.warmup_steps",
        f"the warmup has {schedule.warmup_steps} steps, and {drawn.words(share)} has "
        f"{schedule.epochs} epochs of {steps} steps, which are {total}",
        "the learning rate never reaches its peak, so trials with different peaks are not "
        "compared at them (a proxy shortens schedule.warmup_epochs, not warmup_steps)",
        f"{setting('schedule.warmup_steps', 'null')} "
        f"{setting('schedule.warmup_epochs', f'{study.config.schedule.epochs / 10:g}')}, or "
        f"{setting('schedule.warmup_steps', str(max(1, total // 10)))}",
    )


def rungs_after_warmup(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find stopping decisions that come before the warmup has ended."""
    if study.search.scheduler == "none":
        return
    first = study.grace_epochs
    rungs = study.rungs() or [first]
    # `warmup_within_budget` is about those that are not shorter than the trial.
    lengths = [(warmup_epochs(config, sizes) or 0.0, config) for config in drawn.configs]
    warmups = [length for length, config in lengths if length < config.schedule.epochs]
    early = [warmup for warmup in warmups if warmup > first]
    if not early:
        return
    share = len(early) / len(warmups)
    longest = max(early)
    # With rungs at the end only, the median rule decides after the warmup as well.
    never_later = bool(study.rungs()) and min(warmups) >= rungs[-1]
    decided = f"all rungs, {rungs}, lie" if never_later else f"the first, at epoch {first}, lies"
    yield Finding(
        "error" if never_later else "warning",
        "rung-in-warmup",
        "schedule.warmup_steps" if drawn.own.schedule.warmup_steps else "schedule.warmup_epochs",
        f"trials are stopped by their mIoU, and {decided} inside the warmup of "
        f"{drawn.words(share)}, which takes up to {longest:.3g} epochs",
        f"at epoch {first} the learning rate is then only {percent(first / longest)} of its peak, "
        "so halving prefers a short warmup, and a low score does not mean a bad config (Li et al. "
        "2018 assume that ranks at a rung resemble the final ones)",
        _later_rung(study, longest),
    )


def _later_rung(study: Study, longest: float) -> str:
    """Return the setting that puts the first decision behind the warmup."""
    schedule = study.trial_config({}).schedule
    epochs = range(math.ceil(longest), schedule.epochs)
    rung = next(filter(schedule.validates, epochs), None)
    shorter = f"or end the warmup by epoch {study.grace_epochs}"
    assert study.search.scheduler != "none"
    if rung is None:
        return f"set search.scheduler: none, {shorter}"
    rules = study.search.scheduler.dump()
    rule = next(name for name, rule in rules.items() if rule)
    return f"set search.scheduler: {{{rule}: {{grace_epochs: {rung}}}}}, {shorter}"


def warmup_epochs(config: ExperimentConfig, sizes: DataSizes) -> float | None:
    """Return the length of the warmup in epochs, or None if the number of images is unknown."""
    schedule, steps = config.schedule, sizes.steps_per_epoch(config)
    if schedule.warmup_steps is None:
        return schedule.warmup_epochs
    return schedule.warmup_steps / steps if steps else None


def plausible_lr(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find learning rates of the encoder or the head outside the optimiser's usual decades."""
    encoder = drawn.share(lambda config: _outside(config, config.optim.lr))
    if encoder >= FEW_TRIALS:
        yield _lr_finding(study, drawn, encoder, "optim.lr")
        return
    head = drawn.share(lambda config: _outside(config, config.optim.lr * _head_mult(config)))
    if head >= FEW_TRIALS:
        yield _lr_finding(study, drawn, head, "optim.head_lr_mult")


def _lr_finding(study: Study, drawn: DrawnTrials, share: float, key: str) -> Finding:
    of_head = key == "optim.head_lr_mult"
    rates = sorted(c.optim.lr * (_head_mult(c) if of_head else 1.0) for c in drawn.configs)
    name = drawn.own.optim.name
    low, high = PLAUSIBLE_LR[name]
    multiplied = " (optim.lr * optim.head_lr_mult)" if of_head else ""
    return Finding(
        "error" if share == 1 else "warning",
        "lr-decades",
        key,
        f"the learning rate of the {'head' if of_head else 'encoder'}{multiplied} lies outside "
        f"{low:g} to {high:g} for {name} in {drawn.words(share)}: {rates[0]:.2g} to "
        f"{rates[-1]:.2g}",
        LR_REASON[name],
        _nearer_lr(study, low, high, of_head),
    )


def _nearer_lr(study: Study, low: float, high: float, of_head: bool) -> str:
    """Return the range or the value of the setting that keeps the rate inside `low` to `high`."""
    optim = study.config.optim
    if not of_head:
        found = [d for d in study.space.dimensions if d.name == "optim.lr"]
        nearest = min(max(optim.lr, low), high)
        if not found:
            return f"take a value inside, for example {setting('optim.lr', f'{nearest:g}')}"
        inside = [max(low, min(found[0].values)), min(high, max(found[0].values))]
        if inside[0] >= inside[1]:
            inside = [max(low, nearest / 3), min(high, nearest * 3)]
        return f"set optim.lr: {{loguniform: [{inside[0]:.3g}, {inside[1]:.3g}]}}"
    largest = {d.name: max(d.values) for d in study.space.dimensions if d.kind != "choice"}
    peak = largest.get("optim.lr", optim.lr)
    return (
        f"lower the upper end of optim.lr or of optim.head_lr_mult; with optim.lr {peak:g}, a "
        f"head_lr_mult of at most {high / peak:.2g} stays inside"
    )


def _outside(config: ExperimentConfig, rate: float) -> bool:
    if config.optim.name not in PLAUSIBLE_LR:
        return False
    low, high = PLAUSIBLE_LR[config.optim.name]
    return not low <= rate <= high


def _head_mult(config: ExperimentConfig) -> float:
    return config.optim.head_lr_mult


def logarithmic_draws(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find settings that act by their order of magnitude, but are drawn linearly over a decade."""
    for dimension in study.space.dimensions:
        if dimension.kind == "uniform" and dimension.name in LOGARITHMIC:
            yield from _linear_decades(dimension)


def _linear_decades(dimension: Dimension) -> Iterator[Finding]:
    low, high = dimension.values
    if low <= 0 or high / low < 10:
        return
    lowest = 9 * low / (high - low)
    decades = math.log10(high / low)
    yield Finding(
        "warning",
        "linear-lr",
        dimension.name,
        f"is drawn linearly over {decades:.1f} decades, {low:g} to {high:g}: only "
        f"{percent(lowest)} of the draws lie in the lowest one, below {10 * low:g}",
        "its effect depends on its order of magnitude, so each decade should be drawn equally "
        "often (Bergstra and Bengio 2012, section 2.4)",
        f"set {dimension.name}: {json.dumps({'loguniform': [low, high]})}".replace('"', ""),
    )
