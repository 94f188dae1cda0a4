"""The parameters of the model of learning curves, and how they are fitted.

The covariance of two scores y(x, t), at settings x and epochs t, is

    surface * matern(x, x') * progress(t, t') + [same trial] * own * progress(t, t')

with a Matérn kernel (nu = 5/2) that has a length for each column of x, and
progress(t, t') = exp(-rate |ln t - ln t'|): scores at epochs 10 and 20 say as much of each other as
those at 20 and 40. The second term is what a trial differs from its settings, because of its seed.
Each epoch has a mean of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

LEAST_NOISE = 1e-5  # variance, in units of the variance of all scores
ITERATIONS = 25  # of L-BFGS; more change the predictions little
# Mean and standard deviation of the normal priors of the logarithms of surface, own, rate and noise
# (variances in units of the variance of all scores). With this rate, the scores at epochs 2 and 52
# have a correlation of 0.7.
PRIORS = np.array([(0.0, 1.0), (-3.0, 1.5), (-2.3, 1.5), (-5.0, 1.5)])
# The same for the lengths. The distance of two random points grows with the root of the number of
# columns (Hvarfner et al. 2024); most settings of a segmentation config matter more than they
# assume.
LENGTH_SHIFT, LENGTH_SPREAD = -1.5, 1.2
START_LENGTH = -0.3  # logarithm
# Standard deviation of the difference of the means of two neighbouring epochs. It decides about an
# epoch that no trial has reached.
MEAN_STEP = 0.5


@dataclass(frozen=True)
class Scores:
    """Scores of trials, one row for each."""

    rows: np.ndarray  # [N, width]: the trial's settings, see `Encoding`
    levels: np.ndarray  # [N]: index of the epoch, among those at which curves are read
    # [N]: number of the trial. A negative one stands for the mean over seeds: such a score has no
    # noise, and no part of its own.
    trials: np.ndarray
    values: np.ndarray  # [N]: standardised scores; not used if scores are to be predicted


@dataclass(frozen=True)
class Parameters:
    """The parameters of the covariance and of the mean."""

    lengths: np.ndarray  # [width]
    surface: float
    own: float
    rate: float
    noise: float
    means: np.ndarray  # [levels]
    times: np.ndarray  # [levels]: logarithms of the epochs at which curves are read

    def covariance(self, a: Scores, b: Scores) -> np.ndarray:
        """Return the covariances [N, M] of scores without their noise."""
        squares = (((a.rows[:, None] - b.rows[None]) / self.lengths) ** 2).sum(-1)
        root = np.sqrt(5 * squares)
        matern = (1 + root + 5 * squares / 3) * np.exp(-root)
        same = (a.trials[:, None] == b.trials[None]) & (a.trials[:, None] >= 0)
        gaps = np.abs(self.times[a.levels][:, None] - self.times[b.levels][None])
        return (self.surface * matern + self.own * same) * np.exp(-self.rate * gaps)

    def factor(self, scores: Scores) -> np.ndarray:
        """Return the lower Cholesky factor [N, N] of the covariance of noisy scores."""
        noise = np.where(scores.trials >= 0, self.noise, 0.0) + LEAST_NOISE
        return np.linalg.cholesky(self.covariance(scores, scores) + np.diag(noise))


def fitted(scores: Scores, times: np.ndarray) -> Parameters:
    """Return the most likely parameters (maximum a posteriori)."""
    problem = _Fit(scores, times)
    width, levels = problem.width, len(times)
    start = np.concatenate([np.full(width, START_LENGTH), PRIORS[:, 0], np.zeros(levels)])
    bounds = [(-3, 4)] * width + [(-5, 5), (-9, 3), (-6, 2), (-11, 1)] + [(-6, 6)] * levels
    options = {"maxiter": ITERATIONS}
    found = minimize(problem, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return problem.parameters(found.x)


class _Fit:
    """The negative logarithm of the posterior density of the parameters, and its gradient.

    The gradient of the likelihood is that of Rasmussen and Williams 2006, equation 5.9.
    """

    def __init__(self, scores: Scores, times: np.ndarray) -> None:
        self.scores = scores
        self.times = times
        self.width = scores.rows.shape[1]
        self.squares = (scores.rows[:, None] - scores.rows[None]) ** 2
        ln_epochs = times[scores.levels]
        self.gaps = np.abs(ln_epochs[:, None] - ln_epochs[None])
        self.same = scores.trials[:, None] == scores.trials[None]
        self.is_at = scores.levels[:, None] == np.arange(len(times))
        centre = math.sqrt(2) + math.log(self.width) / 2 + LENGTH_SHIFT
        lengths = np.tile((centre, LENGTH_SPREAD), (self.width, 1))
        self.prior_means, self.prior_sds = np.concatenate([lengths, PRIORS]).T

    def parameters(self, z: np.ndarray) -> Parameters:
        """Return the parameters that a vector of logarithms, and means, stands for."""
        surface, own, rate, noise = np.exp(z[self.width : self.width + 4]).tolist()
        lengths, means = np.exp(z[: self.width]), z[self.width + 4 :]
        return Parameters(lengths, surface, own, rate, noise, means, self.times)

    def __call__(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value and its gradient at a vector."""
        p = self.parameters(z)
        scaled = self.squares / p.lengths**2
        squares = scaled.sum(-1)
        root = np.sqrt(5 * squares)
        progress, decay = np.exp(-p.rate * self.gaps), np.exp(-root)
        of_surface = p.surface * (1 + root + 5 * squares / 3) * decay * progress
        of_own = p.own * self.same * progress
        covariance = of_surface + of_own
        noisy = covariance + (p.noise + LEAST_NOISE) * np.eye(len(squares))
        try:
            factor = np.linalg.cholesky(noisy)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(z)
        residuals = self.scores.values - p.means[self.scores.levels]
        weights = cho_solve((factor, True), residuals)
        half = solve_triangular(factor, np.eye(len(factor)), lower=True)
        by_covariance = (half.T @ half - np.outer(weights, weights)) / 2
        by_square = by_covariance * p.surface * progress * (5 / 3) * (1 + root) * decay
        gradient = np.concatenate(
            [
                np.einsum("ij,ijd->d", by_square, scaled),
                [
                    (by_covariance * of_surface).sum(),
                    (by_covariance * of_own).sum(),
                    -p.rate * (by_covariance * covariance * self.gaps).sum(),
                    p.noise * by_covariance.trace(),
                ],
                -(self.is_at.T @ weights),
            ]
        )
        value = residuals @ weights / 2 + np.log(factor.diagonal()).sum()
        prior, prior_gradient = self._prior(z)
        return float(value + prior), gradient + prior_gradient

    def _prior(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative logarithm of the prior density, and its gradient."""
        deviations = (z[: self.width + 4] - self.prior_means) / self.prior_sds
        steps = np.diff(z[self.width + 4 :]) / MEAN_STEP
        # A step raises the mean after it and lowers the one before it.
        by_mean = np.diff(np.concatenate([[0.0], steps, [0.0]])) / -MEAN_STEP
        gradient = np.concatenate([deviations / self.prior_sds, by_mean])
        return float((deviations**2).sum() / 2 + (steps**2).sum() / 2), gradient
