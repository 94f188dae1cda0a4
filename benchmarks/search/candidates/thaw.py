"""Which trial a free worker trains: a paused one, or a new one.

Source: freeze-thaw Bayesian optimisation (Swersky, Snoek and Adams 2014) and DyHPO (Wistuba,
Kadra and Grabocka 2022): no trial is stopped for good. At each rung it competes with the paused
trials and with the best new point, by its expected improvement for each epoch that it still needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.search.candidates.encoding import Encoding
from benchmarks.search.candidates.improvement import log_expected_improvement
from benchmarks.search.candidates.model import CurveModel
from benchmarks.search.candidates.sampler import best_new, highest_end
from benchmarks.search.candidates.sight import SeenTrial, Sight
from segtune.tuning.space import Space

REFIT_EVERY = 8  # scores


class Thaw:
    """What is known of all trials, and what follows from it."""

    def __init__(self, space: Space, epochs: Sequence[int], seed: int, startup: int) -> None:
        """`epochs` are the rungs and the full length; the first `startup` trials are random."""
        self.encoding = Encoding(space)
        self.epochs = epochs
        self.startup = startup
        self.random = np.random.default_rng(seed)
        self.trials: dict[int, SeenTrial] = {}
        self.paused: set[int] = set()
        self._fitted: CurveModel | None = None
        self._num_fitted = 0  # scores that it was fitted to

    def began(self, number: int, params: Mapping[str, Any]) -> None:
        """Take a trial that begins."""
        self.trials[number] = SeenTrial(params, is_running=True)

    def report(self, number: int, epoch: int, score: float) -> None:
        """Take a score of a trial."""
        self.trials[number].scores[epoch] = score

    def ended(self, number: int, *, is_healthy: bool) -> None:
        """Take the end of a trial."""
        self.trials[number].is_running = False
        self.trials[number].is_healthy = is_healthy

    def goes_on(self, number: int, epoch: int) -> bool:
        """Return whether a trial trains on after an epoch; if not, it is paused."""
        if epoch not in self.epochs or number == 0:
            return True
        self.paused.add(number)
        if self.next_paused() == number:
            self.paused.discard(number)
            return True
        return False

    def next_paused(self) -> int | None:
        """Return the paused trial that is worth more than a new one; None if there is none."""
        if not self.paused or self._num_scored() < self.startup:
            return None
        sight = self._sight()
        model = self._model(sight)
        numbers = [n for n in self.trials if n in self.paused]
        best = highest_end(sight, model)
        log_improvements = log_expected_improvement(model.predict_trials(), best)
        place = {n: i for i, n in enumerate(self._observed_numbers())}
        values = {
            n: log_improvements[place[n]] - math.log(self.epochs[-1] - max(self.trials[n].scores))
            for n in numbers
        }
        winner = max(values, key=values.__getitem__)
        new = best_new(sight, model, self.encoding, self.random)
        value_of_new = new.log_improvement - math.log(self.epochs[-1])
        return winner if values[winner] >= value_of_new else None

    def draw(self) -> dict[str, Any]:
        """Return the point of the best new trial."""
        sight = self._sight()
        if self._num_scored() < self.startup:
            return self.encoding.decode(self.encoding.draw(1, self.random)[0])
        row = best_new(sight, self._model(sight), self.encoding, self.random).row
        return self.encoding.decode(row)

    def _num_scored(self) -> int:
        return len(self._observed_numbers())

    def _observed_numbers(self) -> list[int]:
        return [
            n
            for n, trial in self.trials.items()
            if trial.is_healthy and trial.best_by_epoch(self.epochs)
        ]

    def _sight(self) -> Sight:
        return Sight.of(self.trials.values(), self.encoding, self.epochs)

    def _model(self, sight: Sight) -> CurveModel:
        num_scores = sum(len(trial.scores) for trial in sight.observed)
        if self._fitted is None or num_scores >= self._num_fitted + REFIT_EVERY:
            self._fitted = CurveModel(self.epochs, sight.observed)
            self._num_fitted = num_scores
        return sight.model(self._fitted)
