"""Measures of searches: regret, ranks, tests, and the epochs until a good config is announced.

Pure functions of numbers: they read no file and print nothing. Arrays have the axes M (methods),
T (tasks), S (seeds) and P (shares of the budget).

Regret is normalised: 0 is the task's best config, 1 is its median random config. The best config
of a task may be the best of many random ones only. A search that beats it has a negative regret.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segtune.checks.confirmation import holm

TRUTH_DIGITS = 5  # to which clock.py rounds truths; with more, ties would not be ties
VALUE_DIGITS = 9  # differences of means below this are rounding errors
LEVEL = 0.05
OURS = "segtune"  # the names of all other methods begin with something else: they are peers


@dataclass(frozen=True)
class Search:
    """One line of the results. Truths are scores in 0..1, and so are `best` and the like."""

    task: str
    method: str
    seed: int
    workers: int
    trainings: int  # the budget, in training runs of full length
    full_epochs: int  # of a training run of full length
    epochs: np.ndarray  # [steps] epochs that all workers had spent when something changed
    announced: np.ndarray  # [steps] truth of the announced config from then on
    drawn: np.ndarray  # [steps] best truth that was drawn by then
    best: float  # truth of the task's best config
    middle: float  # median truth of random configs
    itself: float  # truth of the config that the search is to improve
    num_trials: int
    busy_share: float  # of the workers' time
    seconds: float  # CPU time of the method's decisions

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Search:
        """Return the search of a line that runs.py has written."""
        steps = np.array(row["steps"], dtype=float).reshape(-1, 3)
        return cls(
            **{name: row[name] for name in ("task", "method", "seed", "workers", "trainings")},
            full_epochs=row["epochs"],
            epochs=steps[:, 0],
            announced=steps[:, 1],
            drawn=steps[:, 2],
            best=row["best"],
            middle=row["middle"],
            itself=round(row["itself"], TRUTH_DIGITS),
            num_trials=row["trials"],
            busy_share=row["busy"],
            seconds=row["seconds"],
        )

    @property
    def budget(self) -> int:
        """Epochs that the search may spend, summed over the workers."""
        return self.trainings * self.full_epochs

    @property
    def final_truth(self) -> float:
        """Truth of the config announced at the end: the config itself, if there was none."""
        return float(self.announced[-1]) if len(self.announced) else self.itself

    @property
    def final_drawn(self) -> float:
        """Best truth of a config that was drawn: the config itself, if there was none."""
        return float(self.drawn[-1]) if len(self.drawn) else self.itself

    def regret(self, truth: Any) -> Any:
        """Return the normalised regret of a truth, or of an array of truths."""
        return (self.best - truth) / (self.best - self.middle)


@dataclass(frozen=True)
class Results:
    """Searches with the same number of workers and budget: every method, task and seed once."""

    workers: int
    trainings: int
    methods: tuple[str, ...]  # the lowest mean regret at the end comes first
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    searches: tuple[Search, ...]  # M x T x S of them, in this order
    num_left_out: int = 0  # searches with a seed that another method or task lacks

    @property
    def is_peer(self) -> np.ndarray:
        """Bool [M]: the method is not segtune's."""
        return np.array([not method.startswith(OURS) for method in self.methods])

    def values(self, measure: Callable[[Search], Any]) -> np.ndarray:
        """Return a measure of every search: [M, T, S], or [M, T, S, P] if it returns [P]."""
        values = np.array([measure(search) for search in self.searches], dtype=float)
        shape = len(self.methods), len(self.tasks), len(self.seeds)
        return values.reshape(*shape, *values.shape[1:])


def arrange(searches: Iterable[Search]) -> list[Results]:
    """Return the results of each number of workers and budget, in this order.

    Methods are compared on the same tasks with the same seeds. A seed counts if every method has
    it on every task. Raises ValueError if there is none.
    """
    groups: dict[tuple[int, int], list[Search]] = {}
    for search in searches:
        groups.setdefault((search.workers, search.trainings), []).append(search)
    return [_arrange_group(group) for _, group in sorted(groups.items())]


