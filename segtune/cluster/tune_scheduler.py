"""The stopping rule as a Tune scheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from segtune.tuning.stopping import StoppingRule


class StoppingRuleScheduler(FIFOScheduler):
    """A `StoppingRule` as a Tune scheduler; trials know their number through their config.

    Judged by the best mIoU so far: that is what a trial is worth, and a late dip must not hide an early peak. Trial 0, the
    config itself, counts at the rungs but is never stopped: the winner is set against its full length.
    """

    def __init__(self, rule: StoppingRule) -> None:
        super().__init__()
        self.rule, self.best = rule, dict[int, float]()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        """Returns CONTINUE or STOP for a result with `epoch` and `miou`."""
        goes_on = self._judge(trial.config["number"], result["epoch"], result.get("miou", math.nan))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def replay(self, number: int, mious: Mapping[int, float]) -> bool:
        """Judges the validated epochs of an earlier session again; returns whether the trial goes on after the last."""
        goes_on = True
        for epoch, miou in mious.items():
            goes_on = self._judge(number, epoch, miou)
        return goes_on

    def _judge(self, number: int, epoch: int, miou: float) -> bool:
        if not math.isnan(miou):
            self.best[number] = max(self.best.get(number, -math.inf), miou)
        return self.rule.decide(number, epoch, self.best.get(number, math.nan)) or number == 0
