"""How many epochs does a search need? Ours against stock parts, on the same curves, the same budget, eight trials at a time.

    python -m benchmarks.search                     # all tasks, 20 repetitions
    python -m benchmarks.search --tasks shapes --methods random,segtune --repetitions 5

The clock is virtual: an epoch takes one unit of time, a little more or less for each trial, so that trials do not arrive in
step. A search has found what any of its trials has validated so far, counted without the noise of a validation.
"""

import argparse
import csv
import functools
import heapq
import multiprocessing
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.methods import METHODS, make_method
from benchmarks.tasks import Curve, Recorded, make_task

CONCURRENT = 8
WITHIN = 0.99


class Running:
    """A trial on the virtual clock: what it has reported, and when it reports next."""

    def __init__(self, curve: Curve, pace: float) -> None:
        """`pace` is how long an epoch takes."""
        self.curve, self.pace, self.epoch = curve, pace, 0
        self.validated = sorted(curve.mious)

    def time_to_next(self) -> float:
        """Returns the time until the next validation, or until the end where there is none."""
        return self.pace * (
            (self.validated[0] if self.validated else self.curve.epochs) - self.epoch
        )

    def advance(self) -> tuple[int, int | None]:
        """Returns the epochs spent since the last report, and the epoch that is validated now, None at the end."""
        before, epoch = self.epoch, self.validated.pop(0) if self.validated else None
        self.epoch = epoch or self.curve.epochs
        return self.epoch - before, epoch


def search(
    task: Recorded, name: str, target: float, budget: int, seed: int
) -> list[tuple[int, float]]:
    """Runs one search; returns (epochs spent, best mIoU) at each improvement.

    It ends with the budget, or once the target is reached and the quarter at which regrets are compared has passed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    method, random = make_method(name, task, seed), np.random.default_rng(seed)
    waiting: list[tuple[float, int]] = []
    running: dict[int, Running] = {}
    now, spent, best, trace, number = 0.0, 0, 0.0, [(0, 0.0)], 0
    while spent < budget and not (best >= target and spent > budget // 4):
        while len(waiting) < CONCURRENT:
            running[number] = Running(
                task.curve(method.suggest(number), seed * 100_003 + number),
                random.uniform(0.8, 1.25),
            )
            heapq.heappush(waiting, (now + running[number].time_to_next(), number))
            number += 1
        now, trial = heapq.heappop(waiting)
        curve = running[trial].curve
        epochs, epoch = running[trial].advance()
        spent += epochs
        if epoch is None:
            method.end(trial, "unhealthy" if curve.end else "completed")
            continue
        # The score of a run that ends sick is no score: nobody would take its config.
        if not curve.end and curve.worth[epoch] > best:
            best = curve.worth[epoch]
            trace.append((spent, best))
        if method.report(trial, epoch, curve.mious[epoch]):
            heapq.heappush(waiting, (now + running[trial].time_to_next(), trial))
        else:
            method.end(trial, "pruned")
    method.close()
    return trace


def arrival(trace: list[tuple[int, float]], target: float, budget: int) -> int:
    """Returns the epochs spent when the target was reached, or the budget where it never was."""
    return next((spent for spent, best in trace if best >= target), budget)


def measure(
    task: Recorded, methods: list[str], repetitions: int, budget: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns for each method the epochs of its repetitions and their regrets in mIoU points at a quarter of it."""
    best, found = task.best(), {}
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for name in methods:
            traces = pool.map(
                functools.partial(search, task, name, WITHIN * best, budget),
                range(repetitions),
                chunksize=1,
            )
            epochs = np.array([arrival(t, WITHIN * best, budget) for t in traces])
            regrets = np.array(
                [100 * (best - max(b for s, b in t if s <= budget // 4)) for t in traces]
            )
            found[name] = (epochs, regrets)
            print(f"{task.name}, {name}: {np.median(epochs):.0f} of {budget} epochs", flush=True)
    return found


def table(
    task: Recorded, found: dict[str, tuple[np.ndarray, np.ndarray]], budget: int
) -> list[list[str]]:
    """Returns one row per method."""
    rows = []
    base = np.median(found["random"][0]) if "random" in found else None
    for name, (epochs, regrets) in found.items():
        low, middle, high = np.percentile(epochs, [25, 50, 75])
        lower, regret, upper = np.percentile(regrets, [25, 50, 75])
        ratio = f"{base / middle:.2f}" if base is not None else "-"
        arrived = f"{100 * np.mean(epochs < budget):.0f} %"
        rows.append(
            [
                task.name,
                name,
                f"{middle:.0f} [{low:.0f}, {high:.0f}]",
                arrived,
                ratio,
                f"{regret:.2f} [{lower:.2f}, {upper:.2f}]",
            ]
        )
    return rows


HEADER = [
    "task",
    "method",
    "epochs to 99 % [quartiles]",
    "arrived",
    "times fewer than random",
    "regret at a quarter of the budget",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default="shapes,camvid,long")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--budget", type=int, default=200, help="epochs of a search, in trials of full length"
    )
    parser.add_argument("--out", type=Path, help="also write the table as CSV")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for name in arguments.tasks.split(","):
        task = make_task(name)
        budget = arguments.budget * task.epochs
        rows += table(
            task, measure(task, arguments.methods.split(","), arguments.repetitions, budget), budget
        )
        shown = Table(*HEADER)
        for row in rows:
            shown.add_row(*row)
        Console(width=180).print(shown)
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *rows])


if __name__ == "__main__":
    main()
