"""NePS 0.17.0: PriorBand.

Imported by peer_server.py in an interpreter with NePS.

Options:
- "PriorBand" has `base="hyperband"`, the default. A bracket waits for its slowest trial, and NePS
  opens the next bracket meanwhile: no worker waits. "PriorBand async_hb" has `base="async_hb"`,
  which promotes without waiting.
- The prior is the config itself, with NePS' medium confidence, and it is tried first
  (`sample_prior_first=True`).
- The fidelities are the epochs divided by 1, 3, 9...; they are rounded to whole epochs. The lowest
  one is the nearest to the grace.

A sick trial is told as an error. If a table trains another config than the one that was drawn, NePS
learns the values that are trained.
"""

from __future__ import annotations

import logging
import random
from typing import Any

import neps  # pyright: ignore[reportMissingImports]
import numpy as np
import torch

from benchmarks.search.methods.budget_method import BudgetMethod, Request, lowest_budget
from benchmarks.search.methods.method import REDUCTION
from benchmarks.search.methods.peer_task import Axis, PeerTask, Point

EPOCHS = "epochs"
BASES = {"PriorBand": "hyperband", "PriorBand async_hb": "async_hb"}
PRIOR_CONFIDENCE = "medium"


def make(task: PeerTask) -> NepsMethod:
    """Return a new search."""
    logging.disable(logging.WARNING)
    return NepsMethod(task)


def _parameter(axis: Axis, own: Any) -> Any:
    match axis.kind:
        case "choice":
            return neps.HPOCategorical(
                list(axis.labels), prior=own, prior_confidence=PRIOR_CONFIDENCE
            )
        case "int":
            return neps.HPOInteger(
                int(axis.low), int(axis.high), prior=own, prior_confidence=PRIOR_CONFIDENCE
            )
        case kind:
            is_log = kind == "loguniform"
            return neps.HPOFloat(
                axis.low, axis.high, log=is_log, prior=own, prior_confidence=PRIOR_CONFIDENCE
            )


class NepsMethod(BudgetMethod):
    """PriorBand, driven by NePS' `AskAndTell`."""

    def __init__(self, task: PeerTask) -> None:
        super().__init__(task)
        # NePS takes no seed: it draws from the generators of NumPy and PyTorch.
        random.seed(task.seed)
        np.random.seed(task.seed)
        torch.manual_seed(task.seed)
        elements = {axis.name: _parameter(axis, task.first[axis.name]) for axis in task.axes}
        elements[EPOCHS] = neps.HPOFloat(lowest_budget(task), task.epochs, is_fidelity=True)
        optimizer = neps.algorithms.priorband(
            neps.SearchSpace(elements),
            eta=REDUCTION,
            sample_prior_first=True,
            base=BASES[task.method],
        )
        self.neps = neps.AskAndTell(optimizer)

    def ask(self) -> Request:
        known = set(self.neps.trials)
        trial = self.neps.ask()
        assert trial.id not in known, f"NePS asks again for {trial.id}"
        # The id of a trial is that of its config and the rung: 5_rung_2.
        config_id = trial.id.partition("_")[0]
        epochs = round(trial.config[EPOCHS])
        return Request(config_id, self.task.cast(trial.config), epochs, trial.id)

    def correct(self, request: Request, point: Point) -> None:
        """Put the values that are trained in the place of the drawn ones."""
        trial = self.neps.trials[request.handle]
        trial.config = {**trial.config, **point}

    def tell(self, request: Request, score: float | None) -> None:
        result = RuntimeError("the trial is sick") if score is None else 1 - score
        self.neps.tell(request.handle, result)
