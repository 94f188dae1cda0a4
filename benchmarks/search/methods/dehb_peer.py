"""DEHB 0.1.2: differential evolution with Hyperband.

Imported by peer_server.py in an interpreter with DEHB.

Options:
- The defaults of differential evolution: rand1_bin, mutation factor and crossover rate 0.5.
- The fidelities are the epochs divided by 1, 3, 9...; they are rounded to whole epochs. The lowest
  one is the nearest to the grace.
- DEHB gets the space as numbers in 0..1, because it cannot read spaces of ConfigSpace 1. Ranges
  and choices are mapped as DEHB itself maps them: each option has an equal part of 0..1.
- A bracket waits for its slowest trial, and DEHB opens the next bracket meanwhile: no worker waits.
- DEHB cannot be given a first config. The first config that it draws is replaced by the config
  itself, where its method `tell(replay=True)` replaces configs.

DEHB knows no failed trials: a sick one is told with the worst score. If a table trains another
config than the one that was drawn, DEHB learns the values that are trained.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from dehb import DEHB  # pyright: ignore[reportMissingImports]

from benchmarks.search.methods.budget_method import BudgetMethod, Request, lowest_budget
from benchmarks.search.methods.method import REDUCTION
from benchmarks.search.methods.peer_task import Axis, PeerTask, Point

WORST = 1.0  # fitness of a score of 0


def value_of(axis: Axis, share: float) -> Any:
    """Return the value that lies at a share of an axis, in 0..1."""
    share = min(max(share, 0.0), 1.0)
    match axis.kind:
        case "choice":
            return axis.labels[min(int(share * len(axis.labels)), len(axis.labels) - 1)]
        case "int":
            num_values = int(axis.high - axis.low) + 1
            return int(axis.low) + min(int(share * num_values), num_values - 1)
        case "loguniform":
            return min(max(axis.low * (axis.high / axis.low) ** share, axis.low), axis.high)
        case _:
            return axis.low + share * (axis.high - axis.low)


def share_of(axis: Axis, value: Any) -> float:
    """Return where a value lies on an axis, in 0..1."""
    match axis.kind:
        case "choice":
            return (axis.labels.index(value) + 0.5) / len(axis.labels)
        case "int":
            return (value - axis.low + 0.5) / (axis.high - axis.low + 1)
        case "loguniform":
            return math.log(value / axis.low) / math.log(axis.high / axis.low)
        case _:
            return (value - axis.low) / (axis.high - axis.low)


def make(task: PeerTask) -> DehbMethod:
    """Return a new search."""
    return DehbMethod(task)


class DehbMethod(BudgetMethod):
    """DEHB, driven by `ask` and `tell`."""

    def __init__(self, task: PeerTask) -> None:
        super().__init__(task)
        self.folder = Path(tempfile.mkdtemp())
        self.dehb = DEHB(
            dimensions=len(task.axes),
            min_fidelity=lowest_budget(task),
            max_fidelity=task.epochs,
            eta=REDUCTION,
            seed=task.seed,
            n_workers=1,  # more would start processes of Dask, which `ask` does not use
            output_path=self.folder,
            save_freq="end",
            log_level="ERROR",
        )

    def ask(self) -> Request:
        is_first = not self.scores
        job = self.dehb.ask()
        pairs = zip(self.task.axes, job["config"].tolist(), strict=True)
        point = {axis.name: value_of(axis, share) for axis, share in pairs}
        request = Request(int(job["config_id"]), point, round(job["fidelity"]), job)
        if is_first:
            self.correct(request, self.task.first)
            return Request(request.key, self.task.first, request.epochs, job)
        return request

    def correct(self, request: Request, point: Point) -> None:
        """Put the values that are trained in the place of the drawn ones."""
        vector = np.array([share_of(axis, point[axis.name]) for axis in self.task.axes])
        request.handle["config"] = vector
        self.dehb.config_repository.configs[request.key].config = vector

    def tell(self, request: Request, score: float | None) -> None:
        fitness = WORST if score is None else 1 - score
        self.dehb.tell(request.handle, {"fitness": fitness, "cost": request.epochs})

    def close(self) -> None:
        """Remove the output folder."""
        shutil.rmtree(self.folder)
