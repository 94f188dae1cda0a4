"""Optuna studies that know trials by our numbers: the whole record of a search, and the view of it that a sampler draws from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from segtune.cluster.storage import UNHEALTHY, known_trial
from segtune.space import Space
from segtune.verdict import Verdict
from segtune.warm_start import KnownTrial


class Book:
    """One Optuna study: trials are asked for, report their mIoU by epoch, and end with a verdict."""

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self.study, self.space = study, space
        self.asked: dict[int, optuna.Trial] = {}
        self.reported: dict[int, set[int]] = {}

    def ask(self, number: int, sampler: optuna.samplers.BaseSampler | None, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Opens a trial and returns its values: those that are given, or what the sampler draws."""
        if given is not None:
            self.study.enqueue_trial(dict(given))
            sampler = optuna.samplers.RandomSampler(seed=0)  # no model need be fitted to draw what is known
        if sampler:
            self.study.sampler = sampler
        self.asked[number] = self.study.ask()
        return self.space(self.asked[number])

    def report(self, number: int, epoch: int, miou: float) -> None:
        """Notes an intermediate value, once."""
        told = self.reported.setdefault(number, set())
        if epoch not in told:
            told.add(epoch)
            self.asked[number].report(miou, epoch)

    def tell(self, number: int, verdict: Verdict, mious: Mapping[int, float]) -> None:
        """Ends a trial: full length COMPLETE, stopped PRUNED, unhealthy also infeasible, fault FAIL, interrupted goes on."""
        if verdict.state == "interrupted":
            return
        for epoch, miou in mious.items():
            self.report(number, epoch, miou)
        self.reported.pop(number, None)
        trial = self.asked.pop(number)
        if verdict.reason:
            trial.set_user_attr("reason", verdict.reason)
        match verdict.state:
            case "completed" if mious:
                self.study.tell(trial, max(mious.values()))
            case "unhealthy":
                # The sampler keeps away from what is infeasible; the best value of the study stays clean.
                trial.set_constraint(UNHEALTHY, 1.0)
                self.study.tell(trial, state=TrialState.PRUNED)
            case "pruned":
                self.study.tell(trial, state=TrialState.PRUNED)
            case _:
                self.study.tell(trial, state=TrialState.FAIL)


class View:
    """What a sampler sees of a search: all of a short one; of a long one the best, the sick and the latest trials.

    TPE builds its densities anew from every trial at every draw, which takes 700 ms at the ten-thousandth. What it needs are
    the few best (at most 25 make the good density, Bergstra et al. 2011) and a picture of the rest. What is seen follows
    from the numbers alone, so that a resumed search sees the same.
    """

    LIMIT = 300  # trials that are kept in sight
    BLOCK = 50  # trials after which the choice is made again

    def __init__(self, space: Space) -> None:
        self.space, self.base = space, 0
        self.ended: dict[int, FrozenTrial] = {}
        self.running: dict[int, dict[str, Any]] = {}
        self.book = self._open([])

    def _open(self, trials: list[FrozenTrial]) -> Book:
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        return Book(study, self.space)

    def add(self, known: KnownTrial) -> None:
        """Shows a trial of an earlier run."""
        self._remember(-1 - len(self.ended), known)
        self.book.study.add_trial(known_trial(known, self.space))

    def ask(self, number: int, sampler: optuna.samplers.BaseSampler, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the values of a trial that is running from now on: those that are given, or what the sampler draws."""
        base = number // self.BLOCK * self.BLOCK
        if base != self.base and len(self.ended) > self.LIMIT:
            self.base = base
            self._look_again()
        self.running[number] = self.book.ask(number, sampler, given)
        return self.running[number]

    def tell(self, number: int, verdict: Verdict, mious: Mapping[int, float]) -> None:
        """Ends a trial as `Book.tell` does."""
        self.book.tell(number, verdict, mious)
        if verdict.state != "interrupted":
            params = self.running.pop(number)
            if verdict.state in ("completed", "pruned", "unhealthy"):
                state = "pruned" if verdict.state == "completed" and not mious else verdict.state
                self._remember(number, KnownTrial(params=params, state=state, mious=dict(mious)))  # pyright: ignore[reportArgumentType]

    def _remember(self, number: int, known: KnownTrial) -> None:
        self.ended[number] = known_trial(known, self.space)

    def _look_again(self) -> None:
        old = {n: t for n, t in self.ended.items() if n < self.base}
        chosen = set(_best(old, self.LIMIT // 5)) | set(_sick(old)[-self.LIMIT // 5 :])
        latest = [n for n in sorted(old) if n not in chosen][-(self.LIMIT - len(chosen)) :]
        # What is out of sight now stays so: it was neither good nor sick, and nobody becomes late again.
        self.ended = {n: t for n, t in sorted(self.ended.items()) if n >= self.base or n in chosen or n in latest}
        self.book = self._open(list(self.ended.values()))
        for number, params in self.running.items():
            self.book.ask(number, None, params)


def _best(trials: Mapping[int, FrozenTrial], count: int) -> list[int]:
    """Returns the numbers of the best healthy trials in TPE's order: those of full length first, then by epoch and value."""

    def rank(number: int) -> tuple[float, float]:
        trial = trials[number]
        if trial.value is not None:
            return -math.inf, -trial.value
        last = max(trial.intermediate_values, default=0)
        return -last, -trial.intermediate_values.get(last, 0.0)

    sick = set(_sick(trials))
    return sorted((n for n in trials if n not in sick), key=rank)[:count]


def _sick(trials: Mapping[int, FrozenTrial]) -> list[int]:
    return [n for n in sorted(trials) if trials[n].constraints.get(UNHEALTHY, 0.0) > 0]
