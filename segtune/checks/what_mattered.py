"""What mattered in a search, as RUN/what_mattered.json holds it: settings, pairs, unhealthy ends.

Reads and writes no file. `docs/results.md` says which trials count, and how far the numbers can be
trusted. Scores in the record are in 0..1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean, median
from typing import Any

import numpy as np

from segtune.checks.confirm_record import format_p
from segtune.checks.confirmation import LEVEL
from segtune.checks.findings import percent, shown_value
from segtune.checks.permutation import permutations
from segtune.checks.setting_effects import Design, PairEffect, pair_tests, setting_tests
from segtune.checks.unhealthy_settings import MIN_UNHEALTHY, predictor_words, unhealthy_predictors
from segtune.runs.results import TrialResult
from segtune.runs.verdict import OUTRANKED
from segtune.tuning.guards import GUARD
from segtune.tuning.importance import importances
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study

FORMAT = 1
MIN_TRIALS = 10
# More trials are thinned out: the numbers would not change, and a report would become slow.
MAX_TRIALS = 2000
# Shown in one line after a search.
MAX_NAMED = 3

Curves = Mapping[str, Mapping[int, float]]


def what_mattered(study: Study, trials: Sequence[TrialResult], curves: Curves) -> dict[str, Any]:
    """Return the record of what mattered, as plain JSON values.

    `curves` are {epoch: mIoU} of each trial by its id.
    """
    from segtune import __version__

    space = study.space
    # A trial from before --extend lacks the new settings; it has the config's own value.
    ended = [replace(t, params=space.complete(t.params)) for t in _thinned(trials)]
    inside = [trial for trial in ended if not space.missed_by(trial.params)]
    scores = comparable_scores(inside, curves)
    compared = [trial for trial in inside if trial.id in scores]
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "written": round(time.time(), 3),
        "level": LEVEL,
        "num_completed": sum(trial.state == "completed" for trial in compared),
        "num_pruned": sum(trial.state in OUTRANKED for trial in compared),
        "num_unhealthy": sum(trial.state == "unhealthy" for trial in inside),
    }
    record |= _settings_and_pairs(space, compared, [scores[trial.id] for trial in compared])
    record["unhealthy"] = [row.dump() for row in unhealthy_predictors(space, inside)]
    return record | {"sentences": list(_sentences(record))}


def _thinned(trials: Sequence[TrialResult]) -> Sequence[TrialResult]:
    """Return at most MAX_TRIALS of the trials that were trained and have ended."""
    ended = [t for t in trials if t.state in ("completed", *OUTRANKED, "unhealthy")]
    ended = [t for t in ended if t.kind != GUARD]  # never trained, so neither healthy nor not
    return ended[:: -(-len(ended) // MAX_TRIALS)] if ended else []


def comparable_scores(trials: Sequence[TrialResult], curves: Curves) -> dict[str, float]:
    """Return {id: estimated mIoU at full length} of completed, pruned and paused trials.

    A pruned or paused trial has no score at full length. Leaving it out would compare good trials
    with good ones only, and its last score is that of a shorter training run. So what the completed
    trials gained after that epoch, in the median, is added to it. Empty if no trial is completed.
    """
    completed = [t for t in trials if t.state == "completed" and t.miou is not None]
    scores = {trial.id: trial.miou for trial in completed if trial.miou is not None}
    gains: dict[int, float] = {}
    for trial in trials:
        if trial.state not in OUTRANKED or trial.miou is None or not completed:
            continue
        epoch = max(curves.get(trial.id, {}), default=trial.epoch)
        if epoch not in gains:
            gains[epoch] = _median_gain(completed, curves, epoch)
        scores[trial.id] = trial.miou + gains[epoch]
    return scores


def _median_gain(completed: Sequence[TrialResult], curves: Curves, epoch: int) -> float:
    """Return how much completed trials gained after `epoch`, in the median."""
    gains = []
    for trial in completed:
        before = [miou for at, miou in curves.get(trial.id, {}).items() if at <= epoch]
        if before and trial.miou is not None:
            gains.append(trial.miou - max(before))
    return median(gains) if gains else 0.0


def _settings_and_pairs(
    space: Space, trials: Sequence[TrialResult], scores: Sequence[float]
) -> dict[str, Any]:
    """Return the importances, their tests, and the interactions; empty if trials are missing."""
    points = [trial.params for trial in trials]
    varied = any(not dimension.is_fixed for dimension in space.dimensions)
    design = Design(space, points)
    needed = max(MIN_TRIALS, design.trials_needed)
    missing = max(0, needed - len(trials))
    if missing or not varied or min(scores) == max(scores):
        return {"trials_missing": missing, "settings": [], "pairs": []}
    orders = permutations(len(scores))
    ps = setting_tests(design, scores, orders)
    settings = [
        {**asdict(row), "p": ps[row.name], "shown": ps[row.name] < LEVEL}
        for row in importances(space, points, scores)
    ]
    pairs = pair_tests(design, scores, [row["name"] for row in settings], orders)
    return {
        "trials_missing": 0,
        "settings": settings,
        "pairs": [_pair(row, space, points, scores) for row in pairs],
    }


def _pair(
    row: PairEffect, space: Space, points: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> dict[str, Any]:
    """Return a pair with the mean mIoU of each combination of its halves."""
    dimensions = {dimension.name: dimension for dimension in space.dimensions}
    first, second = (_halves(dimensions[name], points) for name in row.names)
    cells: dict[tuple[str, str], list[float]] = {}
    for one, other, score in zip(first, second, scores, strict=True):
        if one and other:
            cells.setdefault((one, other), []).append(score)
    means = [
        {"values": list(key), "mean": fmean(values), "num_trials": len(values)}
        for key, values in sorted(cells.items())
    ]
    return {**asdict(row), "names": list(row.names), "shown": row.p < LEVEL, "cells": means}


def _halves(dimension: Dimension, points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in words in which part of its values a setting lies; empty if it is inactive."""
    name = dimension.name
    if dimension.kind == "choice":
        return [shown_value(point[name]) if name in point else "" for point in points]
    middle = float(np.median([point[name] for point in points if name in point]))
    words = {False: f"at most {middle:.3g}", True: f"above {middle:.3g}"}
    return [words[point[name] > middle] if name in point else "" for point in points]


