"""A Gaussian process over settings and epochs: where does a learning curve end?

Source: freeze-thaw Bayesian optimisation (Swersky, Snoek and Adams 2014), which models the curves
of all trials together, so that a trial that was stopped early still says where trials like it end.
Here the covariance of two scores is

    surface(x, x') * progress(t, t') + [same trial] * own * progress'(t, t')

with a Matérn kernel over the settings x, and progress(t, t') = exp(-rate |ln t - ln t'|) over the
epochs t: scores at epochs 10 and 20 say as much of each other as those at 20 and 40. The second
term is what a trial differs from its settings, because of its seed. Each epoch has a mean of its
own.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import gpytorch
import numpy as np
import torch
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import Kernel, MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior, NormalPrior

# Of the iterations of L-BFGS; more change the predictions little.
ITERATIONS = 25
LEAST_NOISE = 1e-5  # variance, in units of the variance of all scores
NEW_TRIAL = -1.0  # number of a trial that has no scores


@dataclass(frozen=True)
class Observed:
    """A trial as the model sees it."""

    row: np.ndarray  # its settings, see `Encoding`
    scores: Mapping[int, float]  # best score up to each of the model's epochs that it has reached


@dataclass(frozen=True)
class Prediction:
    """Where learning curves end: the score at full length, without the noise of a validation."""

    mean: np.ndarray  # [N]
    sd: np.ndarray  # [N]


@contextmanager
def exact() -> Iterator[None]:
    """Compute with a Cholesky decomposition: with a few hundred scores, that is the fastest way."""
    fast = gpytorch.settings.fast_computations(False, False, False)
    with warnings.catch_warnings(), fast, gpytorch.settings.max_cholesky_size(10_000):
        warnings.simplefilter("ignore")  # of small corrections to the diagonal
        yield


class ProgressKernel(Kernel):
    """exp(-rate |a - b|) of the logarithms a and b of epochs."""

    def __init__(self, column: int) -> None:
        super().__init__(active_dims=(column,))
        self.register_parameter("raw_rate", torch.nn.Parameter(torch.zeros(1)))
        self.register_constraint("raw_rate", Positive(torch.exp, torch.log, initial_value=0.4))
        self.register_prior("rate_prior", LogNormalPrior(-1.0, 1.5), lambda kernel: kernel.rate)

    @property
    def rate(self) -> torch.Tensor:
        """How fast scores at different epochs become unlike, per factor e of the epochs."""
        return self.raw_rate_constraint.transform(self.raw_rate)

    def forward(
        self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params: object
    ) -> torch.Tensor:
        """Return the covariances of [..., N, 1] and [..., M, 1]."""
        gaps = (x1 - x2).squeeze(-1) if diag else x1 - x2.transpose(-1, -2)
        return torch.exp(-self.rate * gaps.abs())


class SameTrialKernel(Kernel):
    """1 for scores of one trial, 0 for scores of two."""

    def __init__(self, column: int) -> None:
        super().__init__(active_dims=(column,))

    def forward(
        self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params: object
    ) -> torch.Tensor:
        """Return the covariances of [..., N, 1] and [..., M, 1]."""
        same = (x1 == x2).squeeze(-1) if diag else x1 == x2.transpose(-1, -2)
        return same.to(x1.dtype)


class MeanByEpoch(Mean):
    """A mean of its own for each epoch at which curves are read."""

    def __init__(self, times: torch.Tensor, column: int) -> None:
        """`times` [K] are logarithms of epochs, ascending; they stand in column `column`."""
        super().__init__()
        self.times = times
        self.column = column
        self.register_parameter("values", torch.nn.Parameter(torch.zeros(len(times))))
        # Neighbours differ by about half a standard deviation of all scores. This decides about an
        # epoch that no trial has reached.
        self.register_prior("steps", NormalPrior(0.0, 0.5), lambda mean: mean.values.diff())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean [..., N] of inputs [..., N, columns]."""
        is_at = torch.isclose(x[..., self.column, None], self.times)
        return is_at.to(x.dtype) @ self.values


