"""How many epochs a search needs: segtune against the standard parts of Ray and Optuna.

    python -m benchmarks.search                     # all tasks, 20 repetitions
    python -m benchmarks.search --tasks shapes --methods "random,segtune gp" --repetitions 5

All methods search the same curves with the same budget, with eight trials at the same time. The
clock is virtual: an epoch takes about one unit of time, a little more or less for each trial, so
that trials do not report in step. The result of a search is the best mIoU that a healthy trial has
validated so far, counted without the noise of a validation.
"""

import argparse
import csv
import functools
import heapq
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.methods import METHODS, SearchMethod, make_method
from benchmarks.tasks import Curve, RecordedTask, make_task

CONCURRENT = 8
TARGET_SHARE = 0.99  # of the best mIoU
# An epoch of a trial takes a time in this range; every trial draws its own.
PACE = (0.8, 1.25)
PROCESSES = 2

COLUMNS = (
    "task",
    "method",
    "epochs to 99 % [quartiles]",
    "arrived",
    "times fewer than random",
    "regret at a quarter of the budget",
)


@dataclass(frozen=True)
class Improvement:
    """A moment at which a search found a better config."""

    epochs: int  # that the search had spent by then
    miou: float  # noiseless, in 0..1


@dataclass(frozen=True)
class Measured:
    """The repetitions of one method on one task."""

    epochs: np.ndarray  # until the target was reached; the budget if it never was
    regrets: np.ndarray  # in points of mIoU, after a quarter of the budget


class RunningTrial:
    """A trial on the virtual clock."""

    def __init__(self, curve: Curve, pace: float) -> None:
        """`pace` is how long an epoch takes."""
        self.curve = curve
        self.pace = pace
        self.epoch = 0
        self.validations = sorted(curve.mious)  # the epochs that are still to come

    def time_to_next(self) -> float:
        """Return the time until the next validation, or until the end if none follows."""
        next_epoch = self.validations[0] if self.validations else self.curve.epochs
        return self.pace * (next_epoch - self.epoch)

    def advance(self) -> tuple[int, int | None]:
        """Go on to the next validation, or to the end.

        Return the epochs spent, and the epoch that is validated now; None at the end.
        """
        before = self.epoch
        validated = self.validations.pop(0) if self.validations else None
        self.epoch = validated or self.curve.epochs
        return self.epoch - before, validated


class VirtualSearch:
    """One search on the virtual clock."""

    def __init__(self, task: RecordedTask, method: SearchMethod, seed: int) -> None:
        self.task = task
        self.method = method
        self.seed = seed
        self.random = np.random.default_rng(seed)
        self.trials: list[RunningTrial] = []
        self.reports: list[tuple[float, int]] = []  # a heap of (time of the next report, trial)
        self.now = 0.0
        self.spent = 0  # epochs
        self.improvements = [Improvement(0, 0.0)]

    @property
    def best(self) -> float:
        """The best noiseless mIoU so far."""
        return self.improvements[-1].miou

    def step(self) -> None:
        """Start trials in all free slots, then go on to the next report of a trial."""
        while len(self.reports) < CONCURRENT:
            self._start()
        self.now, number = heapq.heappop(self.reports)
        trial = self.trials[number]
        spent, epoch = trial.advance()
        self.spent += spent
        if epoch is None:
            self.method.end(number, "unhealthy" if trial.curve.end else "completed")
            return
        self._note(trial.curve, epoch)
        if self.method.report(number, epoch, trial.curve.mious[epoch]):
            self._schedule(number)
        else:
            self.method.end(number, "pruned")

    def _start(self) -> None:
        number = len(self.trials)
        curve = self.task.curve(self.method.suggest(number), self.seed * 100_003 + number)
        self.trials.append(RunningTrial(curve, self.random.uniform(*PACE)))
        self._schedule(number)

    def _schedule(self, number: int) -> None:
        heapq.heappush(self.reports, (self.now + self.trials[number].time_to_next(), number))

    def _note(self, curve: Curve, epoch: int) -> None:
        # The score of a trial that ends unhealthy does not count: no user would take its config.
        if not curve.end and curve.noiseless_mious[epoch] > self.best:
            self.improvements.append(Improvement(self.spent, curve.noiseless_mious[epoch]))


def search(
    task: RecordedTask, method_name: str, target: float, budget: int, seed: int
) -> list[Improvement]:
    """Run one search, and return its improvements, the first of which is (0 epochs, mIoU 0).

    It ends with the budget. It ends earlier if the target is reached, but not before a quarter of
    the budget, at which the regrets are compared.
    """
    # In each process of the pool.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    method = make_method(method_name, task, seed)
    run = VirtualSearch(task, method, seed)
    while run.spent < budget and not (run.best >= target and run.spent > budget // 4):
        run.step()
    method.close()
    return run.improvements


def epochs_to_target(improvements: Sequence[Improvement], target: float, budget: int) -> int:
    """Return the epochs spent when the target was reached, or the budget if it never was."""
    return next((step.epochs for step in improvements if step.miou >= target), budget)


def best_within(improvements: Sequence[Improvement], epochs: int) -> float:
    """Return the best mIoU after so many epochs."""
    return max(step.miou for step in improvements if step.epochs <= epochs)


def measure(
    task: RecordedTask, methods: Sequence[str], repetitions: int, budget: int
) -> dict[str, Measured]:
    """Return for each method what its searches needed, with the seeds 0 to repetitions - 1."""
    best = task.best()
    target = TARGET_SHARE * best
    measured: dict[str, Measured] = {}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for name in methods:
            run_one = functools.partial(search, task, name, target, budget)
            searches = pool.map(run_one, range(repetitions), chunksize=1)
            epochs = np.array([epochs_to_target(s, target, budget) for s in searches])
            regrets = np.array([100 * (best - best_within(s, budget // 4)) for s in searches])
            measured[name] = Measured(epochs, regrets)
            print(f"{task.name}, {name}: {np.median(epochs):.0f} of {budget} epochs", flush=True)
    return measured


def table(task: RecordedTask, measured: Mapping[str, Measured], budget: int) -> list[list[str]]:
    """Return one row per method."""
    rows: list[list[str]] = []
    base = np.median(measured["random"].epochs) if "random" in measured else None
    for name, method in measured.items():
        low, middle, high = np.percentile(method.epochs, [25, 50, 75])
        low_regret, regret, high_regret = np.percentile(method.regrets, [25, 50, 75])
        cells = [
            task.name,
            name,
            f"{middle:.0f} [{low:.0f}, {high:.0f}]",
            f"{100 * np.mean(method.epochs < budget):.0f} %",
            f"{base / middle:.2f}" if base is not None else "-",
            f"{regret:.2f} [{low_regret:.2f}, {high_regret:.2f}]",
        ]
        rows.append(cells)
    return rows


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
    methods = arguments.methods.split(",")
    rows: list[list[str]] = []
    for name in arguments.tasks.split(","):
        task = make_task(name)
        budget = arguments.budget * task.epochs
        rows += table(task, measure(task, methods, arguments.repetitions, budget), budget)
        printed = Table(*COLUMNS)
        for row in rows:
            printed.add_row(*row)
        Console(width=180).print(printed)
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
