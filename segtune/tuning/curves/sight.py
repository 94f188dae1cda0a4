"""What the model of learning curves sees of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segtune.tuning.curves.encoding import Encoding
from segtune.tuning.curves.health import HealthModel
from segtune.tuning.curves.model import CurveModel, Observed

# The model predicts from a level that so many trials have reached.
ENOUGH_TRIALS = 6


@dataclass(frozen=True)
class SeenTrial:
    """A trial of a search. A failed one is not seen: the machine was at fault."""

    params: Mapping[str, Any]
    scores: Mapping[int, float]  # validated mIoU by epoch
    is_running: bool
    is_healthy: bool  # and breaks no guard

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
    # Trials that were unhealthy or break a guard, with the lowest scores of the observed ones: the
    # model then expects little near them. How likely that end is alone would not keep it from
    # regions that promise much, such as the highest learning rates.
    sick: list[Observed]
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
        lowest = _lowest(observed)
        sick = [Observed(row, lowest) for row in rows[~is_pending & (is_healthy == 0)] if lowest]
        return cls(epochs, observed, sick, rows[is_pending], health)

    def model(self) -> CurveModel:
        """Return the model of the observed trials.

        A pending trial is added where the model expects its scores ("kriging believer", Ginsbourger
        et al. 2010), without noise. With noise, its neighbourhood would stay uncertain enough to be
        drawn again and again while the trial is pending.
        """
        known = [*self.observed, *self.sick]
        model = CurveModel(self.epochs, known)
        if not len(self.pending):
            return model
        levels = [model.predict(self.pending, level).mean for level in range(len(self.epochs))]
        believed = [
            Observed(row, dict(zip(self.epochs, scores, strict=True)))
            for row, scores in zip(self.pending, np.array(levels).T.tolist(), strict=True)
        ]
        return model.on(known, believed)

    def highest(self, model: CurveModel, level: int) -> float:
        """Return the highest score that is expected of a trial at a level, pending ones included.

        A score itself has the luck of its seed.
        """
        means = [model.predict_trials(level).mean]
        if len(self.pending):
            means.append(model.predict(self.pending, level).mean)
        return float(np.concatenate(means).max())

    @property
    def level(self) -> int:
        """The index of the highest epoch that ENOUGH_TRIALS have reached; 0 if none has."""
        counts = [sum(epoch in trial.scores for trial in self.observed) for epoch in self.epochs]
        return max((i for i, count in enumerate(counts) if count >= ENOUGH_TRIALS), default=0)


def _lowest(trials: Sequence[Observed]) -> dict[int, float]:
    """Return the lowest score at each epoch that a trial has reached."""
    epochs = {epoch for trial in trials for epoch in trial.scores}
    return {e: min(t.scores[e] for t in trials if e in t.scores) for e in sorted(epochs)}
