"""What a user believes about the best value of a setting, as a density over its range.

Knows nothing of spaces and trials: `space.py` measures values on the scale 0..1 that is used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

# Standard deviation of the density, as a share of the range, and how many times as likely as each
# other option the named option of a choice is. Source: the defaults of NePS, the authors' library
# for PriorBand (Mallik et al. 2023): FloatParameter, CategoricalParameter.
STD_SHARES = {"low": 0.5, "medium": 0.25, "high": 0.125}
OPTION_WEIGHTS = {"low": 2.0, "medium": 4.0, "high": 6.0}
CONFIDENCES = tuple(STD_SHARES)
DEFAULT_CONFIDENCE = "medium"


@dataclass(frozen=True)
class Prior:
    """The value that a user believes to be good, and how sure the user is."""

    value: Any
    confidence: str = DEFAULT_CONFIDENCE  # one of CONFIDENCES

    def on_range(self, mean: float) -> TruncatedNormal:
        """Return the density over a range 0..1 in which the value lies at `mean`."""
        return TruncatedNormal(mean, STD_SHARES[self.confidence])

    def on_options(self, index: int, num_options: int) -> list[float]:
        """Return the probability of each option of a choice; `index` is that of the value."""
        weights = [1.0] * num_options
        weights[index] = OPTION_WEIGHTS[self.confidence]
        return [weight / sum(weights) for weight in weights]

    def __str__(self) -> str:
        return f"prior {self.value!r} ({self.confidence})"


@dataclass(frozen=True)
class TruncatedNormal:
    """A normal density, cut off outside of 0..1 and scaled so that its integral there is 1."""

    mean: float  # in 0..1
    std: float  # above 0

    def quantile(self, share: float) -> float:
        """Return the position below which `share` (0..1) of the probability lies."""
        normal = NormalDist(self.mean, self.std)
        low, high = normal.cdf(0.0), normal.cdf(1.0)
        probability = low + share * (high - low)
        # The inverse is not defined at 0 and 1, to which a share near an end may be rounded.
        inside = min(max(probability, math.ulp(0.0)), 1.0 - math.ulp(0.5))
        return min(max(normal.inv_cdf(inside), 0.0), 1.0)


def option_at(probabilities: Sequence[float], share: float) -> int:
    """Return the index of the option in which the cumulative probability passes `share` (0..1)."""
    total = 0.0
    for index, probability in enumerate(probabilities):
        total += probability
        if share < total:
            return index
    return len(probabilities) - 1
