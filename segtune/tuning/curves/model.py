"""A Gaussian process over settings and epochs: where does a learning curve end?

Source: freeze-thaw Bayesian optimisation (Swersky, Snoek and Adams 2014), which models the curves
of all trials together, so that a trial that was stopped early still says where trials like it end.
The covariance is described in `parameters`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from segtune.tuning.curves.parameters import Parameters, Scores, fitted


@dataclass(frozen=True)
class Observed:
    """A trial as the model sees it."""

    row: np.ndarray  # its settings, see `Encoding`
    scores: Mapping[int, float]  # best score up to each of the model's epochs that it has reached


@dataclass(frozen=True)
class Prediction:
    """Expected scores, without the noise of a validation."""

    mean: np.ndarray  # [N]
    sd: np.ndarray  # [N]


class CurveModel:
    """Learns from the curves of trials where those of other settings, and of these trials, end."""

    def __init__(self, epochs: Sequence[int], trials: Sequence[Observed]) -> None:
        """Fit the model to `trials`, of which one has scores at least.

        `epochs` are those at which curves are read, ascending; the last one is the full length.
        """
        self.epochs = list(epochs)
        values = np.array([score for trial in trials for score in trial.scores.values()])
        self.centre, self.scale = float(values.mean()), float(values.std()) or 1.0
        times = np.log(np.array(self.epochs, dtype=float))
        self.parameters: Parameters = fitted(self._scores(trials), times)
        self._take(trials)

    def on(self, trials: Sequence[Observed], believed: Sequence[Observed] = ()) -> CurveModel:
        """Return a model of other trials with the parameters of this one.

        The scores of `believed` trials are taken as the means over seeds of their settings.
        """
        other = copy.copy(self)
        other._take(trials, believed)
        return other

    def predict(self, rows: np.ndarray, level: int = -1) -> Prediction:
        """Return the scores of new trials with these settings [N, width].

        `level` is the index of the epoch; the default is the full length.
        """
        return self._predict(rows, np.full(len(rows), -1), level)

    def predict_trials(self, level: int = -1) -> Prediction:
        """Return the scores of the trials that the model knows, at the epoch with index `level`."""
        rows = np.array([trial.row for trial in self.trials])
        return self._predict(rows, np.arange(len(rows)), level)

    def expected_without_later(self, index: int, epoch: int) -> float:
        """Return the end that is expected of a known trial if its scores after `epoch` are ignored.

        `index` is that of the trial in `trials`. The scores are left out in closed form, without a
        new factor: Rasmussen and Williams 2006, equation 5.12, here for several scores at once.
        """
        known, row = self._known, self.trials[index].row[None]
        is_later = (known.trials == index) & (known.levels > self.epochs.index(epoch))
        later = np.flatnonzero(is_later)
        units = (np.arange(len(is_later))[:, None] == later).astype(float)
        columns = cho_solve((self._factor, True), units)  # of the inverse of the covariance
        # These weights are 0 for the later scores, and for the others as if those did not exist.
        weights = self._weights - columns @ np.linalg.solve(columns[later], self._weights[later])
        asked = Scores(row, np.array([len(self.epochs) - 1]), np.array([index]), np.empty(0))
        mean = self.parameters.covariance(known, asked)[:, 0] @ weights + self.parameters.means[-1]
        return float(mean * self.scale + self.centre)

    def _take(self, trials: Sequence[Observed], believed: Sequence[Observed] = ()) -> None:
        self.trials = trials
        self._known = self._scores(trials, believed)
        self._factor = self.parameters.factor(self._known)
        residuals = self._known.values - self.parameters.means[self._known.levels]
        self._weights = cho_solve((self._factor, True), residuals)

    def _scores(self, trials: Sequence[Observed], believed: Sequence[Observed] = ()) -> Scores:
        """Return the scores of trials, standardised."""
        numbered = [*enumerate(trials), *((-1, trial) for trial in believed)]
        scored = [
            (trial.row, self.epochs.index(epoch), number, (score - self.centre) / self.scale)
            for number, trial in numbered
            for epoch, score in trial.scores.items()
        ]
        rows, levels, numbers, values = zip(*scored, strict=True)
        return Scores(np.array(rows), np.array(levels), np.array(numbers), np.array(values))

    def _predict(self, rows: np.ndarray, numbers: np.ndarray, level: int) -> Prediction:
        p = self.parameters
        levels = np.full(len(rows), level % len(self.epochs))
        asked = Scores(rows, levels, numbers, np.empty(0))
        covariance = p.covariance(self._known, asked)
        mean = covariance.T @ self._weights + p.means[levels]
        explained = solve_triangular(self._factor, covariance, lower=True)
        own = np.where(numbers >= 0, p.own, 0.0)  # a new trial stands for the mean over seeds
        variance = p.surface + own - (explained**2).sum(0)
        sd = np.sqrt(np.maximum(variance, 1e-12))
        return Prediction(mean * self.scale + self.centre, sd * self.scale)
