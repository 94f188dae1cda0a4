"""Successive halving that orders trials by their expected end instead of their score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segtune.tuning.curves.encoding import Encoding
from segtune.tuning.curves.model import CurveModel, Observed
from segtune.tuning.curves.worth import RungWorth, rung_worth
from segtune.tuning.space import Space
from segtune.tuning.stopping import PausingHalving

# The parameters of the model are fitted again when there are so many times as many scores.
REFIT_GROWTH = 1.1


class ExpectedHalving(PausingHalving):
    """At each rung the trials with the highest expected ends go on, 1/reduction of them.

    The expected end of a trial is that of the model of learning curves, which has seen the scores
    of all trials at the rungs.
    """

    def __init__(
        self, space: Space, rungs: Sequence[int], full: int, reduction: int, max_paused: int
    ) -> None:
        """`full` is the epoch at which a trial is complete; see also `PausingHalving`."""
        super().__init__(rungs, reduction, max_paused)
        self.encoding = Encoding(space)
        self.epochs = [*rungs, full]
        self.rows: dict[int, np.ndarray] = {}  # settings of the trials
        self.scores: dict[int, dict[int, float]] = {}  # by trial and epoch, healthy trials only
        self._fitted: CurveModel | None = None
        self._num_fitted = 0  # scores
        self._ends: dict[int, float] | None = None  # expected, by trial; None: not up to date
        # By rung: how many trials were beyond it, and what it was worth then.
        self._worths: dict[int, tuple[int, RungWorth | None]] = {}

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """Take the values of a trial."""
        # A trial from before an --extend lacks the new settings: there it had the config's own.
        self.rows[number] = self.encoding.encode([self.encoding.space.complete(params)])[0]

    def decide(self, number: int, epoch: int, score: float) -> bool:
        """Decide as `StoppingRule.decide` describes; a rung decides only once about each trial."""
        reached = max((e for e in self.epochs if e <= epoch), default=None)
        known = self.scores.setdefault(number, {})
        if reached is not None and reached not in known and math.isfinite(score):
            known[reached] = score
            self._ends = None
        return super().decide(number, epoch, score)

    def end(self, number: int, *, is_healthy: bool) -> None:
        """Take a trial from those that wait; one that is not healthy says nothing about others."""
        super().end(number, is_healthy=is_healthy)
        if not is_healthy:
            self.scores.pop(number, None)
            self._ends = None

    def worth(self, rung: int) -> RungWorth | None:
        """Return what the orders at a rung are worth; None if too few trials are beyond it.

        It is computed again when another trial has reached the next rung.
        """
        num_beyond = sum(max(scores, default=0) > rung for scores in self.scores.values())
        known = self._worths.get(rung)
        if known is None or known[0] != num_beyond:
            observed, ends = self._observed(), self.expected_ends()
            worth = rung_worth(self._model(observed), observed, rung, ends) if observed else None
            known = self._worths[rung] = (num_beyond, worth)
        return known[1]

    def _ranked(self, rung: int) -> list[int]:
        """Return the trials that have reached a rung, best first.

        The best have the highest expected ends, or the highest scores if those have proved to be
        worth more at this rung.
        """
        worth = self.worth(rung)
        if worth and not worth.is_expected_better:
            return super()._ranked(rung)
        ends, scores = self.expected_ends(), self.recorded[rung]
        expected = {
            number: ends.get(number, -math.inf) if math.isfinite(score) else score
            for number, score in scores.items()
        }
        return sorted(scores, key=lambda number: (-expected[number], number))

    def expected_ends(self) -> dict[int, float]:
        """Return the expected score at full length of each healthy trial with a score."""
        if self._ends is None:
            known = self._observed()
            trials = list(known.values())
            means = self._model(known).predict_trials().mean.tolist() if trials else []
            self._ends = dict(zip(known, means, strict=True))
        return self._ends

    def _observed(self) -> dict[int, Observed]:
        """Return the healthy trials with a score, by number."""
        known = sorted(
            (n, scores) for n, scores in self.scores.items() if scores and n in self.rows
        )
        return {n: Observed(self.rows[n], scores) for n, scores in known}

    def _model(self, observed: Mapping[int, Observed]) -> CurveModel:
        trials = list(observed.values())
        num_scores = sum(len(trial.scores) for trial in trials)
        if self._fitted and num_scores < REFIT_GROWTH * self._num_fitted:
            return self._fitted.on(trials)
        self._fitted, self._num_fitted = CurveModel(self.epochs, trials), num_scores
        return self._fitted
