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

    def replay(self, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Records what a trial of an earlier session has validated, as `decide` did then."""
        best = -math.inf
        for row in rows:
            if row.get("miou") is not None:
                best = max(best, row["miou"])
                self.decide(number, row["epoch"], best)


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
        number, miou = trial.config["number"], result.get("miou", math.nan)
        if not math.isnan(miou):
            self.best[number] = max(self.best.get(number, -math.inf), miou)
        goes_on = self.halving.decide(number, result["epoch"], self.best.get(number, math.nan))
        return TrialScheduler.CONTINUE if goes_on or number == 0 else TrialScheduler.STOP
