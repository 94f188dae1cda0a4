"""Asynchronous successive halving that treats what is not finite as worst, counts in epochs, and can be rebuilt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class Halving:
    """The rule itself: at each rung a trial goes on only among the best 1/reduction of those that have come there.

    Stopping form of ASHA (Li et al. 2018): nobody waits, nobody is promoted later. Below `reduction` arrivals only the
    best so far goes on, as in Optuna; Ray lets the first `reduction - 1` pass unseen.
    """

    def __init__(self, rungs: Sequence[int], reduction: int) -> None:
        """`rungs` are epochs in ascending order; without rungs nothing is ever stopped."""
        self.reduction = reduction
        self.recorded: dict[int, dict[int, float]] = {rung: {} for rung in rungs}

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Records trial `number` at the rung that `epoch` has reached and returns whether it goes on.

        `score` is its best value so far, higher is better; what is not finite counts as worst. A rung decides once about
        a trial: told again, it goes on.
        """
        rung = max((r for r in self.recorded if r <= epoch), default=None)
        if rung is None or number in self.recorded[rung]:
            return True
        scores = self.recorded[rung]
        scores[number] = score if math.isfinite(score) else -math.inf
        places = max(1, len(scores) // self.reduction)
        better = sum(other > scores[number] for other in scores.values())
        return better < places and math.isfinite(scores[number])


class HalvingScheduler(FIFOScheduler):
    """`Halving` as a Tune scheduler; trials know their number through their config.

    Trial 0, the config as it stands, is recorded but never stopped: a winner needs something to be better than.
    """

    def __init__(self, halving: Halving) -> None:
        super().__init__()
        self.halving = halving
        self.best: dict[int, float] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        """Returns CONTINUE or STOP for a result with `epoch` and `miou`."""
        goes_on = self._judge(trial.config["number"], result["epoch"], result.get("miou", math.nan))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def replay(self, number: int, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Judges the validated epochs of an earlier session again; returns whether the trial goes on after the last."""
        goes_on = True
        for row in rows:
            goes_on = self._judge(number, row["epoch"], row["miou"])
        return goes_on

    def _judge(self, number: int, epoch: int, miou: float) -> bool:
        if not math.isnan(miou):
            self.best[number] = max(self.best.get(number, -math.inf), miou)
        return self.halving.decide(number, epoch, self.best.get(number, math.nan)) or number == 0
