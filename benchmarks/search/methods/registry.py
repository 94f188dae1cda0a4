"""All search methods by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from benchmarks.search.methods.method import REDUCTION, SearchMethod
from benchmarks.search.methods.segtune_method import SegtuneMethod
from benchmarks.search.methods.stock import OptunaMethod, RayMethod
from benchmarks.search.tasks import Task

MakeMethod = Callable[[Task, int], SearchMethod]  # from a task and the seed of the search


def _halving(task: Task) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=task.grace, reduction_factor=REDUCTION)


def _hyperband(task: Task) -> BasePruner:
    return HyperbandPruner(task.grace, task.epochs, REDUCTION)


def _no_pruner(task: Task) -> BasePruner:
    return NopPruner()


def _optuna(
    make_sampler: Callable[..., BaseSampler],
    make_pruner: Callable[[Task], BasePruner],
    task: Task,
    seed: int,
    *,
    sick_fail: bool = False,
    **options: Any,
) -> SearchMethod:
    sampler = make_sampler(seed=seed, **options)
    return OptunaMethod(task, sampler, make_pruner(task), sick_fail=sick_fail)


def _segtune(search: dict[str, Any], task: Task, seed: int) -> SearchMethod:
    return SegtuneMethod(task, seed, search)


METHODS: dict[str, MakeMethod] = {
    "random": partial(_optuna, RandomSampler, _no_pruner),
    "random + ASHA": partial(_optuna, RandomSampler, _halving),
    "Ray OptunaSearch + ASHA": RayMethod,
    "Optuna TPE + SuccessiveHalving": partial(_optuna, TPESampler, _halving),
    "Optuna TPE + Hyperband": partial(_optuna, TPESampler, _hyperband),
    "Optuna univariate TPE + SuccessiveHalving": partial(
        _optuna, TPESampler, _halving, multivariate=False
    ),
    "Optuna univariate TPE + SuccessiveHalving, sick as failed": partial(
        _optuna, TPESampler, _halving, multivariate=False, sick_fail=True
    ),
    "Optuna GP + SuccessiveHalving": partial(_optuna, GPSampler, _halving),
    "Optuna GP + SuccessiveHalving, sick as failed": partial(
        _optuna, GPSampler, _halving, sick_fail=True
    ),
    "segtune gp": partial(_segtune, {"sampler": "gp"}),
    "segtune tpe": partial(_segtune, {"sampler": "tpe"}),
}


def _candidate(name: str, task: Task, seed: int) -> SearchMethod:
    # Needs an extra, so it is not imported with this module.
    from benchmarks.search.candidates.method import ThawMethod, curves_with_halving

    return ThawMethod(task, seed) if name == "thaw" else curves_with_halving(task, seed)


# Not part of segtune.
CANDIDATES: dict[str, MakeMethod] = {
    "candidate: model of curves + SuccessiveHalving": partial(_candidate, "curves"),
    "candidate: model of curves, pausing": partial(_candidate, "thaw"),
}


def make_method(name: str, task: Task, seed: int) -> SearchMethod:
    """Return a new search by a method. Each of them tries the config itself first."""
    return {**METHODS, **CANDIDATES}[name](task, seed)