def _sentences(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what could be shown, each in one line."""
    if record["trials_missing"]:
        number = record["trials_missing"]
        yield (
            "which settings matter cannot be tested yet: it takes at least "
            f"{number} more completed or pruned trial{'s' if number > 1 else ''}"
        )
    elif record["settings"]:
        num_trials = record["num_completed"] + record["num_pruned"]
        yield _settings_sentence(record["settings"], num_trials)
    for pair in record["pairs"]:
        if pair["shown"]:
            share = f"{percent(pair['share'])} of the variance of the ranks"
            first, second = pair["names"]
            yield f"the effect of {first} seems to depend on {second} ({share})"
            break
    shown = [row for row in record["unhealthy"] if row["shown"]]
    if shown:
        yield f"{predictor_words(shown[0])} (p {format_p(shown[0]['p'])})"


def _settings_sentence(settings: Sequence[Mapping[str, Any]], num_trials: int) -> str:
    shown = [row for row in settings if row["shown"]]
    if not shown:
        return (
            f"with {num_trials} trials, no single setting can be told apart from noise; with more "
            "trials, smaller effects can be shown"
        )
    named = [
        f"{row['name']} has {percent(row['share'])} of the importance "
        f"({percent(row['low'])} to {percent(row['high'])})"
        for row in shown[:MAX_NAMED]
    ]
    rest = len(settings) - len(shown)
    others = f"; {rest} of {len(settings)} settings cannot be told apart from noise" if rest else ""
    return f"for mIoU: {', '.join(named)}{others}"


def pairs_words(record: Mapping[str, Any]) -> str:
    """Return what the test of the interactions shows, in one line; empty of fewer than two."""
    if len(record["settings"]) < 2:
        return ""
    if not record["pairs"]:
        return "Whether settings depend on each other cannot be tested with these trials yet."
    if not any(pair["shown"] for pair in record["pairs"]):
        return "No interaction between settings could be shown."
    return "The effect of the first setting depends on the value of the second."


def unhealthy_words(record: Mapping[str, Any]) -> str:
    """Return what the test of the unhealthy ends shows, in one line."""
    number = record["num_unhealthy"]
    ended = f"{number} trial{'' if number == 1 else 's'} ended unhealthy"
    if not record["unhealthy"]:
        return (
            f"{ended}. At least {MIN_UNHEALTHY} of one kind are needed to say which settings are "
            "related to it."
        )
    if not any(row["shown"] for row in record["unhealthy"]):
        return f"{ended}. No setting could be shown to be related to it."
    return f"{ended}. These values go together with it:"
