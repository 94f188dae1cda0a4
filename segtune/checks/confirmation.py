"""Whether candidates are better than a baseline, from scores with the same fresh seeds.

Pure functions of numbers: they train nothing and read no file. `docs/results.md` has the simulation
that shows how often the verdicts are wrong.

The test is a paired t test whose spread is pooled over all candidates. Three seeds alone give each
candidate 2 degrees of freedom. With n seeds and k candidates, the residuals of an additive model
(score = config + seed + noise) give k(n - 1) (Montgomery, Design and Analysis of Experiments,
randomised complete block design). The test is exact if the noise is normal and equally large in
all configs. The p values are two-sided and corrected for k candidates (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

TEST = "paired t test with pooled spread, two-sided, Holm's correction for the candidates"
LEVEL = 0.05
POWER = 0.8
# More seeds than this are not advised: the difference is then hardly worth its trainings.
MAX_SEEDS = 50
# Differences of mIoU below this are rounding errors.
SMALLEST = 1e-9

Outcome = Literal["better", "within the noise", "worse", "unhealthy", "no comparison"]
Scores = Sequence[float | None]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of the seeds that have a score."""

    mean: float | None  # None: no seed has a score
    std: float | None  # None: fewer than two seeds have a score


@dataclass(frozen=True)
class Comparison:
    """One candidate compared with the baseline. Scores and differences are in 0..1."""

    spread: Spread
    differences: tuple[float | None, ...]  # candidate minus baseline, for each seed
    outcome: Outcome
    gain: float | None = None  # mean of the differences; None: not compared
    # Half the width of the interval of the gain. At each look, the intervals of all candidates
    # contain the true differences at the same time in at least 95 % of cases, so that the best one
    # may be picked afterwards.
    margin: float | None = None
    p: float | None = None  # corrected for the candidates and for the looks
    noise: float | None = None  # pooled standard deviation of one training run
    more_seeds: int | None = None  # to see a difference of this gain; None: too many, or no gain


