"""Draws trials by the model of learning curves: an Optuna sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from benchmarks.search.candidates.encoding import Encoding
from benchmarks.search.candidates.improvement import log_expected_improvement
from benchmarks.search.candidates.model import CurveModel
from benchmarks.search.candidates.sight import SeenTrial, Sight
from segtune.tuning.space import Space

NUM_RANDOM = 400  # random points that are looked at for a draw
NUM_PARENTS = 8  # of them, and of the trials, the best are varied
NUM_CHILDREN = 15  # of each parent, in each round
SPREADS = (0.1, 0.02)


class CurveSampler(optuna.samplers.BaseSampler):
    """Draws the point with the highest expected improvement at full length.

    The model learns from every healthy trial, at each of `epochs` that it has reached: also from
    running and from pruned ones. A running trial without a score is taken to end where the model
    expects it to, so that trials that are drawn at the same time differ.
    """

    def __init__(self, space: Space, epochs: Sequence[int], seed: int, startup: int) -> None:
        """`epochs` are the rungs and the full length; `startup` trials are drawn at random."""
        self.encoding = Encoding(space)
        self.epochs = epochs
        self.startup = startup
        self.random = np.random.default_rng(seed)
        self.independent = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the distributions of all settings that vary, conditional ones too."""
        dimensions = self.encoding.space.dimensions
        return {d.name: d.distribution() for d in dimensions if not d.is_fixed}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the values of the next trial; empty while too few trials have ended."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        if sum(t.state.is_finished() for t in trials) < self.startup:
            return {}
        point = self.draw(trials)
        return {name: value for name, value in point.items() if name in search_space}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a random value: for the first trials, and for a setting that has one value."""
        return self.independent.sample_independent(study, trial, param_name, param_distribution)

    def draw(self, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Return the point with the highest expected improvement, times P(healthy)."""
        sight = Sight.of(map(SeenTrial.of, trials), self.encoding, self.epochs)
        if not sight.observed:
            return self.encoding.decode(self.encoding.draw(1, self.random)[0])
        return self.encoding.decode(best_new(sight, sight.model(), self.encoding, self.random).row)


@dataclass(frozen=True)
class Candidate:
    """A point that is not trained yet."""

    row: np.ndarray  # [width]
    log_improvement: float  # logarithm of its expected improvement, times P(healthy)


def best_new(
    sight: Sight, model: CurveModel, encoding: Encoding, random: np.random.Generator
) -> Candidate:
    """Return the best point that a few rounds of variation find.

    The improvement is that on the highest expected end of an observed trial: a score itself has the
    luck of its seed.
    """
    best = highest_end(sight, model)

    def value(rows: np.ndarray) -> np.ndarray:
        improvement = log_expected_improvement(model.predict(rows), best)
        return improvement + sight.health.log_probability(rows)

    trained = np.array([trial.row for trial in sight.observed])
    best_rows = _highest(value, encoding.draw(NUM_RANDOM, random))
    parents = np.concatenate([best_rows, _highest(value, trained)])
    for spread in SPREADS:
        children = encoding.vary(np.repeat(parents, NUM_CHILDREN, axis=0), spread, random)
        best_rows = parents = _highest(value, np.concatenate([best_rows, children]))
    return Candidate(best_rows[0], float(value(best_rows[:1])[0]))


def _highest(value: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the NUM_PARENTS rows [.., width] of the highest values, the highest first."""
    return rows[np.argsort(-value(rows), kind="stable")[:NUM_PARENTS]]


def highest_end(sight: Sight, model: CurveModel) -> float:
    """Return the highest expected end of an observed trial."""
    return float(model.predict_trials().mean[: len(sight.observed)].max())
