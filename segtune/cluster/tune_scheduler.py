"""A stopping rule as a Tune scheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from segtune.tuning.stopping import StoppingRule


class StoppingRuleScheduler(FIFOScheduler):
    """Stops trials by a `StoppingRule`. The number of a trial stands in its Tune config.

    To Tune, a trial that the rule pauses has ended; a resumed trial is a new one with its number.

    A trial is judged by its best mIoU so far: that is the score it ends with, and a late dip must
    not hide an early peak. Trial 0, the config itself, counts at the rungs but is never stopped or
    paused, because the winner is compared with it at full length.
    """

    def __init__(self, rule: StoppingRule) -> None:
        super().__init__()
        self.rule = rule
        self.best: dict[int, float] = {}  # best mIoU so far, by trial number

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        """Return CONTINUE or STOP for a result with `epoch` and `miou`."""
        miou = result.get("miou", math.nan)
        continues = self._continues(trial.config["number"], result["epoch"], miou)
        return TrialScheduler.CONTINUE if continues else TrialScheduler.STOP

    def replay(self, number: int, mious: Mapping[int, float]) -> bool:
        """Judge the validated epochs of an earlier session again.

        Return whether the trial continues after the last of them.
        """
        continues = True
        for epoch, miou in mious.items():
            continues = self._continues(number, epoch, miou)
        return continues

    def _continues(self, number: int, epoch: int, miou: float) -> bool:
        if not math.isnan(miou):
            self.best[number] = max(self.best.get(number, -math.inf), miou)
        continues = self.rule.decide(number, epoch, self.best.get(number, math.nan))
        return continues or number == 0
