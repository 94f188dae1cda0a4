"""The tasks of the search benchmark: learning curves for every point of a search space.

`shapes` and `camvid` predict them from recorded curves; `long` predicts curves of 200 epochs from
power laws that were fitted to recorded ones. Trains nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from segtune.tuning.space import Dimension, Space
from segtune.tuning.study_reader import load_study

DATA = Path(__file__).parent / "data"
SPACE = Path(__file__).parent.parent / "search_spaces" / "full.yaml"
CONFIG = Path(__file__).parent.parent / "configs" / "shapes_segformer_b0.yaml"


@dataclass(frozen=True)
class Curve:
    """The learning curve of a trial: its mIoU at each validation, and how it ends."""

    mious: Mapping[int, float]  # epoch -> validated mIoU in 0..1
    noiseless_mious: Mapping[int, float]  # the same without the noise of a validation
    epochs: int  # epochs until the trial ends
    end: str  # kind of the verdict; empty if the trial is healthy

    def at(self, epoch: int) -> float:
        """Return the mIoU at an epoch, or at the last validation before it."""
        return self.mious[max((e for e in self.mious if e <= epoch), default=min(self.mious))]


class KernelRidge:
    """Kernel ridge regression from points to curves: a smooth surface.

    Width and ridge are those with the smallest error when each point is left out in turn.
    """

    LENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
    RIDGES = (0.03, 0.1, 0.3, 1.0)

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        """`points` [N, D] in 0..1, `values` [N, K]."""
        self.points = points
        self.mean = values.mean(0)
        fits = [
            self._fit(values - self.mean, length, ridge)
            for length in self.LENGTHS
            for ridge in self.RIDGES
        ]
        self.error, self.length, self.weights = min(fits, key=lambda fit: fit[0])

    def _fit(
        self, values: np.ndarray, length: float, ridge: float
    ) -> tuple[float, float, np.ndarray]:
        """Return the leave-one-out error (root mean square), the length, and the weights."""
        kernel = self._kernel(self.points, length)
        inverse = np.linalg.inv(kernel + ridge * np.eye(len(self.points)))
        weights = inverse @ values
        # The error at each point of a fit to all other points, in closed form.
        errors = weights / inverse.diagonal()[:, None]
        return float(np.sqrt((errors**2).mean())), length, weights

    def _kernel(self, points: np.ndarray, length: float) -> np.ndarray:
        squares = ((points[:, None] - self.points[None]) ** 2).sum(-1)
        return np.exp(-squares / (2 * length**2))

    def at(self, point: np.ndarray) -> np.ndarray:
        """Return the values [K] at a point [D]."""
        return self.mean + (self._kernel(point[None], self.length) @ self.weights)[0]


class NearestNeighbours:
    """The weighted mean over the nearest points.

    Rougher than `KernelRidge`, and not a surface of the kind that a Gaussian process assumes.
    """

    NUM_NEAREST = 8

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        """`points` [N, D] in 0..1, `values` [N, K]."""
        self.points = points
        self.values = values

    def at(self, point: np.ndarray) -> np.ndarray:
        """Return the values [K] at a point [D]."""
        distances = np.abs(self.points - point).sum(1)
        nearest = np.argsort(distances, kind="stable")[: self.NUM_NEAREST]
        weights = 1.0 / (distances[nearest] + 0.3) ** 2
        return weights @ self.values[nearest] / weights.sum()


class RecordedTask:
    """Predicts the curve of a point from the recorded curves, and its end from the nearest one.

    Taking the nearest curve itself would make plateaus: over a good part of the space nothing would
    change.
    """

    # Random points among which the best is looked for.
    NUM_POINTS = 1000

    def __init__(self, name: str, epochs: int, grace: int) -> None:
        """`name` is that of a file in data/; a trial may be stopped from epoch `grace` on."""
        self.name = name
        self.epochs = epochs
        self.grace = grace
        self.space = load_study(SPACE, CONFIG).space
        lines = (DATA / f"{name}.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if row["mious"]]
        self.curves = [_read_curve(row, epochs) for row in rows]
        self.points = np.stack([coordinates(self.space, row["params"]) for row in rows])
        mious = [[curve.at(epoch) for epoch in range(1, epochs + 1)] for curve in self.curves]
        self.surface: KernelRidge | NearestNeighbours = KernelRidge(self.points, np.array(mious))

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        """Return the curve of a point. `seed` decides the noise, if the task has noise."""
        point = coordinates(self.space, params)
        nearest = self.curves[int(((self.points - point) ** 2).sum(1).argmin())]
        return self._predict(self.surface.at(point), nearest, seed)

    def _predict(self, values: np.ndarray, nearest: Curve, seed: int) -> Curve:
        """Return the curve with the mIoU `values` [epochs], which ends as `nearest` does."""
        mious = {epoch: float(values[epoch - 1]) for epoch in range(1, nearest.epochs + 1)}
        return Curve(mious, mious, nearest.epochs, nearest.end)

    def best(self) -> float:
        """Return the highest noiseless mIoU of NUM_POINTS random points and the config itself."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        points = [self.space.complete({})]
        points += [self.space(study.ask()) for _ in range(self.NUM_POINTS)]
        curves = [self.curve(point, 0) for point in points]
        return max(max(c.noiseless_mious.values(), default=0.0) for c in curves if not c.end)


