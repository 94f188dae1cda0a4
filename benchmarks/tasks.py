"""What the search benchmark searches: recorded learning curves, and longer ones fitted to them. Trains nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from segtune.tuning.space import Space
from segtune.tuning.study import load_study

DATA = Path(__file__).parent / "data"
SPACE = Path(__file__).parent.parent / "search_spaces" / "full.yaml"
CONFIG = Path(__file__).parent.parent / "configs" / "shapes_segformer_b0.yaml"


@dataclass(frozen=True)
class Curve:
    """What a trial would do: mIoU at each validation, and whether it ends by its own fault."""

    mious: Mapping[int, float]  # by epoch, as they are validated
    worth: Mapping[int, float]  # the same without noise
    epochs: int  # how long it runs
    end: str  # kind of its verdict, empty where it is healthy

    def at(self, epoch: int) -> float:
        """Returns the mIoU of an epoch, or the last one before the curve ended."""
        return (
            self.mious.get(epoch)
            or self.mious[max((e for e in self.mious if e <= epoch), default=min(self.mious))]
        )


class Surface:
    """Kernel ridge regression from points to curves: smooth, and as rough as leaving one point out says that it is."""

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        """`points` [N, D] in 0..1, `values` [N, K]."""
        self.points, self.mean = points, values.mean(0)
        fits = [
            self._fit(values - self.mean, length, ridge)
            for length in (0.5, 1.0, 1.5, 2.0, 3.0)
            for ridge in (0.03, 0.1, 0.3, 1.0)
        ]
        self.error, self.length, self.weights = min(fits, key=lambda fit: fit[0])

    def _fit(
        self, values: np.ndarray, length: float, ridge: float
    ) -> tuple[float, float, np.ndarray]:
        inverse = np.linalg.inv(
            self._kernel(self.points, length) + ridge * np.eye(len(self.points))
        )
        weights = inverse @ values
        left_out = (
            weights / inverse.diagonal()[:, None]
        )  # what each point is missed by when it is left out
        return float(np.sqrt((left_out**2).mean())), length, weights

    def _kernel(self, points: np.ndarray, length: float) -> np.ndarray:
        squares = ((points[:, None] - self.points[None]) ** 2).sum(-1)
        return np.exp(-squares / (2 * length**2))

    def at(self, point: np.ndarray) -> np.ndarray:
        """Returns the values [K] at a point [D]."""
        return self.mean + (self._kernel(point[None], self.length) @ self.weights)[0]


class Neighbourhood:
    """The weighted mean of the nearest points: rougher than `Surface`, and not of the kind that a Gaussian process assumes."""

    NEAREST = 8

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        """`points` [N, D] in 0..1, `values` [N, K]."""
        self.points, self.values = points, values

    def at(self, point: np.ndarray) -> np.ndarray:
        """Returns the values [K] at a point [D]."""
        distances = np.abs(self.points - point).sum(1)
        order = np.argsort(distances, kind="stable")[: self.NEAREST]
        weights = 1.0 / (distances[order] + 0.3) ** 2
        return weights @ self.values[order] / weights.sum()


class Recorded:
    """A drawn point has the curve that the recorded ones predict for it, and the end of the nearest.

    The nearest curve itself would make plateaus on which nothing changes over a good part of the space.
    """

    TABLE = 1000

    def __init__(self, name: str, epochs: int, grace: int) -> None:
        """`name` is that of the table in data/."""
        self.name, self.epochs, self.grace = name, epochs, grace
        rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
        self.space = load_study(SPACE, CONFIG).space
        self.curves = [_curve(row, epochs) for row in rows if row["mious"]]
        self.points = np.stack(
            [coordinates(self.space, row["params"]) for row in rows if row["mious"]]
        )
        self.surface: Surface | Neighbourhood = Surface(
            self.points, np.array([self._values(c) for c in self.curves])
        )

    def _values(self, curve: Curve) -> list[float]:
        return [curve.at(epoch) for epoch in range(1, self.epochs + 1)]

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        """Returns the curve of a point; the seed decides nothing here."""
        point = coordinates(self.space, params)
        closest = self.curves[int(((self.points - point) ** 2).sum(1).argmin())]
        return self._predicted(self.surface.at(point), closest, seed)

    def _predicted(self, values: np.ndarray, closest: Curve, seed: int) -> Curve:
        mious = {epoch: float(values[epoch - 1]) for epoch in range(1, closest.epochs + 1)}
        return Curve(mious, mious, closest.epochs, closest.end)

    def best(self) -> float:
        """Returns the highest mIoU, without noise, among TABLE random points and the config itself: what there is to be found."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        points = [self.space.complete({}), *(self.space(study.ask()) for _ in range(self.TABLE))]
        curves = [self.curve(point, 0) for point in points]
        return max(max(c.worth.values(), default=0.0) for c in curves if not c.end)