def _arrange_group(group: Sequence[Search]) -> Results:
    by_key = {(search.method, search.task, search.seed): search for search in group}
    methods = sorted({search.method for search in group})
    tasks = sorted({search.task for search in group})
    seeds = _common_seeds(by_key, methods, tasks)
    if not seeds:
        counts = [f"{m}: {sum(key[0] == m for key in by_key)} searches" for m in methods]
        raise ValueError(
            f"{group[0].workers} workers: no seed has every method on every task "
            f"({'; '.join(counts)}); choose methods or tasks"
        )

    def final_regret(method: str) -> float:
        ends = [by_key[method, task, seed] for task in tasks for seed in seeds]
        return float(np.mean([end.regret(end.final_truth) for end in ends]))

    methods.sort(key=final_regret)
    kept = [by_key[method, task, seed] for method in methods for task in tasks for seed in seeds]
    return Results(
        workers=group[0].workers,
        trainings=group[0].trainings,
        methods=tuple(methods),
        tasks=tuple(tasks),
        seeds=tuple(seeds),
        searches=tuple(kept),
        num_left_out=len(by_key) - len(kept),
    )


def _common_seeds(
    keys: Iterable[tuple[str, str, int]], methods: Sequence[str], tasks: Sequence[str]
) -> list[int]:
    counts: dict[int, int] = {}
    for _, _, seed in keys:
        counts[seed] = counts.get(seed, 0) + 1
    return sorted(seed for seed, count in counts.items() if count == len(methods) * len(tasks))


# Regret over the budget


