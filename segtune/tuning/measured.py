"""Guard constraints and objectives of a trial, read from its files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from segtune.runs.pareto import MIOU
from segtune.runs.records import GuardOutcome
from segtune.runs.results import TrialResult, validated_epochs
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.tuning.guards import ClassIou, guard_outcome
from segtune.tuning.guards_config import GuardsConfig
from segtune.tuning.search_config import SearchConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """The numbers of a trial that a sampler learns from, besides its mIoU."""

    constraints: Mapping[str, float] = field(default_factory=dict)  # by guard; above 0: broken
    costs: Mapping[str, float] = field(default_factory=dict)  # by objective; lower is better


NOTHING = Measured()


def measured(
    search: SearchConfig, run: SearchDir, trial: TrialDir, classes: Sequence[str]
) -> Measured:
    """Return the numbers of a trial of `run`, by the guards and the objectives of `search`."""
    return with_costs(search, trial, outcome_of(search, run, trial, classes))


def with_costs(search: SearchConfig, trial: TrialDir, outcome: GuardOutcome) -> Measured:
    """Return the numbers of a trial whose guards have been judged."""
    profile = trial.read_profile()
    values = {name: getattr(profile, name, None) for name in search.objectives if name != MIOU}
    costs = {name: value for name, value in values.items() if value is not None}
    return Measured(outcome.constraints, costs)


def outcome_of(
    search: SearchConfig, run: SearchDir, trial: TrialDir, classes: Sequence[str]
) -> GuardOutcome:
    """Return which guards a trial breaks by the records that are on disk now.

    `classes` are the names of the classes, for a trial whose network was not measured.
    """
    guards = search.guards_of_trials
    if not guards.limits:
        return GuardOutcome()
    profile = trial.read_profile()
    ious = final_ious(trial)
    baseline = final_ious(run.trial(0)) if guards.class_iou_drop is not None else ()
    names = profile.classes if profile else classes
    outcome = guard_outcome(guards, profile, names, ious, baseline)
    return replace(outcome, is_judged=bool(ious) or not guards.has_class_guards)


def warn_of_unmeasured(guards: GuardsConfig, run: SearchDir, ended: Sequence[TrialResult]) -> None:
    """Warn if trials that have ended cannot be judged by their size or their latency.

    They were trained before these guards were set, and are not measured any more.
    """
    unjudged = {
        name: sum(getattr(trial.profile, name, None) is None for trial in ended)
        for name in ("params_m", "latency_ms")
        if name in guards.limits
    }
    if not any(unjudged.values()):
        return
    log.warning(
        "%s: %d of %d ended trials have no measured network, because they were trained before "
        "the guard was set: %s cannot judge them, and they may win",
        run.path,
        max(unjudged.values()),
        len(ended),
        " and ".join(f"search.guards.{name}" for name, count in unjudged.items() if count),
    )


def final_ious(trial: TrialDir) -> ClassIou:
    """Return the IoU of each class at the epoch of the best mIoU; empty if it did not complete.

    A trial that was stopped early has lower IoUs than at full length. If it were judged, most
    trials that a stopping rule ends would break a guard.
    """
    verdict = trial.read_verdict()
    if verdict is None or verdict.state != "completed":
        return ()
    records = validated_epochs(trial, verdict)
    scores = [record.validation for record in records if record.validation]
    return max(scores, key=lambda score: score.miou).class_iou if scores else ()