def _curve(row: dict, epochs: int) -> Curve:
    mious = {int(epoch): miou for epoch, miou in row["mious"].items()}
    return Curve(mious, mious, row["epoch"] if row["end"] else epochs, row["end"])


def coordinates(space: Space, params: Mapping[str, Any]) -> np.ndarray:
    """Returns a point in 0..1 per setting (logarithmic where it is drawn so), and one axis per choice; inactive is the middle."""
    found: list[float] = []
    for dimension in space.dimensions:
        value = params.get(dimension.name)
        if dimension.kind == "choice":
            found += [0.5 * (value == choice) for choice in dimension.values]
        elif value is None:
            found.append(0.5)
        else:
            low, high = (
                math.log(v) if dimension.kind == "loguniform" else v for v in dimension.values
            )
            found.append(
                ((math.log(value) if dimension.kind == "loguniform" else value) - low)
                / (high - low)
            )
    return np.array(found)


class Long(Recorded):
    """A 200-epoch family: saturating curves c - a * t^-b fitted to the recorded ones, smooth between them, with their noise."""

    VALIDATED = range(10, 201, 10)

    def __init__(self, name: str, epochs: int) -> None:
        super().__init__(name, epochs, grace=10)
        fits = [fit(c, epochs) for c in self.curves]
        self.surface = Neighbourhood(self.points, np.array([law for law, _ in fits]))
        self.noise = float(np.median([noise for _, noise in fits]))
        self.name, self.recorded_epochs, self.epochs = "long", epochs, 200

    def _predicted(self, values: np.ndarray, closest: Curve, seed: int) -> Curve:
        """Returns the curve of a law, with noise that follows from the seed."""
        ceiling, drop, power = values
        end = 200 * closest.epochs // self.recorded_epochs if closest.end else 200
        noise = np.random.default_rng(seed).normal(0.0, self.noise, 201)
        worth = {
            e: float(max(0.0, ceiling - drop * (e / 200) ** -power))
            for e in self.VALIDATED
            if e <= end
        }
        return Curve(
            {e: max(0.0, miou + noise[e]) for e, miou in worth.items()}, worth, end, closest.end
        )


def fit(curve: Curve, epochs: int) -> tuple[tuple[float, float, float], float]:
    """Returns (c, a, b) of c - a * t^-b with t in 0..1 of the schedule, and the standard deviation around it."""
    times = np.array(sorted(curve.mious)) / epochs
    values = np.array([curve.mious[e] for e in sorted(curve.mious)])
    if len(values) < 3:
        return (float(values.max(initial=0.0)), 0.0, 0.5), 0.0
    best: tuple[float, tuple[float, float, float]] = (math.inf, (0.0, 0.0, 0.0))
    for power in np.linspace(0.1, 1.5, 15):
        # Linear in c and a once b is fixed.
        design = np.stack([np.ones_like(times), -(times**-power)], axis=1)
        (ceiling, drop), *_ = np.linalg.lstsq(design, values, rcond=None)
        error = float(((design @ [ceiling, drop] - values) ** 2).sum())
        best = min(best, (error, (float(ceiling), max(0.0, float(drop)), float(power))))
    return best[1], math.sqrt(best[0] / len(values))


def make_task(name: str) -> Recorded:
    """Returns the task of a name: shapes, camvid or long."""
    if name == "long":
        return Long("shapes", epochs=12)
    return Recorded(
        name, epochs={"shapes": 12, "camvid": 6}[name], grace={"shapes": 2, "camvid": 1}[name]
    )
