"""What a config costs (seconds of an epoch, bytes of a checkpoint) from a few measured configs.

Numbers in, numbers out: measures and reads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segtune.tuning.space import Dimension, Space

if TYPE_CHECKING:
    import numpy

# Standard deviations of logarithms, so 0.1 means about 10 %. How far a measured cost lies from
# what the model says: epochs of trials that share a CPU vary by this much.
ROW_NOISE = 0.06
# How far one searched setting may change the cost, before anything is measured.
SETTING_SPREAD = 0.7
# How far a few steps, taken in all slots at the same time, lie from the epochs of the search.
STEPS_SPREAD = 0.12
# Trials that run at the same time slow each other down: they share memory, caches and the cores
# with Ray's own processes. Two trials on two cores took 1.1 to 1.8 times as long as one alone.
CONTENTION = 1.25
CONTENTION_SPREAD = 0.25


@dataclass(frozen=True)
class CostRow:
    """What one config cost."""

    params: Mapping[str, Any]  # searched values, complete
    cost: float  # more than 0
    is_of_steps: bool = False  # a few steps before the search, not epochs of the search


class CostModel:
    """Predicts a cost from the values of the searched settings.

    The logarithm of the cost is a sum over the settings, of the difference between a few steps and
    epochs of the search, and of noise (Bayesian linear regression; Bishop 2006, section 3.3). So a
    few corners of the space are enough to begin with, and epochs of the search soon outweigh them.
    """

    def __init__(self, space: Space, rows: Sequence[CostRow], *, slows_down: bool = False) -> None:
        """`rows` has at least one row.

        `slows_down`: trials run at the same time in the search, but the steps were taken alone.
        """
        import numpy as np  # here, because a forecast is read without it

        self._space = space
        self._own = space.complete({})
        design = np.stack([self._features(row.params, row.is_of_steps) for row in rows])
        target = np.log([row.cost for row in rows])
        # The coefficients: the config's own cost in the search, of a few steps, of each setting.
        mean = np.zeros(design.shape[1])
        spread = np.full(design.shape[1], SETTING_SPREAD)
        spread[0], spread[1] = 100.0, STEPS_SPREAD
        if slows_down:
            mean[1], spread[1] = -math.log(CONTENTION), CONTENTION_SPREAD
        precision = np.diag(spread**-2.0) + design.T @ design / ROW_NOISE**2
        self._covariance = np.linalg.inv(precision)
        self._coefficients = self._covariance @ (
            design.T @ target / ROW_NOISE**2 + mean / spread**2
        )

    def predict(self, params: Mapping[str, Any]) -> float:
        """Return the expected cost of a trial with these values, complete, in the search."""
        return math.exp(float(self._features(params, False) @ self._coefficients))

    @property
    def spread(self) -> float:
        """The standard deviation of the logarithm of the config's own cost."""
        return math.sqrt(float(self._covariance[0, 0]))

    def _features(self, params: Mapping[str, Any], is_of_steps: bool) -> numpy.ndarray:
        import numpy

        features = [1.0, float(is_of_steps)]
        for dimension in self._space.dimensions:
            own = _positions(dimension, self._own)
            features += [a - b for a, b in zip(_positions(dimension, params), own, strict=True)]
        return numpy.array(features)


def _positions(dimension: Dimension, params: Mapping[str, Any]) -> list[float]:
    """Return where a value lies: one number in 0..1 for a range, one for each choice.

    Zeros for a setting that is inactive or null.
    """
    value = params.get(dimension.name)
    if dimension.kind == "choice":
        is_active = dimension.name in params
        return [float(is_active and value == choice) for choice in dimension.values]
    if value is None:
        return [0.0]
    low, high = map(float, dimension.values)
    value = min(max(float(value), low), high)
    if dimension.kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return [(value - low) / (high - low) if high > low else 0.0]