def spread_of(scores: Scores) -> Spread:
    """Return mean and standard deviation of the scores that are not None."""
    values = [score for score in scores if score is not None]
    return Spread(
        float(np.mean(values)) if values else None,
        float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def compare(baseline: Scores, candidates: Sequence[Scores], looks: int = 1) -> list[Comparison]:
    """Return the comparison of each candidate with the baseline.

    All scores are in 0..1, one for each seed in the same order. None is a seed without a score,
    because its training run did not complete. Seeds that the baseline lacks are left out for all. A
    candidate that lacks another seed is "unhealthy" and is not tested, because leaving out its bad
    seeds would flatter it.

    `looks` counts how often these candidates have been tested, this time included. A user who adds
    seeds until a test succeeds would be misled, so the p values are doubled at every further look.
    """
    paired = [i for i, score in enumerate(baseline) if score is not None]
    is_complete = [all(scores[i] is not None for i in paired) for scores in candidates]
    tested = [scores for scores, whole in zip(candidates, is_complete, strict=True) if whole]
    results = iter(_test(baseline, tested, paired, len(candidates), looks))
    return [
        next(results) if whole else _untested(baseline, scores, "unhealthy")
        for scores, whole in zip(candidates, is_complete, strict=True)
    ]


def _untested(baseline: Scores, scores: Scores, outcome: Outcome) -> Comparison:
    return Comparison(spread_of(scores), _differences(baseline, scores), outcome)


def _differences(baseline: Scores, scores: Scores) -> tuple[float | None, ...]:
    pairs = zip(baseline, scores, strict=True)
    return tuple(None if a is None or b is None else b - a for a, b in pairs)


def _test(
    baseline: Scores, candidates: Sequence[Scores], paired: Sequence[int], family: int, looks: int
) -> list[Comparison]:
    """Test candidates that have a score for all `paired` seeds; `family` is the number of tests."""
    if len(paired) < 2 or not candidates:
        return [_untested(baseline, scores, "no comparison") for scores in candidates]
    table = np.array([[row[i] for i in paired] for row in (baseline, *candidates)], dtype=float)
    gains = table[1:].mean(1) - table[0].mean()
    gains[np.abs(gains) < SMALLEST] = 0.0
    noise, freedom = pooled_noise(table)
    error = noise * math.sqrt(2 / len(paired))
    ps = np.minimum(1.0, holm(_p_values(gains, error, freedom), family) * 2.0 ** (looks - 1))
    margin = error * t_critical(LEVEL / 2 ** (looks - 1) / family, freedom)
    return [
        Comparison(
            spread=spread_of(scores),
            differences=_differences(baseline, scores),
            outcome=_outcome(float(gain), float(p)),
            gain=float(gain),
            margin=float(margin),
            p=float(p),
            noise=noise,
            more_seeds=more_seeds(float(gain), noise, len(paired), len(candidates), family, looks),
        )
        for scores, gain, p in zip(candidates, gains, ps, strict=True)
    ]


def pooled_noise(table: np.ndarray) -> tuple[float, int]:
    """Return the standard deviation of the noise of one training run, and its degrees of freedom.

    `table` [configs, seeds] has two or more of both. What is common to a seed is not noise, because
    configs are compared seed by seed.
    """
    num_configs, num_seeds = table.shape
    residuals = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    freedom = (num_configs - 1) * (num_seeds - 1)
    noise = math.sqrt(float((residuals**2).sum()) / freedom)
    return (noise if noise >= SMALLEST else 0.0), freedom


def holm(ps: np.ndarray, family: int) -> np.ndarray:
    """Return p values corrected for a family of tests. Source: Holm 1979, step-down.

    `family` may be larger than the number of p values: the tests without one count as well.
    """
    order = np.argsort(ps)
    corrected = np.maximum.accumulate(ps[order] * (family - np.arange(len(ps))))
    result = np.empty_like(ps)
    result[order] = np.minimum(1.0, corrected)
    return result


def more_seeds(
    gain: float, noise: float, num_seeds: int, num_candidates: int, family: int, looks: int
) -> int | None:
    """Return how many further seeds would show a true difference of `gain` in 80 % of cases.

    The seeds that there are count, too, and so does the next look. None if the gain is not
    positive, or if it takes more than MAX_SEEDS seeds in all. An estimate of the noise from few
    seeds is too small more often than too large, so its median-unbiased form is used: with 6
    degrees of freedom, it is 6 % larger.
    """
    from scipy.special import chdtri, nctdtr

    if gain <= 0 or noise <= 0:
        return None
    freedom = num_candidates * (num_seeds - 1)
    unbiased = noise * math.sqrt(freedom / float(chdtri(freedom, 0.5)))
    seeds = np.arange(num_seeds + 1, MAX_SEEDS + 1)
    if not len(seeds):
        return None
    freedoms = num_candidates * (seeds - 1)
    critical = t_critical(LEVEL / 2**looks / family, freedoms)
    power = 1 - nctdtr(freedoms, gain / (unbiased * np.sqrt(2 / seeds)), critical)
    enough = seeds[power >= POWER]
    return int(enough[0]) - num_seeds if len(enough) else None


def t_critical(level: float, freedom: int | np.ndarray) -> np.ndarray:
    """Return the t value that a two-sided test at `level` has to exceed."""
    from scipy.special import stdtrit

    return stdtrit(freedom, 1 - level / 2)


def _p_values(gains: np.ndarray, error: float, freedom: int) -> np.ndarray:
    """Return the two-sided p value of each gain, whose standard error is `error`."""
    from scipy.special import stdtr

    if error == 0:
        return np.where(gains == 0, 1.0, 0.0)
    return 2 * stdtr(freedom, -np.abs(gains) / error)


def _outcome(gain: float, p: float) -> Outcome:
    if p >= LEVEL:
        return "within the noise"
    return "better" if gain > 0 else "worse"
