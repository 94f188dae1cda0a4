"""All search methods by name: those that are installed with segtune, and peers that are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from benchmarks.search.methods.method import REDUCTION, SearchMethod
from benchmarks.search.methods.peer import PeerMethod, interpreter
from benchmarks.search.methods.priors import space_with_priors
from benchmarks.search.methods.segtune_method import SegtuneMethod
from benchmarks.search.methods.stock import OptunaMethod, RayMethod, halving
from benchmarks.search.tasks import Task
from segtune.errors import SegtuneError, nearest

MakeMethod = Callable[[Task, int], SearchMethod]  # from a task and the seed of the search


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


def _segtune_with_prior(sampler: str, is_good: bool, task: Task, seed: int) -> SearchMethod:
    space = space_with_priors(task, seed, is_good=is_good)
    search: dict[str, Any] = {"sampler": sampler}
    if sampler == "curves":  # as by default
        search["asha"] = PAUSING["pausing"]
    return SegtuneMethod(task, seed, search, space)


# Settings of asha under which trials are paused, by the words for them.
PAUSING = {
    "pausing": {"pause": True, "order": "expected"},
    "pausing by score": {"pause": True, "order": "score"},
}

METHODS: dict[str, MakeMethod] = {
    "random": partial(_optuna, RandomSampler, _no_pruner),
    "random + ASHA": partial(_optuna, RandomSampler, halving),
    "Ray OptunaSearch + ASHA": RayMethod,
    "Optuna TPE + SuccessiveHalving": partial(_optuna, TPESampler, halving),
    "Optuna TPE + Hyperband": partial(_optuna, TPESampler, _hyperband),
    "Optuna univariate TPE + SuccessiveHalving": partial(
        _optuna, TPESampler, halving, multivariate=False
    ),
    "Optuna univariate TPE + SuccessiveHalving, sick as failed": partial(
        _optuna, TPESampler, halving, multivariate=False, sick_fail=True
    ),
    "Optuna GP + SuccessiveHalving": partial(_optuna, GPSampler, halving),
    "Optuna GP + SuccessiveHalving, sick as failed": partial(
        _optuna, GPSampler, halving, sick_fail=True
    ),
    "segtune curves": partial(_segtune, {"sampler": "curves"}),
    "segtune gp": partial(_segtune, {"sampler": "gp"}),
    "segtune tpe": partial(_segtune, {"sampler": "tpe"}),
    **{
        f"segtune {sampler}, {words}": partial(_segtune, {"sampler": sampler, "asha": asha})
        for sampler in ("curves", "gp", "tpe", "random")
        for words, asha in PAUSING.items()
    },
}


# Not fair beside the others: they are told where the best config lies, or the worst.
WITH_PRIORS: dict[str, MakeMethod] = {
    f"segtune {sampler}, {word} prior": partial(_segtune_with_prior, sampler, word == "good")
    for sampler in ("curves", "gp", "tpe")
    for word in ("good", "bad")
}


# The library and the method of each peer. Every library has an interpreter of its own (peer.py).
PEERS: dict[str, tuple[str, str]] = {
    "Syne Tune HyperTune": ("syne_tune", "HyperTune"),
    "Syne Tune MOBSTER": ("syne_tune", "MOBSTER"),
    "Syne Tune BOHB": ("syne_tune", "BOHB"),
    "Syne Tune ASHA promotion": ("syne_tune", "ASHA promotion"),
    "Syne Tune ASHA stopping": ("syne_tune", "ASHA stopping"),
    "SMAC3 Hyperband": ("smac", "Hyperband"),
    "DEHB": ("dehb", "DEHB"),
    "NePS PriorBand": ("neps", "PriorBand"),
    "NePS PriorBand async_hb": ("neps", "PriorBand async_hb"),
}

HERE = {**METHODS, **WITH_PRIORS}  # run in this interpreter


def check_methods(names: Iterable[str]) -> None:
    """Raise SegtuneError if a method cannot be run here."""
    for name in names:
        if name in PEERS:
            interpreter(PEERS[name][0])
        elif name not in HERE:
            known = [*HERE, *PEERS]
            raise SegtuneError(f"--methods: no method {name!r}{nearest(name, known)}")


def make_method(name: str, task: Task, seed: int) -> SearchMethod:
    """Return a new search by a method. Each of them tries the config itself first."""
    if name in PEERS:
        library, method = PEERS[name]
        return PeerMethod(library, method, task, seed)
    return HERE[name](task, seed)
