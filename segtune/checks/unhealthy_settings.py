"""Which values of which settings go together with an unhealthy end. Reads no file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from segtune.checks.confirmation import LEVEL, holm
from segtune.checks.findings import shown_value
from segtune.checks.narrower_space import ends_between
from segtune.checks.permutation import p_value, permutations
from segtune.runs.results import TrialResult
from segtune.runs.verdict import OUTRANKED
from segtune.tuning.importance import NORMAL_95
from segtune.tuning.space import Dimension, Space

# Fewer trials with one kind of end, or on one side of a split, show nothing.
MIN_UNHEALTHY = 3
MIN_SIDE = 3
# More places to split a range find nothing that these do not.
MAX_SPLITS = 60


@dataclass(frozen=True)
class Side:
    """The trials on one side of a split."""

    values: str  # in words, such as "above 0.003"
    num_unhealthy: int
    num_trials: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share of unhealthy trials, in 0..1. Source: Wilson 1927."""
        n, z = self.num_trials, NORMAL_95
        share = self.num_unhealthy / n
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        return max(0.0, centre - half), min(1.0, centre + half)

    def dump(self) -> dict[str, Any]:
        """Return the side as plain JSON values."""
        return asdict(self) | {"interval": list(self.interval)}


@dataclass(frozen=True)
class Predictor:
    """The best split of one setting into trials that often end for a cause, and others."""

    cause: str  # the kind of the verdict, such as diverged
    name: str
    unhealthy_side: Side
    other_side: Side
    p: float  # corrected for the settings and the causes

    @property
    def is_shown(self) -> bool:
        """Whether the setting predicts the cause, beyond what chance explains."""
        return self.p < LEVEL

    def dump(self) -> dict[str, Any]:
        """Return the predictor as plain JSON values."""
        return {
            "cause": self.cause,
            "setting": self.name,
            "unhealthy_side": self.unhealthy_side.dump(),
            "other_side": self.other_side.dump(),
            "p": self.p,
            "shown": self.is_shown,
        }


def unhealthy_predictors(space: Space, trials: Sequence[TrialResult]) -> list[Predictor]:
    """Return the best split of each setting for each cause that ended MIN_UNHEALTHY trials or more.

    Trials that ended unhealthy for one cause are compared with completed, pruned and paused trials;
    a setting that is inactive in a trial leaves that trial out. A range is split between two
    values, and of choices one is separated from the rest. The p value allows for the choice of the
    split, because permuted trials choose theirs, too. It is corrected for all settings and causes.
    The smallest p comes first.
    """
    healthy = [trial for trial in trials if trial.state in ("completed", *OUTRANKED)]
    kinds = Counter(trial.kind for trial in trials if trial.state == "unhealthy")
    causes = [cause for cause, number in kinds.most_common() if number >= MIN_UNHEALTHY]
    dimensions = [dimension for dimension in space.dimensions if not dimension.is_fixed]
    rows = []
    for cause in causes:
        unhealthy = [
            trial for trial in trials if trial.state == "unhealthy" and trial.kind == cause
        ]
        compared = sorted([*healthy, *unhealthy], key=lambda trial: trial.number)
        for dimension in dimensions:
            row = _predictor(dimension, compared, cause)
            if row:
                rows.append(row)
    ps = holm(np.array([row.p for row in rows]), len(causes) * len(dimensions)) if rows else []
    corrected = [
        Predictor(row.cause, row.name, row.unhealthy_side, row.other_side, float(p))
        for row, p in zip(rows, ps, strict=True)
    ]
    return sorted(corrected, key=lambda row: (row.p, row.name))


@dataclass(frozen=True)
class _Split:
    """Trials on the first side, and both sides in words."""

    is_first: np.ndarray  # [trials]
    first: str
    second: str


def _predictor(dimension: Dimension, trials: Sequence[TrialResult], cause: str) -> Predictor | None:
    """Return the best split of a setting, with a p value of this setting alone."""
    name = dimension.name
    drawn = [t for t in trials if name in t.params and dimension.contains(t.params[name])]
    unhealthy = np.array([trial.state == "unhealthy" for trial in drawn], dtype=float)
    values = [trial.params[name] for trial in drawn]
    splits = [
        split
        for split in _splits(dimension, values)
        if MIN_SIDE <= split.is_first.sum() <= len(drawn) - MIN_SIDE
    ]
    if not splits or not 0 < unhealthy.sum() < len(unhealthy):
        return None
    table = np.stack([split.is_first for split in splits]).astype(float)
    strengths = _strengths(table, unhealthy[None])[0]
    permuted = _strengths(table, unhealthy[permutations(len(unhealthy))])
    best = int(np.argmax(np.abs(strengths)))
    p = p_value(abs(float(strengths[best])), np.abs(permuted).max(1))
    split = splits[best]
    inside = split.is_first
    first = Side(split.first, int(unhealthy[inside].sum()), int(inside.sum()))
    second = Side(split.second, int(unhealthy[~inside].sum()), int((~inside).sum()))
    if strengths[best] < 0:
        first, second = second, first
    return Predictor(cause, name, first, second, p)


def _strengths(sides: np.ndarray, unhealthy: np.ndarray) -> np.ndarray:
    """Return by how many standard deviations the first sides have more unhealthy trials.

    Shapes: sides [S, n] and unhealthy [B, n] of zeros and ones; returns [B, S]. The standard
    deviation is that of a hypergeometric distribution, which the number has by chance.
    """
    num_trials, num_unhealthy = sides.shape[1], unhealthy.sum(1, keepdims=True)
    share = sides.mean(1)
    variance = num_unhealthy * (num_trials - num_unhealthy) / (num_trials - 1) * share * (1 - share)
    return (unhealthy @ sides.T - num_unhealthy * share) / np.sqrt(variance)


def _splits(dimension: Dimension, values: Sequence[Any]) -> Iterator[_Split]:
    """Yield the splits of a setting into two sides."""
    if dimension.kind == "choice":
        indices = np.array([dimension.index_of(value) for value in values])
        for index, choice in enumerate(dimension.values):
            word = shown_value(choice)
            yield _Split(indices == index, f"is {word}", f"is not {word}")
        return
    numbers = np.array(values, dtype=float)
    steps = list(pairwise(sorted(set(values))))
    stride = max(1, -(-len(steps) // MAX_SPLITS))
    for left, right in steps[::stride]:
        end, _ = ends_between(dimension, left, right)
        word = shown_value(end)
        yield _Split(numbers >= right, f"above {word}", f"at most {word}")


def predictor_words(row: Mapping[str, Any]) -> str:
    """Return a dumped predictor in one sentence."""
    unhealthy, other = row["unhealthy_side"], row["other_side"]
    return (
        f"{row['setting']} {unhealthy['values']}: {unhealthy['num_unhealthy']} of "
        f"{unhealthy['num_trials']} trials end {row['cause']}; {other['values']}: "
        f"{other['num_unhealthy']} of {other['num_trials']}"
    )
