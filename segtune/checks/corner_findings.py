"""The finding of a corner that has failed: what happened, why it matters, and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segtune.checks.corners import Corner
from segtune.checks.findings import Finding, Severity, shown_value
from segtune.checks.safe_range import SafeRange, narrowed, space_line, without
from segtune.checks.step_costs import StepCosts
from segtune.config.schedule_config import ScheduleConfig
from segtune.errors import setting
from segtune.runs.verdict import Verdict
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study

# What ends a trial because of its learning rate or its loss.
NUMERIC = ("non-finite", "diverged")
KEYS = {"non-finite": "optim.lr", "diverged": "optim.lr", "out-of-memory": "schedule.batch_size"}


@dataclass(frozen=True)
class Outcome:
    """What was seen at a corner."""

    corner: Corner
    costs: StepCosts
    safe: SafeRange | None = None  # of a corner that has failed


def findings_of(study: Study, outcomes: Sequence[Outcome]) -> list[Finding]:
    """Return a finding for each corner that has failed, errors first.

    The first outcome is the config itself. If it fails, so does trial 0, and probably every trial.
    """
    itself, *others = outcomes
    found = [*_of_itself(study, itself)]
    found += [finding for outcome in others for finding in _of_corner(study, outcome, outcomes)]
    return sorted(found, key=lambda finding: finding.severity != "error")


def refuses_config(study: Study, itself: StepCosts) -> bool:
    """Whether the config itself cannot be trained, so that no corner of its space can be judged."""
    return bool(itself.verdict) and _severity_of_itself(study, itself.verdict) == "error"


def _severity_of_itself(study: Study, verdict: Verdict) -> Severity:
    """Return error if trial 0 fails for sure.

    From the second step on, the warmup, which the corner steps leave out, might have prevented it.
    """
    depends_on_warmup = verdict.kind in NUMERIC and not _is_at_start(verdict)
    return "warning" if depends_on_warmup and _has_warmup(study) else "error"


def _is_at_start(verdict: Verdict) -> bool:
    """Whether the numbers were bad at the first step, in which the learning rate has no part."""
    return verdict.kind in NUMERIC and verdict.step <= 1


def _has_warmup(study: Study) -> bool:
    schedule: ScheduleConfig = study.trial_config({}).schedule
    return bool(schedule.warmup_epochs if schedule.warmup_steps is None else schedule.warmup_steps)


def _of_itself(study: Study, outcome: Outcome) -> Iterator[Finding]:
    verdict = outcome.costs.verdict
    if verdict is None:
        return
    key = KEYS.get(verdict.kind, "config")
    way_out = verdict.advice or "repair this, then check again"
    if _is_at_start(verdict):
        key = "loss"
        way_out = "lower the weights of the loss"
        if study.config.optim.precision != "fp32":
            way_out += f", or {setting('optim.precision', 'fp32')}"
    yield Finding(
        _severity_of_itself(study, verdict),
        f"corner-{verdict.kind}",
        key,
        f"{outcome.corner.name}: {_what(verdict)}",
        f"{_steps(study, verdict)}; trial 0 is this config, and the others are drawn around it",
        way_out,
    )


def _of_corner(study: Study, outcome: Outcome, outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    verdict, corner = outcome.costs.verdict, outcome.corner
    if verdict is None:
        return
    yield Finding(
        "error" if _nothing_works(study, outcome, outcomes) else "warning",
        f"corner-{verdict.kind}",
        corner.key,
        f"{corner.name} ({_values(corner.params)}): {_what(verdict)}",
        f"{_steps(study, verdict)}; trials that are drawn near this corner would probably end the "
        "same way",
        "; ".join(_ways_out(study, outcome, verdict)),
    )


def _what(verdict: Verdict) -> str:
    return f"{verdict.kind}: {verdict.evidence}"


def _values(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown_value(value)}" for name, value in params.items())


def _steps(study: Study, verdict: Verdict) -> str:
    """Return how the config was tried."""
    if verdict.kind not in NUMERIC:
        return "a trial of this config was started for a few real steps"
    if _is_at_start(verdict):
        return "this is the first real step, in which the learning rate has no part"
    without_warmup = ", without the warmup" if _has_warmup(study) else ""
    return f"real optimiser steps were taken at the peak learning rate{without_warmup}"


def _ways_out(study: Study, outcome: Outcome, verdict: Verdict) -> Iterator[str]:
    corner, safe = outcome.corner, outcome.safe
    dimensions = {d.name: d for d in study.space.dimensions}
    if verdict.kind == "out-of-memory" and verdict.advice:
        yield f"at this corner {verdict.advice}"
    if safe:
        yield from _of_safe_range(study, corner, safe, dimensions)
    chosen = dimensions.get(corner.key)
    if chosen and corner.key not in corner.moved and chosen.kind == "choice":
        value = corner.params.get(corner.key, study.space.base[corner.key])
        rest = without(chosen, value)
        if rest.values:
            joint = "or leave" if safe else "leave"
            yield f"{joint} {shown_value(value)} out of the space: {space_line(rest)}"
    if not safe and verdict.kind != "out-of-memory" and verdict.advice:
        yield verdict.advice


def _of_safe_range(
    study: Study, corner: Corner, safe: SafeRange, dimensions: Mapping[str, Dimension]
) -> Iterator[str]:
    """Yield what was healthy, and the lines of the space that keep to it."""
    ends = {**study.space.base, **corner.params}
    changed = [name for name, value in safe.healthy.items() if value != ends[name]]
    fixed = {n: value for n, value in corner.params.items() if n not in changed}
    beside = f" with {_values(fixed)}" if fixed else ""
    healthy = _values({name: safe.healthy[name] for name in changed})
    failed = _values({name: safe.failed[name] for name in changed})
    if len(changed) == 1:  # its name need not be repeated
        failed = shown_value(safe.failed[changed[0]])
    yield f"{healthy} was healthy for {study.search.corner_steps} steps{beside}, {failed} was not"
    lines = [
        space_line(narrowed(dimensions[name], safe.healthy[name], ends[name])) for name in changed
    ]
    yield f"in the space: {', '.join(lines)}"


def _nothing_works(study: Study, outcome: Outcome, outcomes: Sequence[Outcome]) -> bool:
    """Whether every value of the corner's setting that was tried has failed."""
    key = outcome.corner.key
    dimension = next(d for d in study.space.dimensions if d.name == key)
    if dimension.contains(study.space.base[key]) or outcome.safe:
        return False  # the config itself has a value of the space, and is healthy
    if dimension.kind != "choice":
        return True  # both ends have failed
    failed = [
        other.corner.params[key]
        for other in outcomes
        if key in other.corner.params and other.costs.verdict and not other.safe
    ]
    tried = {json.dumps(value) for value in failed}
    return tried >= {json.dumps(value) for value in dimension.values}