def regrets_at(search: Search, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the regret [P] of the announced config at shares of the budget [P] in 0..1.

    It is a step function: a step counts from its epoch on. Before the first one, the search would
    announce the config itself.
    """
    # Rounded, so that 0.1 of 520 epochs is not 51.999.
    spent = np.round(np.asarray(shares, dtype=float) * search.budget, 6)
    latest = np.searchsorted(search.epochs, spent, side="right") - 1
    # The index before the first step is -1, the last element.
    truths = np.append(search.announced, search.itself)[latest]
    return search.regret(truths)


@dataclass(frozen=True)
class Anytime:
    """Regret at shares of the budget, each [M, P]."""

    mean: np.ndarray  # over tasks and seeds
    low: np.ndarray  # 25 % quantile over the seeds, of the mean over tasks
    high: np.ndarray  # 75 % quantile


def anytime(results: Results, shares: Sequence[float] | np.ndarray) -> Anytime:
    """Return the mean regret of each method at shares of the budget [P], and its band."""
    by_seed = results.values(lambda search: regrets_at(search, shares)).mean(1)  # [M, S, P]
    low, high = np.quantile(by_seed, (0.25, 0.75), axis=1)
    return Anytime(by_seed.mean(1), low, high)


# Ranks and tests


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each method, of the shape of `values` [M, ...]; 1 is the lowest value.

    Tied methods share the mean of their ranks.
    """
    from scipy.stats import rankdata

    return rankdata(np.round(values, VALUE_DIGITS), axis=0)


@dataclass(frozen=True)
class Difference:
    """A method compared with the reference."""

    method: str
    difference: float  # mean regret of the reference minus that of the method; < 0: lower regret
    p_pairs: float  # over pairs of (task, seed): for these tasks
    p_tasks: float  # over tasks, with the seeds averaged: for tasks like these


def differences(results: Results, regrets: np.ndarray, reference: str) -> list[Difference]:
    """Return how each other method differs from the reference.

    `regrets` is [M, T, S]. The p values are two-sided, of the Wilcoxon signed-rank test, with
    Holm's correction for the number of methods. Searches on one task are alike, so that the test
    over pairs does not say what happens on another task.
    """
    base = results.methods.index(reference)
    others = [method for method in range(len(results.methods)) if method != base]
    if not others:
        return []
    gaps = regrets[base] - regrets[others]  # [M - 1, T, S]
    by_pair = np.array([signed_rank_p(gap.ravel()) for gap in gaps])
    by_task = np.array([signed_rank_p(gap.mean(1)) for gap in gaps])
    rows = zip(others, gaps, holm(by_pair, len(gaps)), holm(by_task, len(gaps)), strict=True)
    return [
        Difference(results.methods[other], float(gap.mean()), float(p_pairs), float(p_tasks))
        for other, gap, p_pairs, p_tasks in rows
    ]


def signed_rank_p(gaps: np.ndarray) -> float:
    """Return the two-sided p value of the Wilcoxon signed-rank test of paired differences [N].

    The ranks of differences of 0 are split between both signs (Demsar 2006, section 3.1.3). Fewer
    than two differences, or none other than 0, give 1.
    """
    from scipy.stats import wilcoxon

    gaps = np.round(gaps, VALUE_DIGITS)
    if len(gaps) < 2 or not gaps.any():
        return 1.0
    p: Any = wilcoxon(gaps, zero_method="zsplit")[1]
    return float(p)


@dataclass(frozen=True)
class RankComparison:
    """All methods compared by their mean rank over tasks."""

    mean_ranks: np.ndarray  # [M]
    p: float  # of the Friedman test: all methods have the same rank
    critical_difference: float  # mean ranks that differ by less may be equal


def compare_ranks(regrets: np.ndarray) -> RankComparison:
    """Compare methods by their ranks over tasks, with the seeds averaged first.

    `regrets` is [M, T, S] with at least three methods and two tasks. Source: Demsar 2006, section
    3.2.2: the Friedman test, and the critical difference of Nemenyi's test.
    """
    from scipy.stats import friedmanchisquare

    by_task = np.round(regrets.mean(2), VALUE_DIGITS)
    by_rank = ranks(by_task)
    # If all methods are tied on every task, the statistic is 0 / 0.
    has_difference = (by_rank != by_rank[0]).any()
    p = float(friedmanchisquare(*by_task)[1]) if has_difference else 1.0
    return RankComparison(by_rank.mean(1), p, critical_difference(*by_task.shape))


def critical_difference(num_methods: int, num_tasks: int, level: float = LEVEL) -> float:
    """Return by how much the mean ranks of two methods have to differ.

    Source: Demsar 2006, section 3.2.2: q sqrt(M (M + 1) / (6 T)). q is the quantile of the
    studentised range of M values with infinite degrees of freedom, divided by sqrt(2).
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - level, num_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))


def alike_groups(sorted_ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return the first and the last position of each group of methods that do not differ.

    `sorted_ranks` increases. A group has two or more methods, whose mean ranks differ by less than
    `difference`, and it is not part of a larger group.
    """
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(sorted_ranks):
        last = max(i for i, other in enumerate(sorted_ranks) if other - rank < difference)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


# Epochs until a good config is announced


def epochs_until(search: Search, within: float) -> int | None:
    """Return the epochs spent until the regret is at most `within` and stays there.

    Epochs are summed over the workers. None if the regret at the end is larger. Nothing is
    announced before the first step, so that the result is at least 1.
    """
    above = np.flatnonzero(search.regret(search.announced) > within)
    first = int(above[-1]) + 1 if len(above) else 0
    return int(search.epochs[first]) if first < len(search.epochs) else None


def epochs_or_budget(search: Search, within: float) -> int:
    """Return `epochs_until`, or the whole budget if the search never gets there."""
    epochs = epochs_until(search, within)
    return search.budget if epochs is None else epochs


def ratios_to_best_peer(epochs: np.ndarray, is_peer: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the best single peer, and the epochs of each method as a ratio [M] to the peer's.

    `epochs` is [M, T, S], `is_peer` bool [M] with at least one peer. A task counts with the mean
    over its seeds: if most of its searches never arrive, the median would only be the budget. The
    ratio is the geometric mean over tasks. The best peer has the lowest geometric mean, so it is
    the same method for all tasks.
    """
    logs = np.log(epochs.mean(2)).mean(1)
    peer = int(np.where(is_peer, logs, np.inf).argmin())
    return peer, np.exp(logs - logs[peer])