def _read_curve(row: Mapping[str, Any], epochs: int) -> Curve:
    mious = {int(epoch): miou for epoch, miou in row["mious"].items()}
    return Curve(mious, mious, row["epoch"] if row["end"] else epochs, row["end"])


def coordinates(space: Space, params: Mapping[str, Any]) -> np.ndarray:
    """Return a point as numbers in 0..1: one per numeric setting, one per option of a choice.

    A setting that is drawn on a logarithmic scale is measured on one. An inactive setting is at
    0.5, the middle.
    """
    numbers: list[float] = []
    for dimension in space.dimensions:
        value = params.get(dimension.name)
        if dimension.kind == "choice":
            numbers += [0.5 * (value == option) for option in dimension.values]
        else:
            numbers.append(0.5 if value is None else _position(dimension, value))
    return np.array(numbers)


def _position(dimension: Dimension, value: float) -> float:
    """Return where a value lies between the ends of its dimension, in 0..1."""
    low, high = dimension.values
    if dimension.kind == "loguniform":
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


class LongTask(RecordedTask):
    """Curves of 200 epochs: power laws c - a * t^-b, fitted to recorded curves, with their noise.

    Between the recorded points the laws are interpolated by `NearestNeighbours`.
    """

    EPOCHS = 200
    VALIDATED = range(10, EPOCHS + 1, 10)

    def __init__(self, name: str, epochs: int) -> None:
        """`name` is that of a file in data/, whose curves have `epochs` epochs."""
        super().__init__(name, epochs, grace=10)
        fits = [fit_power_law(curve, epochs) for curve in self.curves]
        self.surface = NearestNeighbours(self.points, np.array([law for law, _ in fits]))
        self.noise = float(np.median([noise for _, noise in fits]))
        self.name = "long"
        self.recorded_epochs = epochs
        self.epochs = self.EPOCHS

    def _predict(self, values: np.ndarray, nearest: Curve, seed: int) -> Curve:
        """Return the curve of the law `values` (c, a, b), with noise that follows from `seed`."""
        ceiling, drop, power = values
        end = self.EPOCHS
        if nearest.end:
            end = self.EPOCHS * nearest.epochs // self.recorded_epochs
        noiseless = {
            epoch: float(max(0.0, ceiling - drop * (epoch / self.EPOCHS) ** -power))
            for epoch in self.VALIDATED
            if epoch <= end
        }
        noise = np.random.default_rng(seed).normal(0.0, self.noise, self.EPOCHS + 1)
        mious = {epoch: float(max(0.0, miou + noise[epoch])) for epoch, miou in noiseless.items()}
        return Curve(mious, noiseless, end, nearest.end)


def fit_power_law(curve: Curve, epochs: int) -> tuple[tuple[float, float, float], float]:
    """Return (c, a, b) of c - a * t^-b, and the standard deviation of the curve around it.

    t is the part of the schedule of `epochs` epochs that has passed, in 0..1.
    """
    validated = sorted(curve.mious)
    times = np.array(validated) / epochs
    values = np.array([curve.mious[epoch] for epoch in validated])
    if len(values) < 3:
        return (float(values.max(initial=0.0)), 0.0, 0.5), 0.0
    best: tuple[float, tuple[float, float, float]] = (math.inf, (0.0, 0.0, 0.0))
    for power in np.linspace(0.1, 1.5, 15):
        # For a fixed b the law is linear in c and a.
        design = np.stack([np.ones_like(times), -(times**-power)], axis=1)
        (ceiling, drop), *_ = np.linalg.lstsq(design, values, rcond=None)
        error = float(((design @ [ceiling, drop] - values) ** 2).sum())
        best = min(best, (error, (float(ceiling), max(0.0, float(drop)), float(power))))
    return best[1], math.sqrt(best[0] / len(values))


def make_task(name: str) -> RecordedTask:
    """Return the task shapes, camvid or long."""
    match name:
        case "shapes":
            return RecordedTask("shapes", epochs=12, grace=2)
        case "camvid":
            return RecordedTask("camvid", epochs=6, grace=1)
        case "long":
            return LongTask("shapes", epochs=12)
    raise SystemExit(f"--tasks: {name!r} is no task; the tasks are shapes, camvid and long")
