"""How much a trial is expected to improve on the best one."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfcx, ndtr

from segtune.tuning.curves.model import Prediction

# Below this, the direct formula loses its digits.
ASYMPTOTIC_BELOW = -8.0


def log_expected_improvement(prediction: Prediction, best: float) -> np.ndarray:
    """Return the logarithm [N] of the expected improvement on the score `best`.

    The logarithm still tells two trials apart if both are unlikely to improve. Source: Ament et al.
    2023, "Unexpected improvements to expected improvement", equations 9 and 10.
    """
    sd = np.maximum(prediction.sd, 1e-12)
    z = (prediction.mean - best) / sd
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    with np.errstate(divide="ignore", invalid="ignore"):
        direct = np.log(density + z * ndtr(z))
        # phi(z) (1 - |z| Mills' ratio); the ratio is a scaled complementary error function.
        ratio = math.sqrt(math.pi / 2) * erfcx(-z / math.sqrt(2)) * np.abs(z)
        tail = -(z**2) / 2 - math.log(2 * math.pi) / 2 + np.log1p(-np.minimum(ratio, 1 - 1e-16))
    return np.log(sd) + np.where(z > ASYMPTOTIC_BELOW, direct, tail)
