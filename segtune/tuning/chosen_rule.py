"""The rule of a study that stops or pauses trials."""

from __future__ import annotations

from segtune.tuning.search_config import HyperbandConfig, MedianConfig
from segtune.tuning.stopping import (
    HyperbandBrackets,
    MedianRule,
    PausingHalving,
    StoppingRule,
    SuccessiveHalving,
)
from segtune.tuning.study import Study


def stopping_rule(study: Study) -> StoppingRule:
    """Return the rule that a study's `search.scheduler` describes."""
    scheduler = study.search.scheduler
    if scheduler == "none":
        return SuccessiveHalving(rungs=[], reduction=2)
    chosen, rungs = scheduler.chosen, study.rungs()
    if isinstance(chosen, MedianConfig):
        return MedianRule(study.grace_epochs, chosen.min_trials)
    if isinstance(chosen, HyperbandConfig):
        return HyperbandBrackets(rungs, chosen.reduction, brackets=len(rungs) + 1)
    if study.search.orders_by_expected_end:
        # Imports numpy and scipy, which no command needs for its --help.
        from segtune.tuning.curves.halving import ExpectedHalving

        return ExpectedHalving(
            study.space, rungs, study.epochs, chosen.reduction, chosen.max_paused
        )
    if study.search.pauses:
        return PausingHalving(rungs, chosen.reduction, chosen.max_paused)
    return HyperbandBrackets(rungs, chosen.reduction, chosen.brackets)
