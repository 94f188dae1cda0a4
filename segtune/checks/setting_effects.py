"""Which settings and which pairs of settings change the order of the trials. Reads no file.

Linear models of the ranks of the scores: ranks, because one trial that has failed to learn would
otherwise outweigh all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segtune.checks.confirmation import holm
from segtune.checks.permutation import Effect, partial_effect
from segtune.tuning.importance import jackknife_interval
from segtune.tuning.space import Dimension, Space

# Trials for each column of the model; with fewer, only straight lines are fitted.
TRIALS_PER_COLUMN = 3
# Trials that are left for the noise.
MIN_FREEDOM = 5
# Pairs of more settings than this would need a correction that finds nothing.
MAX_PAIRED = 6
# Pairs that get an interval.
MAX_REPORTED = 3
NUM_SUBSAMPLES = 40

Points = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PairEffect:
    """Whether the effect of one setting depends on the other."""

    names: tuple[str, str]
    share: float  # of the variance of the ranks, in 0..1
    low: float  # 95 % interval of the share
    high: float
    p: float  # corrected for the pairs


class Design:
    """The settings of trials as columns of a linear model."""

    def __init__(self, space: Space, points: Points) -> None:
        dimensions = [dimension for dimension in space.dimensions if not dimension.is_fixed]
        self.names = [dimension.name for dimension in dimensions]
        straight = {d.name: _columns(d, points, 1) for d in dimensions}
        curved = {d.name: _columns(d, points, 2) for d in dimensions}
        num_curved = 1 + sum(columns.shape[1] for columns in curved.values())
        fits = len(points) >= TRIALS_PER_COLUMN * num_curved
        self.num_trials = len(points)
        self.straight = straight
        self.columns = curved if fits else straight

    @property
    def trials_needed(self) -> int:
        """With fewer trials than this, nothing can be tested."""
        return 1 + sum(columns.shape[1] for columns in self.straight.values()) + MIN_FREEDOM

    def without(self, name: str) -> np.ndarray:
        """Return the columns of all settings but one [trials, columns]."""
        return self._joined([other for other in self.names if other != name])

    @property
    def whole(self) -> np.ndarray:
        """The columns of all settings [trials, columns]."""
        return self._joined(self.names)

    def _joined(self, names: Sequence[str]) -> np.ndarray:
        empty = np.empty((self.num_trials, 0))
        return np.concatenate([empty, *(self.columns[name] for name in names)], axis=1)

    def product(self, first: str, second: str) -> np.ndarray:
        """Return the products of the straight columns of two settings [trials, columns]."""
        pairs = itertools.product(self.straight[first].T, self.straight[second].T)
        return np.stack([one * other for one, other in pairs], axis=1)


def _columns(dimension: Dimension, points: Points, degree: int) -> np.ndarray:
    """Return the columns of one setting [trials, columns]; a row without the setting is 0.

    Of a range, these are powers of the value on -1..1, and of choices, whether it is this choice.
    """
    width = len(dimension.values) if dimension.kind == "choice" else degree
    rows = []
    for point in points:
        if dimension.kind == "choice":
            index = dimension.index_of(point[dimension.name]) if dimension.name in point else None
            rows.append([float(index == other) for other in range(width)])
        elif dimension.name in point:
            value = 2 * dimension.unit_value(point[dimension.name]) - 1
            rows.append([value**power for power in range(1, degree + 1)])
        else:
            rows.append([0.0] * degree)
    table = np.array(rows, dtype=float).reshape(len(points), width)
    active = np.array([dimension.name in point for point in points], dtype=bool)
    table[active] -= table[active].mean(0) if active.any() else 0.0
    # The last choice follows from the others.
    return table[:, :-1] if dimension.kind == "choice" else table


def ranks(scores: Sequence[float]) -> np.ndarray:
    """Return the ranks of the scores on -1..1; equal scores share their mean rank."""
    values = np.asarray(scores, dtype=float)
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_ranks = ends - (counts - 1) / 2
    return 2 * (mean_ranks[group] - 0.5) / len(values) - 1


def setting_tests(design: Design, scores: Sequence[float], orders: np.ndarray) -> dict[str, float]:
    """Return the p value of each setting, corrected for their number (Holm 1979).

    A setting is tested beyond all others: if a sampler draws two settings together, only that one
    is credited which explains more than the other. `orders` are those of `permutations`.
    """
    values = ranks(scores)
    effects = [
        partial_effect(values, design.without(name), design.columns[name], orders)
        for name in design.names
    ]
    ps = np.array([effect.p if effect else 1.0 for effect in effects])
    return dict(zip(design.names, holm(ps, len(ps)).tolist(), strict=True))


def pair_tests(
    design: Design,
    scores: Sequence[float],
    by_importance: Sequence[str],
    orders: np.ndarray,
) -> list[PairEffect]:
    """Return the MAX_REPORTED pairs with the smallest p values.

    All pairs of the MAX_PAIRED most important settings are tested, and p is corrected for them.
    An interaction is what products of the two settings explain beyond a sum of effects of all
    settings. Empty if there are too few trials.
    """
    values = ranks(scores)
    base = design.whole
    pairs = list(itertools.combinations(by_importance[:MAX_PAIRED], 2))
    tested: list[tuple[tuple[str, str], Effect]] = []
    for pair in pairs:
        columns = design.product(*pair)
        if len(values) - 1 - base.shape[1] - columns.shape[1] < MIN_FREEDOM:
            continue
        effect = partial_effect(values, base, columns, orders)
        if effect:
            tested.append((pair, effect))
    ps = holm(np.array([effect.p for _, effect in tested]), len(pairs)) if tested else []
    order = sorted(zip(ps, tested, strict=True), key=lambda row: (row[0], -row[1][1].share))
    rows = []
    for p, (pair, effect) in order[:MAX_REPORTED]:
        interval = _interval(effect.share, values, base, design.product(*pair))
        rows.append(PairEffect(pair, effect.share, *interval, float(p)))
    return rows


def _interval(
    share: float, values: np.ndarray, base: np.ndarray, columns: np.ndarray
) -> tuple[float, float]:
    """Return the interval of a share from subsamples of half of the trials."""
    random = np.random.default_rng(0)
    size = len(values) // 2
    unpermuted = np.arange(size)[None]
    samples = []
    for _ in range(NUM_SUBSAMPLES):
        chosen = random.permutation(len(values))[:size]
        effect = partial_effect(values[chosen], base[chosen], columns[chosen], unpermuted)
        if effect:
            samples.append(effect.share)
    if len(samples) < NUM_SUBSAMPLES // 2:  # half of the trials are too few for the model
        return 0.0, 1.0
    return jackknife_interval(share, np.array(samples), size, len(values))
