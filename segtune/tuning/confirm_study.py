"""Which training runs confirm a search: its best trials and the config itself, with fresh seeds.

They are a search run in the folder RUN/confirm, whose space also holds the seed and whose points
are all known. Therefore it is resumed like every search. Trains nothing and judges nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from segtune.errors import RunError
from segtune.runs.results import TrialReader, TrialResult, ranked, read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.tuning.search_config import NO_LIMITS
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

SEED = "seed"  # the setting
# Far from the seeds that users choose. A search trains with the config's own seed, which is left
# out: the best trial has won with it, and its score would be the lucky one again.
FIRST_SEED = 1000
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class ConfirmPlan:
    """The trials of a search run to train again, and with which seeds."""

    baseline: TrialResult  # trial 0, the config itself
    candidates: tuple[TrialResult, ...]  # those confirmed before, then the best others by rank
    seeds: tuple[int, ...]

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """The baseline, then the candidates."""
        return (self.baseline, *self.candidates)


@dataclass(frozen=True)
class FreshRun:
    """One training run of a confirmation."""

    trial: TrialDir
    miou: float | None  # best validated, in 0..1; None if the training run did not complete
    problem: str  # how it ended if it did not complete, otherwise empty


@dataclass(frozen=True)
class Retrained:
    """A trial of the search with its fresh training runs."""

    trial: TrialResult
    runs: Mapping[int, FreshRun]  # by seed

    def scores(self, seeds: Sequence[int]) -> list[float | None]:
        """Return the mIoU in 0..1 for each seed, None if its training run did not complete."""
        return [self.runs[seed].miou if seed in self.runs else None for seed in seeds]


@dataclass(frozen=True)
class FreshResult(TrialResult):
    """The result of one training run of a confirmation."""

    name: str = ""

    @property
    def id(self) -> str:
        """The trial that is trained again, and the seed, as in 0003-1001."""
        return self.name


class FreshReader(TrialReader):
    """Reads the training runs of a confirmation, each by the name of its trial and its seed."""

    def __init__(self, run: SearchDir) -> None:
        """`run` is the search run that is confirmed."""
        super().__init__(run.confirm)
        self._study = load_study(run.study)
        # Of several trials with the same values, the best names them all.
        trials = reversed(ranked(read_trials(run)))
        names = {_key(self._study, trial.params): trial.id for trial in trials}
        self._names = {**names, _key(self._study, {}): run.trial(0).id}

    def read(self) -> list[TrialResult]:
        """Return the training runs that have been started, in their order."""
        return [self._named(trial) for trial in super().read()]

    def _named(self, trial: TrialResult) -> TrialResult:
        values = {field.name: getattr(trial, field.name) for field in fields(trial)}
        name = self._names.get(_key(self._study, trial.params), "unknown")
        return FreshResult(**values, name=f"{name}-{trial.params.get(SEED)}")


def trial_reader(run: SearchDir) -> TrialReader:
    """Return the reader of a search run, which may be that of a confirmation."""
    return FreshReader(run.confirms) if run.confirms else TrialReader(run)


def plan_confirmation(study: Study, run: SearchDir, top: int, num_seeds: int) -> ConfirmPlan:
    """Return the plan to confirm the best `top` trials with `num_seeds` seeds.

    A candidate or a seed of an earlier confirmation stays: leaving out what did not succeed would
    be choosing by the result. Raise RunError if the config itself has not been trained, or if no
    other trial is healthy.
    """
    trials = read_trials(run)
    if not trials or trials[0].number != 0 or trials[0].miou is None:
        raise RunError(
            f"{run.path}: trial 0, the config itself, has no validated epoch, and it is what "
            "the others are compared with; resume the search, or start one whose config trains"
        )
    baseline, seen = trials[0], {_key(study, trials[0].params)}
    earlier = _earlier_points(study, run)
    confirmed = {key for key, _ in earlier}
    by_key: dict[str, TrialResult] = {}
    for trial in ranked(trials):
        key = _key(study, trial.params)
        if trial.number and key not in seen and (trial.may_win or key in confirmed):
            by_key.setdefault(key, trial)
    if not by_key:
        that_keeps = " that keeps the guards" if study.search.guards.limits else ""
        raise RunError(
            f"{run.path}: no healthy trial{that_keeps} differs from the config itself, so there is "
            "nothing to confirm"
        )
    best = list(by_key)[:top]
    kept = [key for key in dict.fromkeys(key for key, _ in earlier) if key in by_key]
    candidates = tuple(by_key[key] for key in dict.fromkeys([*kept, *best]))
    return ConfirmPlan(baseline, candidates, _seeds(study, trials, earlier, seen, num_seeds))


def _seeds(
    study: Study,
    trials: Sequence[TrialResult],
    earlier: Sequence[tuple[str, int]],
    baseline: set[str],
    num_seeds: int,
) -> tuple[int, ...]:
    """Return the seeds: those of earlier confirmations, then fresh ones that no trial has used."""
    begun = list(dict.fromkeys(seed for _, seed in earlier))
    used = {study.config.seed, *(trial.params.get(SEED) for trial in trials)}
    fresh = (seed for seed in itertools.count(FIRST_SEED) if seed not in used | set(begun))
    # The baseline alone may have more seeds, from `search.noise_floor`.
    of_candidates = {seed for key, seed in earlier if key not in baseline}
    num_begun = max((begun.index(seed) + 1 for seed in of_candidates), default=0)
    return tuple(itertools.islice(itertools.chain(begun, fresh), max(num_seeds, num_begun)))


def confirm_study(study: Study, run: SearchDir, plan: ConfirmPlan) -> Study:
    """Return the study that trains the plan, at the search's own budget; it stops no trial early.

    Training runs that have begun keep their numbers. The others follow seed by seed.
    """
    params = [trial.params for trial in plan.trials]
    return _fresh_study(study, run, params, plan.seeds)


def noise_floor_study(study: Study, run: SearchDir) -> Study:
    """Return the study that trains the config itself with `search.noise_floor` fresh seeds.

    Its training runs are those that a later confirmation starts with.
    """
    begun = [trial.params[SEED] for trial in read_trials(run.confirm)]
    fresh = (seed for seed in itertools.count(FIRST_SEED) if seed != study.config.seed)
    seeds = dict.fromkeys([*begun, *itertools.islice(fresh, study.search.noise_floor)])
    return _fresh_study(study, run, [{}], list(seeds)[: study.search.noise_floor])


def baseline_scores(study: Study, run: SearchDir) -> dict[int, float]:
    """Return the mIoU in 0..1 of the config itself by fresh seed, of completed training runs."""
    key = _key(study, {})
    scores: dict[int, float] = {}
    for trial in read_trials(run.confirm):
        is_baseline = _key(study, trial.params) == key
        if is_baseline and trial.state == "completed" and trial.miou is not None:
            scores[trial.params[SEED]] = trial.miou
    return scores


def _fresh_study(
    study: Study, run: SearchDir, params: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> Study:
    """Return the study of each of the points `params` with each seed, after those that began."""
    begun = [trial.params for trial in read_trials(run.confirm)]
    config = study.config.override({SEED: begun[0][SEED] if begun else seeds[0]})
    planned = [study.space.complete(point) | {SEED: seed} for seed in seeds for point in params]
    points = begun + [point for point in planned if point not in begun]
    space = _with_seed(study.space, config.seed).widened_to(points)
    changes: dict[str, Any] = {
        # The study itself adds the first point: the config with the first seed.
        "known_good": points[1:],
        "scheduler": "none",
        "breaker.first": None,
        "breaker.recent": None,
        "sampler": "random",
        "storage": None,
        "noise_floor": 0,
        **NO_LIMITS,
        # The search has judged its trials by them, and a confirmation compares mIoU only.
        "objectives": ["miou"],
        "guards.class_iou_drop": None,
        "guards.params_m": None,
        "guards.latency_ms": None,
        "guards.class": {},
    }
    fresh = replace(study, config=config, space=space, search=study.search.override(changes))
    return replace(fresh, search=fresh.search.override({"trials": len(fresh.points())}))


def retrained(study: Study, run: SearchDir, plan: ConfirmPlan) -> list[Retrained]:
    """Return the trials of the plan with the fresh training runs that have begun."""
    runs: dict[str, dict[int, FreshRun]] = {}
    for trial in read_trials(run.confirm):
        of_point = runs.setdefault(_key(study, trial.params), {})
        of_point[trial.params[SEED]] = _fresh_run(run, trial)
    return [Retrained(trial, runs.get(_key(study, trial.params), {})) for trial in plan.trials]


def _fresh_run(run: SearchDir, trial: TrialResult) -> FreshRun:
    folder = run.confirm.trial(trial.number)
    if trial.state == "completed":
        return FreshRun(folder, trial.miou, "")
    reason = f" ({trial.reason})" if trial.reason else ""
    return FreshRun(folder, None, f"{trial.state}{reason}")


def _earlier_points(study: Study, run: SearchDir) -> list[tuple[str, int]]:
    """Return point and seed of the training runs that have begun, in their order."""
    trials = read_trials(run.confirm)
    return [(_key(study, trial.params), trial.params[SEED]) for trial in trials]


def _with_seed(space: Space, seed: int) -> Space:
    dimensions = tuple(d for d in space.dimensions if d.name != SEED)
    any_seed = Dimension(SEED, "int", (0, MAX_SEED))
    return Space((*dimensions, any_seed), {**space.base, SEED: seed})


def _key(study: Study, params: Mapping[str, Any]) -> str:
    """Return a text that is equal for trials that differ in the seed only.

    A trial from before the space was widened lacks the new settings; it has the config's own value.
    """
    point = study.space.complete(params)
    return json.dumps({k: v for k, v in point.items() if k != SEED}, sort_keys=True)