class _CurveGP(gpytorch.models.ExactGP):
    """The Gaussian process on standardised scores. Columns: settings, ln epochs, trial."""

    def __init__(
        self,
        inputs: torch.Tensor,
        scores: torch.Tensor,
        likelihood: GaussianLikelihood,
        times: torch.Tensor,
    ) -> None:
        super().__init__(inputs, scores, likelihood)
        width = inputs.shape[1] - 2
        # The distance of two random points grows with the root of the number of settings (Hvarfner
        # et al. 2024); most settings of a segmentation config matter more than they assume.
        centre = math.sqrt(2) + math.log(width) / 2 - 1.5
        surface = MaternKernel(
            nu=2.5,
            ard_num_dims=width,
            active_dims=tuple(range(width)),
            lengthscale_prior=LogNormalPrior(centre, 1.2),
        )
        surface.lengthscale = math.exp(-0.3)
        scaled = ScaleKernel(
            surface * ProgressKernel(width), outputscale_prior=LogNormalPrior(0.0, 1.0)
        )
        scaled.outputscale = 1.0
        own = ScaleKernel(
            SameTrialKernel(width + 1) * ProgressKernel(width),
            outputscale_prior=LogNormalPrior(-3.0, 1.5),
        )
        own.outputscale = math.exp(-3.0)
        self.kernel = scaled + own
        self.mean = MeanByEpoch(times, width)

    def forward(self, inputs: torch.Tensor) -> MultivariateNormal:
        """Return the prior of the scores at `inputs` [..., N, columns]."""
        return MultivariateNormal(self.mean(inputs), self.kernel(inputs))


class CurveModel:
    """Learns from the curves of trials where those of other settings, and of these trials, end."""

    def __init__(self, epochs: Sequence[int], trials: Sequence[Observed]) -> None:
        """Fit the model to `trials`, of which one has scores at least.

        `epochs` are those at which curves are read, ascending; the last one is the full length.
        """
        self.epochs = epochs
        self.trials = trials
        self.times = torch.log(torch.tensor([float(epoch) for epoch in epochs]).double())
        scores = np.array([score for trial in trials for score in trial.scores.values()])
        self.centre, self.scale = float(scores.mean()), float(scores.std()) or 1.0
        self._gp = self._fitted(*self._data(trials))

    def on(self, trials: Sequence[Observed]) -> CurveModel:
        """Return a model of other trials with the parameters of this one."""
        other = copy.copy(self)
        other.trials = trials
        other._gp = copy.deepcopy(self._gp)
        other._gp.set_train_data(*self._data(trials), strict=False)
        return other

    def predict(self, rows: np.ndarray) -> Prediction:
        """Return where trials with these settings [N, width] end that have not begun."""
        return self._predict(rows, np.full(len(rows), NEW_TRIAL))

    def predict_trials(self) -> Prediction:
        """Return where the trials that the model knows end."""
        rows = np.array([trial.row for trial in self.trials])
        return self._predict(rows, np.arange(len(rows)))

    def _predict(self, rows: np.ndarray, numbers: np.ndarray) -> Prediction:
        inputs = _inputs(rows, [self.epochs[-1]] * len(rows), numbers)
        with torch.no_grad(), exact():
            ends = self._gp(inputs)
            mean, sd = ends.mean.numpy(), ends.variance.clamp_min(0).sqrt().numpy()
        return Prediction(mean * self.scale + self.centre, sd * self.scale)

    def _data(self, trials: Sequence[Observed]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs and the standardised scores of trials, one row for each score."""
        scored = [
            (trial.row, epoch, number, score)
            for number, trial in enumerate(trials)
            for epoch, score in trial.scores.items()
        ]
        rows, epochs, numbers, scores = zip(*scored, strict=True)
        inputs = _inputs(np.array(rows), epochs, np.array(numbers))
        return inputs, torch.tensor((np.array(scores) - self.centre) / self.scale)

    def _fitted(self, inputs: torch.Tensor, scores: torch.Tensor) -> _CurveGP:
        """Return the Gaussian process with the most likely parameters (maximum a posteriori)."""
        likelihood = GaussianLikelihood(
            noise_prior=LogNormalPrior(-5.0, 1.5), noise_constraint=GreaterThan(LEAST_NOISE)
        )
        process = _CurveGP(inputs, scores, likelihood, self.times).double()
        likelihood.double().noise = math.exp(-5.0)
        posterior = ExactMarginalLogLikelihood(likelihood, process)
        optimiser = torch.optim.LBFGS(
            process.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
        )

        def loss() -> torch.Tensor:
            optimiser.zero_grad()
            value = -posterior(process(inputs), scores)
            value.backward()
            return value

        process.train()
        with exact():
            optimiser.step(loss)  # pyright: ignore[reportArgumentType]
        return process.eval()


def _inputs(rows: np.ndarray, epochs: Sequence[int], numbers: np.ndarray) -> torch.Tensor:
    """Return the inputs [N, width + 2] of the process: settings, ln epoch, number of the trial."""
    return torch.tensor(np.column_stack([rows, np.log(epochs), numbers]))
