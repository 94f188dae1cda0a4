"""The trials of a search with several objectives that no other trial beats in all of them."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

from segtune.runs.results import TrialResult, ranked

MIOU = "miou"  # the objective that is to be high; all others are to be low
# Searched settings of these sections may change the network or its windows, and so its latency.
SECTIONS_OF_LATENCY = ("data", "model", "val")
# Settings of these sections that do nothing outside of training.
TRAINING_ONLY = ("model.drop_path", "model.dropout")


def objective_values(trial: TrialResult, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """Return the trial's value of each objective, or None if it does not have all of them."""
    values = [
        trial.miou if name == MIOU else getattr(trial.profile, name, None) for name in objectives
    ]
    known = [value for value in values if value is not None]
    return tuple(known) if len(known) == len(values) else None


def pareto_front(trials: Iterable[TrialResult], objectives: Sequence[str]) -> list[TrialResult]:
    """Return the trials that may win and that no other such trial dominates, the best mIoU first.

    A trial dominates another if it is at least as good in every objective and better in one. Trials
    with the same network have the same latency in this comparison: the median of those measured.
    """
    candidates = [trial for trial in ranked(trials) if trial.may_win]
    points = [
        (trial, as_costs(objectives, values))
        for trial, smooth in zip(candidates, _with_median_latency(candidates), strict=True)
        if (values := objective_values(smooth, objectives))
    ]
    front = nondominated([costs for _, costs in points])
    return [points[index][0] for index in front]


def _with_median_latency(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials, each with the median latency of all that have its network.

    Otherwise the noise of the measurement would decide which of them are on the front.
    """
    latencies: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.profile and trial.profile.latency_ms is not None:
            latencies[_network_of(trial)].append(trial.profile.latency_ms)
    medians = {network: statistics.median(values) for network, values in latencies.items()}
    return [
        replace(trial, profile=replace(trial.profile, latency_ms=medians.get(_network_of(trial))))
        if trial.profile
        else trial
        for trial in trials
    ]


def _network_of(trial: TrialResult) -> str:
    """Return a text that is the same for trials whose forward passes take equally long.

    It has the size of the network and the image, the device and the precision, and the searched
    settings that may change the forward pass.
    """
    assert trial.profile
    settings = {
        name: value
        for name, value in trial.params.items()
        if name.partition(".")[0] in SECTIONS_OF_LATENCY and name not in TRAINING_ONLY
    }
    profile = asdict(replace(trial.profile, latency_ms=None))
    return json.dumps([profile, settings], sort_keys=True)


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
