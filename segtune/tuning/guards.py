"""Which guards of a study a trial breaks, and by how much: rules over numbers, without files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segtune.errors import ConfigError, first_of, nearest
from segtune.runs.records import GuardOutcome, NetworkProfile
from segtune.tuning.guards_config import GuardsConfig

# IoU of each class by label, in 0..1; None for a class that is neither labelled nor predicted.
# Empty if the trial has no validation yet.
ClassIou = Sequence[float | None]

# Kind of the verdict of a trial that is not trained, because its network breaks a guard.
GUARD = "guard"


@dataclass(frozen=True)
class Judgement:
    """What one guard says about one trial."""

    excess: float  # above 0: broken by this much; 0: unknown
    words: str = ""  # empty: not broken


UNKNOWN = Judgement(0.0)


def check_guard_classes(guards: GuardsConfig, classes: Sequence[str]) -> None:
    """Raise ConfigError if a guard names a class that the data set does not have."""
    problems = [
        f"search.guards.class.{name}: the data set has no class of this name"
        f"{nearest(name, classes)}; its classes are {first_of(list(classes), 20)}"
        for name in guards.least_ious
        if name not in classes
    ]
    if problems:
        raise ConfigError(problems)


def size_outcome(guards: GuardsConfig, profile: NetworkProfile) -> GuardOutcome:
    """Return the outcome of the guards that need no training."""
    return guard_outcome(guards, profile, profile.classes, (), ())


def guard_outcome(
    guards: GuardsConfig,
    profile: NetworkProfile | None,
    classes: Sequence[str],
    ious: ClassIou,
    baseline: ClassIou,
) -> GuardOutcome:
    """Return which guards a trial breaks.

    `profile` is None if the network was not measured. `classes` are the names of the classes by
    label, empty if they are not known. `ious` are those of the trial's best epoch, `baseline` are
    those of trial 0. A guard that cannot be judged is not broken.
    """
    judged = dict(_judgements(guards, profile, classes, ious, baseline))
    return GuardOutcome(
        tuple(judgement.words for judgement in judged.values() if judgement.words),
        {name: judged.get(name, UNKNOWN).excess for name in guards.limits},
    )


def _judgements(
    guards: GuardsConfig,
    profile: NetworkProfile | None,
    classes: Sequence[str],
    ious: ClassIou,
    baseline: ClassIou,
) -> Iterator[tuple[str, Judgement]]:
    """Yield each guard that can be judged, by the order of `GuardsConfig.limits`."""
    if profile and guards.params_m is not None:
        yield "params_m", _judge_parameters(guards.params_m, profile)
    if profile and guards.latency_ms is not None and profile.latency_ms is not None:
        yield "latency_ms", _judge_latency(guards.latency_ms, profile.latency_ms, profile)
    if not ious or len(classes) != len(ious):
        return
    if guards.class_iou_drop is not None and baseline:
        yield "class_iou_drop", _judge_drop(guards.class_iou_drop, classes, ious, baseline)
    for name, least in guards.least_ious.items():
        if name not in classes:
            continue
        yield f"class.{name}", _judge_class(name, least, ious[classes.index(name)])


def _judge_parameters(limit: float, profile: NetworkProfile) -> Judgement:
    size = profile.params_m
    words = f"{size:.4g} million parameters, search.guards.params_m allows {limit:g}"
    return _judgement((size - limit) / limit, words)


def _judge_latency(limit: float, latency_ms: float, profile: NetworkProfile) -> Judgement:
    words = (
        f"{latency_ms:.4g} ms for an image of {profile.height} x {profile.width} on "
        f"{profile.device}, search.guards.latency_ms allows {limit:g}"
    )
    return _judgement((latency_ms - limit) / limit, words)


def _judge_drop(
    limit: float, classes: Sequence[str], ious: ClassIou, baseline: ClassIou
) -> Judgement:
    drops = [
        (before - after, name, before, after)
        for name, before, after in zip(classes, baseline, ious, strict=True)
        if before is not None and after is not None
    ]
    # An IoU of 0.80 is not more than 0.05 below 0.85, although the difference of floats is.
    broken = sorted(
        (drop for drop in drops if round(drop[0] - limit, 9) > 0), key=lambda drop: -drop[0]
    )
    if not broken:
        return Judgement(min(0.0, max((drop[0] for drop in drops), default=0.0) - limit))
    largest, name, before, after = broken[0]
    others = [other for _, other, _, _ in broken[1:]]
    words = (
        f"class {name} has IoU {after:.4f}, {largest:.4f} below the config itself ({before:.4f}), "
        f"search.guards.class_iou_drop allows {limit:g}"
    )
    if others:
        words += f"; also too far below: {first_of(others, 5)}"
    return Judgement(largest - limit, words)


def _judge_class(name: str, least: float, iou: float | None) -> Judgement:
    if iou is None:
        words = (
            f"class {name} has no IoU, because no validation mask has a pixel of it, "
            f"search.guards.class asks for {least:g}"
        )
        return _judgement(least, words)
    words = f"class {name} has IoU {iou:.4f}, search.guards.class asks for {least:g}"
    return _judgement(least - iou, words)


def _judgement(excess: float, words: str) -> Judgement:
    return Judgement(excess, words if excess > 0 else "")
