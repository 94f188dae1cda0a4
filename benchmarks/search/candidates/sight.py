"""What the models see of a search: its trials, healthy or not, running or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from benchmarks.search.candidates.encoding import Encoding
from benchmarks.search.candidates.health import HealthModel
from benchmarks.search.candidates.model import CurveModel, Observed


@dataclass
class SeenTrial:
    """A trial of a search. A failed one is not seen: the machine was at fault."""

    params: Mapping[str, Any]
    scores: dict[int, float] = field(default_factory=dict)  # validated mIoU by epoch
    is_running: bool = False  # or waits to go on
    is_healthy: bool = True  # and breaks no guard

    @classmethod
    def of(cls, trial: FrozenTrial) -> SeenTrial:
        """Return a trial of an Optuna study."""
        return cls(
            trial.params,
            trial.intermediate_values,
            is_running=trial.state == TrialState.RUNNING,
            is_healthy=not any(value > 0 for value in trial.constraints.values()),
        )

    def best_by_epoch(self, epochs: Sequence[int]) -> dict[int, float]:
        """Return the best score up to each of `epochs` that the trial has reached."""
        scores = {epoch: score for epoch, score in self.scores.items() if np.isfinite(score)}
        first, last = min(scores, default=0), max(scores, default=0)
        return {
            epoch: max(score for at, score in scores.items() if at <= epoch)
            for epoch in epochs
            if scores and first <= epoch <= last
        }


@dataclass(frozen=True)
class Sight:
    """The trials of a search, as the models take them."""

    epochs: Sequence[int]  # at which curves are read; the last one is the full length
    observed: list[Observed]  # healthy trials with a score
    pending: np.ndarray  # [M, width]: running trials without one
    health: HealthModel

    @classmethod
    def of(cls, trials: Iterable[SeenTrial], encoding: Encoding, epochs: Sequence[int]) -> Sight:
        """Return what the models see of `trials`."""
        seen = [(trial, trial.best_by_epoch(epochs)) for trial in trials]
        rows = encoding.encode([trial.params for trial, _ in seen])
        is_pending = np.array([t.is_running and not scores for t, scores in seen], dtype=bool)
        is_healthy = np.array([trial.is_healthy for trial, _ in seen], dtype=float)
        observed = [
            Observed(row, scores)
            for row, (trial, scores) in zip(rows, seen, strict=True)
            if scores and trial.is_healthy
        ]
        health = HealthModel(rows[~is_pending], is_healthy[~is_pending])
        return cls(epochs, observed, rows[is_pending], health)

    def model(self, like: CurveModel | None = None) -> CurveModel:
        """Return the model of the observed trials, with the parameters of another one if given.

        A pending trial is added where the model expects it to end ("kriging believer", Ginsbourger
        et al. 2010), so that trials that are drawn at the same time differ.
        """
        model = like.on(self.observed) if like else CurveModel(self.epochs, self.observed)
        if not len(self.pending):
            return model
        expected = model.predict(self.pending).mean
        full = self.epochs[-1]
        believed = [
            Observed(row, {full: float(score)})
            for row, score in zip(self.pending, expected, strict=True)
        ]
        return model.on([*self.observed, *believed])
