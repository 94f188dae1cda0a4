"""The trials of a search with several objectives that no other trial beats in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from segtune.runs.results import TrialResult, ranked

MIOU = "miou"  # the objective that is to be high; all others are to be low


def objective_values(trial: TrialResult, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """Return the trial's value of each objective, or None if it does not have all of them."""
    values = [
        trial.miou if name == MIOU else getattr(trial.profile, name, None) for name in objectives
    ]
    known = [value for value in values if value is not None]
    return tuple(known) if len(known) == len(values) else None


def pareto_front(trials: Iterable[TrialResult], objectives: Sequence[str]) -> list[TrialResult]:
    """Return the trials that may win and that no other such trial dominates, the best mIoU first.

    A trial dominates another if it is at least as good in every objective and better in one.
    """
    candidates = [
        (trial, as_costs(objectives, values))
        for trial in ranked(trials)
        if trial.may_win and (values := objective_values(trial, objectives))
    ]
    front = nondominated([costs for _, costs in candidates])
    return [candidates[index][0] for index in front]


def as_costs(objectives: Sequence[str], values: Sequence[float]) -> tuple[float, ...]:
    """Return the values with signs such that lower is better in each of them."""
    return tuple(
        -value if name == MIOU else value for name, value in zip(objectives, values, strict=True)
    )


def nondominated(costs: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other point dominates; lower is better."""
    front: list[int] = []
    for index, point in enumerate(costs):
        if not any(_dominates(costs[other], point) for other in front):
            front = [other for other in front if not _dominates(point, costs[other])]
            front.append(index)
    return front


def by_front(costs: Sequence[Sequence[float]]) -> Iterator[int]:
    """Yield the indices of all points: of the Pareto front, of the front of the rest, and so on."""
    left = list(range(len(costs)))
    while left:
        front = [left[index] for index in nondominated([costs[i] for i in left])]
        yield from front
        left = [index for index in left if index not in front]


def _dominates(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
