"""What the order of trials at a rung is worth: its rank correlation with the order at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr

from segtune.tuning.curves.model import CurveModel, Observed

MIN_TRIALS = 6  # beyond a rung; fewer say nothing


@dataclass(frozen=True)
class RungWorth:
    """How the trials that have gone beyond a rung were ordered there, compared with their ends.

    The ends are the expected ones by now. Only trials that the rung has let go on have later
    scores, so both correlations are lower than those of all trials would be; they are comparable.
    """

    rung: int
    num_trials: int
    by_score: float  # rank correlation of the score at the rung, in -1..1
    by_expected: float  # the same of the end that the model expects without the later scores

    @property
    def is_expected_better(self) -> bool:
        """Whether the expected end orders the trials at least as well as the score."""
        return self.by_expected >= self.by_score


def rung_worth(
    model: CurveModel, trials: Mapping[int, Observed], rung: int, ends: Mapping[int, float]
) -> RungWorth | None:
    """Return what a rung is worth; None if fewer than MIN_TRIALS have gone beyond it.

    `model` knows `trials` in this order; `ends` are their expected ends by number. The expected end
    of each trial is predicted again without its scores after the rung ("leave one out").
    """
    beyond = {
        number: index
        for index, (number, trial) in enumerate(trials.items())
        if rung in trial.scores and max(trial.scores) > rung
    }
    if len(beyond) < MIN_TRIALS:
        return None
    truth = [ends[number] for number in beyond]
    scores = [trials[number].scores[rung] for number in beyond]
    expected = [model.expected_without_later(index, rung) for index in beyond.values()]
    by_score, by_expected = _rank_correlation(scores, truth), _rank_correlation(expected, truth)
    return RungWorth(rung, len(beyond), by_score, by_expected)


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 if one of the two is constant."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return 0.0
    result: Any = spearmanr(a, b)
    return float(result[0])
