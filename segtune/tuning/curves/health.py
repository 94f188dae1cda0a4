"""How likely a trial with given settings stays healthy."""

from __future__ import annotations

import math

import numpy as np

# Two points that are farther apart, in units of the distance of two random points, say nothing of
# each other.
REACH = 0.35
# As many healthy trials are assumed to lie everywhere.
ASSUMED_HEALTHY = 1.0


class HealthModel:
    """The share of healthy trials near a point, by a kernel estimate (Nadaraya 1964).

    Without unhealthy trials the share is 1 everywhere.
    """

    def __init__(self, rows: np.ndarray, is_healthy: np.ndarray) -> None:
        """`rows` [N, width] of ended trials, and whether each was healthy [N]."""
        self.rows = rows
        self.is_healthy = is_healthy
        # The root of the mean square distance of two random points of a unit cube is the root of
        # width / 6.
        self.length = REACH * math.sqrt(max(rows.shape[1], 1) / 6)

    def log_probability(self, rows: np.ndarray) -> np.ndarray:
        """Return the logarithm [M] of the probability that points [M, width] stay healthy."""
        squares = ((rows[:, None] - self.rows[None]) ** 2).sum(-1)
        weights = np.exp(-squares / (2 * self.length**2))
        healthy = weights @ self.is_healthy + ASSUMED_HEALTHY
        return np.log(healthy) - np.log(weights.sum(1) + ASSUMED_HEALTHY)
