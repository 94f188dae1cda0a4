"""How much each searched setting matters for a high mIoU, with an interval: Optuna's PED-ANOVA.

Knows numbers only. `checks/what_mattered.py` decides which trials count, and tests whether a
setting matters at all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial

from segtune.tuning.samplers import silence_optuna
from segtune.tuning.space import Dimension, Space

# The top trials are compared with all: a fifth of them, and at least 5, which Optuna advises.
TOP_SHARE = 0.2
MIN_TOP = 5
NUM_SUBSAMPLES = 40
# Optuna needs 0.1 s for 1,000 trials and a subsample, so more would make a report slow. Of more
# trials, every second, third, … counts.
MAX_TRIALS = 400
NORMAL_95 = 1.96  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Importance:
    """The share of one setting in the importance of all, in 0..1, with a 95 % interval."""

    name: str
    share: float
    low: float
    high: float


def importances(
    space: Space, points: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> list[Importance]:
    """Return the importance of each setting that a trial has, the largest first.

    `points` lie in the space, and higher scores are better. PED-ANOVA (Watanabe et al. 2023) asks
    how the values of the top trials are distributed differently from those of all trials. Only the
    order of the scores counts. Conditional settings are handled as in Optuna 5. fANOVA is no
    choice: it needs scikit-learn, which segtune does not install.
    """
    silence_optuna()
    step = -(-len(points) // MAX_TRIALS)
    points, scores = points[::step], scores[::step]
    varied = [dimension.name for dimension in space.dimensions if not dimension.is_fixed]
    names = [name for name in varied if any(name in point for point in points)]
    study = _study_of(space, names, points, scores)
    values = np.asarray(scores, dtype=float)
    estimate = _shares(study, names, values)
    size = len(values) // 2
    random = np.random.default_rng(0)
    subsamples = [_subsample(values, size, random) for _ in range(NUM_SUBSAMPLES)]
    samples = np.array([_shares(study, names, subsample) for subsample in subsamples])
    rows = [
        Importance(name, float(share), *jackknife_interval(share, of_setting, size, len(values)))
        for name, share, of_setting in zip(names, estimate, samples.T, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.share)


def jackknife_interval(
    share: float, samples: np.ndarray, size: int, num_trials: int
) -> tuple[float, float]:
    """Return the 95 % interval of a share in 0..1, from its values in subsamples of `size` trials.

    This is the delete-d jackknife (Shao and Wu 1989): shares in subsamples of half of the trials,
    without replacement, vary as far as a share of all trials varies around the truth.
    """
    error = float(np.std(samples)) * math.sqrt(size / (num_trials - size))
    low, high = share - NORMAL_95 * error, share + NORMAL_95 * error
    return max(0.0, float(low)), min(1.0, float(high))


def _subsample(scores: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Return the scores with NaN in place of all but `size` of them."""
    kept = np.full_like(scores, np.nan)
    chosen = random.permutation(len(scores))[:size]
    kept[chosen] = scores[chosen]
    return kept


def _shares(study: optuna.Study, names: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """Return the importance of each setting as a share of their sum; all equal if that is 0.

    `scores` are by the number of the trial; NaN leaves the trial out.
    """

    def target(trial: FrozenTrial) -> float:
        return -float(scores[trial.number])  # the evaluator looks for low values

    num_trials = int(np.isfinite(scores).sum())
    top = min(0.5, max(TOP_SHARE, MIN_TOP / num_trials))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=top)
    with warnings.catch_warnings():
        # It warns of every target, and of conditions that few trials of a subsample fulfil.
        warnings.simplefilter("ignore")
        found = evaluator.evaluate(study, list(names), target=target)
    values = np.array([found[name] for name in names])
    total = values.sum()
    return values / total if total > 0 else np.full(len(names), 1 / len(names))


def _study_of(
    space: Space,
    names: Sequence[str],
    points: Sequence[Mapping[str, Any]],
    scores: Sequence[float],
) -> optuna.Study:
    """Return a study in memory whose trials have these points, in their order."""
    dimensions = {d.name: d for d in space.dimensions if d.name in names}
    distributions = {name: _distribution(d) for name, d in dimensions.items()}
    study = optuna.create_study(direction="maximize")
    for point, score in zip(points, scores, strict=True):
        drawn = [name for name in names if name in point]
        trial = optuna.create_trial(
            value=score,
            params={name: _coordinate(dimensions[name], point[name]) for name in drawn},
            distributions={name: distributions[name] for name in drawn},
        )
        study.add_trial(trial)
    return study


def _distribution(dimension: Dimension) -> BaseDistribution:
    """Return the distribution of `_coordinate`: choices are counted, as they may be lists."""
    if dimension.kind == "choice":
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    return dimension.distribution()


def _coordinate(dimension: Dimension, value: Any) -> Any:
    return dimension.index_of(value) if dimension.kind == "choice" else value
