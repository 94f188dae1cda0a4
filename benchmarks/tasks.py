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

from segtune.space import Space
from segtune.study import load_study

DATA = Path(__file__).parent / "data"
SPACE = Path(__file__).parent.parent / "search_spaces" / "full.yaml"
CONFIG = Path(__file__).parent.parent / "configs" / "shapes_segformer_b0.yaml"


@dataclass(frozen=True)
class Curve:
    """What a trial would do: mIoU at each validation, and whether it ends by its own fault."""

    mious: Mapping[int, float]  # by epoch
    epochs: int  # how long it runs
    end: str  # kind of its verdict, empty where it is healthy


class Recorded:
    """A drawn point has the curve of the nearest recorded one."""

    def __init__(self, name: str, epochs: int, grace: int) -> None:
        """`name` is that of the table in data/."""
        self.name, self.epochs, self.grace = name, epochs, grace
        rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
        self.space = load_study(SPACE, CONFIG).space
        self.points = [row["params"] for row in rows]
        self.curves = [_curve(row, epochs) for row in rows]
        self.coordinates = np.stack([coordinates(self.space, p) for p in self.points])

    def nearest(self, params: Mapping[str, Any], count: int = 1) -> np.ndarray:
        """Returns the indices of the nearest recorded points, the nearest first, and their distances."""
        distances = np.abs(self.coordinates - coordinates(self.space, params)).sum(1)
        order = np.argsort(distances, kind="stable")[:count]
        return np.stack([order, distances[order]])

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        """Returns the curve of a point; the seed decides nothing here."""
        return self.curves[int(self.nearest(params)[0, 0])]

    def best(self) -> float:
        """Returns the highest mIoU that is there to be found."""
        return max(max(c.mious.values()) for c in self.curves if not c.end)


def _curve(row: dict, epochs: int) -> Curve:
    mious = {int(epoch): miou for epoch, miou in row["mious"].items()}
    return Curve(mious, row["epoch"] if row["end"] else epochs, row["end"])


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
            low, high = (math.log(v) if dimension.kind == "loguniform" else v for v in dimension.values)
            found.append(((math.log(value) if dimension.kind == "loguniform" else value) - low) / (high - low))
    return np.array(found)


class Long(Recorded):
    """A 200-epoch family: saturating curves c - a * t^-b fitted to the recorded ones, smooth between them, with their noise."""

    NEIGHBOURS = 5
    VALIDATED = range(10, 201, 10)

    def __init__(self, name: str, epochs: int) -> None:
        super().__init__(name, epochs, grace=10)
        self.name, self.recorded_epochs, self.epochs = "long", epochs, 200
        fits = [fit(c, epochs) for c in self.curves]
        self.laws = np.array([law for law, _ in fits])
        self.noise = float(np.median([noise for _, noise in fits]))

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        """Returns the curve of a point, with noise that follows from the seed."""
        chosen, distances = self.nearest(params, self.NEIGHBOURS)
        weights = 1.0 / (distances + 0.05) ** 2
        ceiling, drop, power = (self.laws[chosen.astype(int)] * weights[:, None]).sum(0) / weights.sum()
        closest = self.curves[int(chosen[0])]
        end = 200 * closest.epochs // self.recorded_epochs if closest.end else 200
        noise = np.random.default_rng(seed).normal(0.0, self.noise, 200)
        mious = {e: float(max(0.0, ceiling - drop * (e / 200) ** -power + noise[e - 1])) for e in self.VALIDATED if e <= end}
        return Curve(mious, end, closest.end)

    def best(self) -> float:
        """Returns the highest mIoU over 20,000 random points, without noise."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        found, noise, self.noise = 0.0, self.noise, 0.0
        for _ in range(20_000):
            curve = self.curve(self.space(study.ask()), 0)
            found = max(found, 0.0 if curve.end else max(curve.mious.values()))
        self.noise = noise
        return found


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
    return Recorded(name, epochs={"shapes": 12, "camvid": 6}[name], grace={"shapes": 2, "camvid": 1}[name])
