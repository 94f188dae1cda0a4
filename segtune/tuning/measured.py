"""What a trial has besides its mIoU: how far it breaks guards, and its other objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from segtune.runs.pareto import MIOU
from segtune.runs.records import GuardOutcome
from segtune.runs.results import validated_epochs
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.tuning.guards import ClassIou, guard_outcome
from segtune.tuning.search_config import SearchConfig


@dataclass(frozen=True)
class Measured:
    """The numbers of a trial that a sampler learns from, besides its mIoU."""

    constraints: Mapping[str, float] = field(default_factory=dict)  # by guard; above 0: broken
    costs: Mapping[str, float] = field(default_factory=dict)  # by objective; lower is better


NOTHING = Measured()


def measured(search: SearchConfig, run: SearchDir, trial: TrialDir) -> Measured:
    """Return the numbers of a trial of `run`, by the guards and the objectives of `search`."""
    return with_costs(search, trial, outcome_of(search, run, trial))


def with_costs(search: SearchConfig, trial: TrialDir, outcome: GuardOutcome) -> Measured:
    """Return the numbers of a trial whose guards have been judged."""
    profile = trial.read_profile()
    values = {name: getattr(profile, name, None) for name in search.objectives if name != MIOU}
    costs = {name: value for name, value in values.items() if value is not None}
    return Measured(outcome.constraints, costs)


def outcome_of(search: SearchConfig, run: SearchDir, trial: TrialDir) -> GuardOutcome:
    """Return which guards a trial breaks by the records that are on disk now."""
    guards = search.guards
    if not guards.limits:
        return GuardOutcome()
    baseline = best_ious(run.trial(0)) if guards.class_iou_drop is not None else ()
    return guard_outcome(guards, trial.read_profile(), best_ious(trial), baseline)


def best_ious(trial: TrialDir) -> ClassIou:
    """Return the IoU of each class at the epoch of the best mIoU; empty before a validation."""
    records = validated_epochs(trial, trial.read_verdict())
    scores = [record.validation for record in records if record.validation]
    return max(scores, key=lambda score: score.miou).class_iou if scores else ()
