"""Whether a retrained config reaches what its search estimated. Pure functions of numbers.

The estimate is a mean of scores with other seeds, and one more training run is compared with it.
If the scores are normal and equally distributed, 95 % of such training runs lie in the prediction
interval mean ± t s sqrt(1 + 1/n), where t is the 97.5 % quantile of Student's distribution (Hahn
and Meeker, Statistical Intervals, section 4.7). `docs/results.md` says which scores are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from segtune.checks.confirmation import LEVEL, SMALLEST, t_critical

Outcome = Literal["held", "fell short", "cannot be judged", "unhealthy"]


@dataclass(frozen=True)
class Estimate:
    """What a search says about the mIoU of a config. Scores are in 0..1."""

    mean: float
    num_scores: int  # that the mean is of
    std: float | None = None  # of training runs that differ in the seed only; None: unknown
    num_seeds: int = 0  # that `std` is of

    @property
    def margin(self) -> float | None:
        """Half the width of the interval of one more training run; None if it is not known."""
        if self.std is None or self.num_seeds < 2:
            return None
        factor = float(t_critical(LEVEL, self.num_seeds - 1))
        return max(SMALLEST, factor * self.std * math.sqrt(1 + 1 / self.num_scores))


def judge(miou: float, estimate: Estimate) -> Outcome:
    """Return whether a retrained config's mIoU, in 0..1, is what the estimate predicts.

    A score above the interval has held, too: the search did not promise too much.
    """
    if estimate.margin is None:
        return "cannot be judged"
    return "held" if miou >= estimate.mean - estimate.margin else "fell short"
