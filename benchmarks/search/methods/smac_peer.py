"""SMAC3 2.4.1: its multi-fidelity facade, which is Hyperband with a random forest.

Imported by peer_server.py in an interpreter with SMAC.

Options:
- The facade's own: brackets of Hyperband with eta 3, a random initial design, a random forest with
  expected improvement, fitted again after eight new configs.
- The budgets are the epochs divided by 1, 3, 9...; they are rounded to whole epochs. The lowest one
  is the nearest to the grace.
- The config itself is the first of the initial design. A quarter of `n_trials` follow at random.
  `n_trials` is about the number of jobs that fit into ten full training runs; the clock ends the
  search, not SMAC.
- A bracket waits for its slowest trial, and SMAC opens the next bracket meanwhile: no worker waits.

A sick trial is told as crashed, with the worst score. If a table trains another config than the one
that was drawn, SMAC learns the score of the nearest recorded config: its `tell` takes scores of the
configs that it has asked for.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ConfigSpace import (  # pyright: ignore[reportMissingImports]
    Categorical,
    Configuration,
    ConfigurationSpace,
    Float,
    Integer,
)
from smac import MultiFidelityFacade, Scenario  # pyright: ignore[reportMissingImports]
from smac.initial_design import RandomInitialDesign  # pyright: ignore[reportMissingImports]
from smac.runhistory import StatusType, TrialValue  # pyright: ignore[reportMissingImports]

from benchmarks.search.methods.budget_method import BudgetMethod, Request, lowest_budget
from benchmarks.search.methods.method import REDUCTION
from benchmarks.search.methods.peer_task import Axis, PeerTask

NUM_TRIALS = 64  # jobs, promotions among them, in ten full training runs
WORST = 1.0  # cost of a score of 0


def _hyperparameter(axis: Axis) -> Any:
    match axis.kind:
        case "choice":
            return Categorical(axis.name, list(axis.labels))
        case "int":
            return Integer(axis.name, (int(axis.low), int(axis.high)))
        case kind:
            return Float(axis.name, (axis.low, axis.high), log=kind == "loguniform")


def make(task: PeerTask) -> SmacMethod:
    """Return a new search."""
    logging.disable(logging.WARNING)
    return SmacMethod(task)


class _FirstDesign(RandomInitialDesign):
    """The facade's initial design after a first config."""

    def __init__(self, scenario: Scenario, first: Configuration) -> None:
        super().__init__(scenario)
        self.first = first

    def select_configurations(self) -> list[Configuration]:
        return [self.first, *super().select_configurations()]


class SmacMethod(BudgetMethod):
    """SMAC's optimizer, driven by `ask` and `tell`."""

    def __init__(self, task: PeerTask) -> None:
        super().__init__(task)
        self.folder = Path(tempfile.mkdtemp())
        space = ConfigurationSpace(seed=task.seed)
        space.add([_hyperparameter(axis) for axis in task.axes])
        scenario = Scenario(
            space,
            output_directory=self.folder,
            n_trials=NUM_TRIALS,
            min_budget=lowest_budget(task),
            max_budget=task.epochs,
            crash_cost=WORST,
            seed=task.seed,
        )
        self.smac = MultiFidelityFacade(
            scenario,
            lambda config, seed=0, budget=0.0: 0.0,
            intensifier=MultiFidelityFacade.get_intensifier(scenario, eta=REDUCTION),
            initial_design=_FirstDesign(scenario, Configuration(space, values=task.first)),
            overwrite=True,
            logging_level=False,
        )

    def ask(self) -> Request:
        info = self.smac.ask()
        return Request(info.config, self.task.cast(info.config), round(info.budget), info)

    def tell(self, request: Request, score: float | None) -> None:
        status = StatusType.CRASHED if score is None else StatusType.SUCCESS
        value = TrialValue(cost=WORST if score is None else 1 - score, status=status)
        self.smac.tell(request.handle, value, save=False)

    def close(self) -> None:
        """Remove the output folder."""
        shutil.rmtree(self.folder)
