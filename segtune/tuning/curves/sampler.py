"""Draws trials by the model of learning curves: an Optuna sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from segtune.tuning.curves.encoding import Encoding
from segtune.tuning.curves.improvement import log_expected_improvement
from segtune.tuning.curves.sight import SeenTrial, Sight
from segtune.tuning.space import Space

NUM_RANDOM = 500  # random points that are looked at for a draw
NUM_PARENTS = 8  # of them, and of the trials, the best are varied
NUM_CHILDREN = 15  # of each parent, in each round
SPREADS = (0.1, 0.03, 0.01)  # of the rounds, as a fraction of a range


class CurveSampler(optuna.samplers.BaseSampler):
    """Draws the point with the highest expected improvement, times the probability of health.

    The improvement is looked for at the highest rung that enough trials have reached: only there
    the model knows what differs between settings (as in HyperTune, Li et al. 2022, which takes
    scores of rungs for the same reason). The model learns from every healthy trial at each rung
    that it has reached, also from running and from pruned ones.
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
        """Return the values of the next trial; empty while too few trials have a score."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        sight = Sight.of(
            (_seen(t) for t in others if t.state != TrialState.FAIL), self.encoding, self.epochs
        )
        if len(sight.observed) < self.startup:
            return {}
        point = self.encoding.decode(self._best_row(sight))
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

    def _best_row(self, sight: Sight) -> np.ndarray:
        """Return the best point [width] that a few rounds of variation find."""
        model, level = sight.model(), sight.level
        best = sight.highest(model, level)

        def value(rows: np.ndarray) -> np.ndarray:
            improvement = log_expected_improvement(model.predict(rows, level), best)
            return improvement + sight.health.log_probability(rows)

        trained = np.array([trial.row for trial in sight.observed])
        rows = _highest(value, self.encoding.draw(NUM_RANDOM, self.random))
        parents = np.concatenate([rows, _highest(value, trained)])
        for spread in SPREADS:
            families = np.repeat(parents, NUM_CHILDREN, axis=0)
            children = self.encoding.vary(families, spread, self.random)
            rows = parents = _highest(value, np.concatenate([rows, children]))
        return rows[0]


def _highest(value: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the NUM_PARENTS rows [.., width] of the highest values, the highest first."""
    return rows[np.argsort(-value(rows), kind="stable")[:NUM_PARENTS]]


def _seen(trial: FrozenTrial) -> SeenTrial:
    return SeenTrial(
        trial.params,
        trial.intermediate_values,
        is_running=trial.state == TrialState.RUNNING,
        is_healthy=not any(value > 0 for value in trial.constraints.values()),
    )
