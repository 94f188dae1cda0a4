"""Which trials are trained again, with which seeds, and what is kept of an earlier confirmation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.cluster.tune_searcher import StudySearcher
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.confirm_study import (
    confirm_study,
    plan_confirmation,
    retrained,
    trial_reader,
)
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def end(trial: TrialDir, params: dict[str, Any], miou: float, state: State = "completed") -> None:
    """Write a trial of one epoch."""
    write_atomic(trial.params, json.dumps(params))
    trial.append_epoch(EpochRecord(1, 1, 1.0, validation=ValidationScores(miou, 0.0)))
    kind = "diverged" if state == "unhealthy" else ""
    trial.write_verdict(Verdict(state=state, kind=kind, epoch=1))


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    # The config's own lr, 1e-3, lies outside the space.
    space = {"optim.lr": {"loguniform": [1e-5, 1e-4]}, "loss.focal.gamma": {"uniform": [0.0, 4.0]}}
    return make_study(space, trials=5)


@pytest.fixture
def run(study: Study, tmp_path: Path) -> SearchDir:
    """Return a search run. From the best on: 3 (unhealthy), 2, 4 (the same point), 1, 0."""
    run = SearchDir(tmp_path / "runs" / "a")
    prepare_study(run, study)
    best = {"optim.lr": 5e-5, "loss.focal.gamma": 1.0}
    end(run.trial(0), study.space.complete({}), 0.1)
    end(run.trial(1), {"optim.lr": 2e-5, "loss.focal.gamma": 0.5}, 0.2)
    end(run.trial(2), best, 0.4)
    end(run.trial(3), {"optim.lr": 9e-5, "loss.focal.gamma": 3.0}, 0.9, "unhealthy")
    end(run.trial(4), best, 0.3)
    return run


def train_all(study: Study, run: SearchDir, miou: float = 0.5) -> list[dict[str, Any]]:
    """End the trials that the searcher of a confirmation hands out; return their values."""
    begun = run.confirm.study.exists()
    prepare_study(run.confirm, study, resume=begun, extend=begun)
    searcher = StudySearcher.from_run(study, run.confirm)
    drawn = []
    while isinstance(suggestion := searcher.suggest(f"t{len(drawn)}"), dict):
        drawn.append(suggestion["params"])
        end(run.confirm.trial(suggestion["number"]), suggestion["params"], miou)
        searcher.on_trial_complete(f"t{len(drawn) - 1}")
    return drawn


def test_best_healthy_trials_are_confirmed_each_point_once(study: Study, run: SearchDir) -> None:
    plan = plan_confirmation(study, run, top=3, num_seeds=2)
    assert plan.baseline.number == 0
    assert [trial.number for trial in plan.candidates] == [2, 1]
    assert [t.number for t in plan_confirmation(study, run, top=1, num_seeds=2).candidates] == [2]


def test_seeds_are_those_that_no_trial_has_used(study: Study, run: SearchDir) -> None:
    assert plan_confirmation(study, run, top=1, num_seeds=3).seeds == (1000, 1001, 1002)
    other = replace(study, config=study.config.override({"seed": 1001}))
    assert plan_confirmation(other, run, top=1, num_seeds=3).seeds == (1000, 1002, 1003)


def test_each_config_is_trained_with_each_seed_and_nothing_else_changes(
    study: Study, run: SearchDir
) -> None:
    fresh = confirm_study(study, run, plan_confirmation(study, run, top=2, num_seeds=2))
    drawn = train_all(fresh, run)
    by_seed = [(params["seed"], params["optim.lr"]) for params in drawn]
    assert by_seed == [(seed, lr) for seed in (1000, 1001) for lr in (1e-3, 5e-5, 2e-5)]
    again = fresh.trial_config(drawn[4])
    search_config = study.trial_config(read_trials(run)[2].params)
    assert again == search_config.override({"seed": 1001})
    # The record of the confirmation can be read, and no rule stops a training run.
    assert load_study(run.confirm.study).search.scheduler == "none"


def test_proxy_is_confirmed_at_its_own_size(
    make_study: Callable[..., Study], run: SearchDir
) -> None:
    proxied = make_study(trials=5, proxy={"epochs": 1})
    fresh = confirm_study(proxied, run, plan_confirmation(proxied, run, top=1, num_seeds=2))
    assert fresh.trial_config({"seed": 1000}).schedule.epochs == 1
    assert proxied.config.schedule.epochs == 2


def test_later_confirmation_trains_only_what_is_missing(study: Study, run: SearchDir) -> None:
    train_all(confirm_study(study, run, plan_confirmation(study, run, top=1, num_seeds=2)), run)
    more = plan_confirmation(study, run, top=2, num_seeds=3)
    drawn = train_all(confirm_study(study, run, more), run)
    assert [(p["seed"], p["optim.lr"]) for p in drawn] == [
        (1000, 2e-5),
        (1001, 2e-5),
        (1002, 1e-3),
        (1002, 5e-5),
        (1002, 2e-5),
    ]
    assert all(config.scores(more.seeds) == [0.5] * 3 for config in retrained(study, run, more))


def test_candidates_and_seeds_of_an_earlier_confirmation_stay(study: Study, run: SearchDir) -> None:
    train_all(confirm_study(study, run, plan_confirmation(study, run, top=2, num_seeds=3)), run)
    fewer = plan_confirmation(study, run, top=1, num_seeds=2)
    assert [trial.number for trial in fewer.candidates] == [2, 1]
    assert fewer.seeds == (1000, 1001, 1002)
    end(run.trial(5), {"optim.lr": 1e-4, "loss.focal.gamma": 0.0}, 0.8)
    later = plan_confirmation(study, run, top=1, num_seeds=2)
    assert [trial.number for trial in later.candidates] == [2, 1, 5]


def test_more_seeds_of_the_baseline_alone_ask_nothing_of_the_candidates(
    study: Study, run: SearchDir
) -> None:
    for number, seed in enumerate((1000, 1001, 1002)):
        baseline = study.space.complete({}) | {"seed": seed}
        end(run.confirm.trial(number), baseline, 0.1)
    plan = plan_confirmation(study, run, top=1, num_seeds=2)
    assert plan.seeds == (1000, 1001)


def test_widened_space_does_not_repeat_a_training_run(
    study: Study, run: SearchDir, make_study: Callable[..., Study]
) -> None:
    train_all(confirm_study(study, run, plan_confirmation(study, run, top=1, num_seeds=2)), run)
    wider = make_study(study.space.dump() | {"loss.dice.weight": {"uniform": [0.0, 2.0]}}, trials=6)
    plan = plan_confirmation(wider, run, top=1, num_seeds=2)
    assert train_all(confirm_study(wider, run, plan), run) == []
    assert [config.scores(plan.seeds) for config in retrained(wider, run, plan)] == [[0.5, 0.5]] * 2


def test_training_run_that_did_not_complete_has_no_score_but_a_reason(
    study: Study, run: SearchDir
) -> None:
    plan = plan_confirmation(study, run, top=1, num_seeds=2)
    train_all(confirm_study(study, run, plan), run)
    run.confirm.trial(1).verdict.unlink()
    verdict = Verdict(state="unhealthy", kind="diverged", epoch=1, evidence="loss 9")
    run.confirm.trial(1).write_verdict(verdict)
    _, candidate = retrained(study, run, plan)
    assert candidate.scores(plan.seeds) == [None, 0.5]
    assert candidate.runs[1000].problem == "unhealthy (diverged: loss 9)"


def test_training_run_is_named_after_its_trial_and_its_seed(study: Study, run: SearchDir) -> None:
    train_all(confirm_study(study, run, plan_confirmation(study, run, top=1, num_seeds=2)), run)
    names = [trial.id for trial in trial_reader(run.confirm).read()]
    assert names == ["0000-1000", "0002-1000", "0000-1001", "0002-1001"]
    assert [trial.id for trial in trial_reader(run).read()][:2] == ["0000", "0001"]


def test_search_without_a_baseline_or_a_candidate_is_refused(study: Study, tmp_path: Path) -> None:
    run = SearchDir(tmp_path / "b")
    prepare_study(run, study)
    with pytest.raises(RunError, match="trial 0, the config itself, has no validated epoch"):
        plan_confirmation(study, run, top=3, num_seeds=3)
    end(run.trial(0), study.space.complete({}), 0.1)
    end(run.trial(1), {"optim.lr": 9e-5, "loss.focal.gamma": 3.0}, 0.9, "unhealthy")
    with pytest.raises(RunError, match="no healthy trial differs from the config itself"):
        plan_confirmation(study, run, top=3, num_seeds=3)
