"""What a sampler sees: a bounded history, for gp one in which every trial has full length."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from segtune.cluster.tune_searcher import StudySearcher
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.study import Study
from segtune.tuning.trial_history import BoundedHistory, ExtrapolatedHistory


def test_history_of_a_long_search_is_bounded_and_the_same_after_a_resume(
    make_study: Callable[..., Study],
    play: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BoundedHistory, "LIMIT", 15)
    monkeypatch.setattr(BoundedHistory, "BLOCK", 5)
    completed: list[State] = ["completed"]
    states: list[State] = [*completed * 12, "unhealthy", "pruned", "unhealthy"]
    whole = StudySearcher.from_run(make_study(trials=41), SearchDir(tmp_path / "whole"))
    drawn = play(whole, states)
    assert whole.history is not None
    shown = whole.history.study_log.study.trials
    assert len(shown) <= 20
    assert len(whole.study_log.study.trials) == 41
    # The best and the unhealthy trials stay, however old they are.
    best = max(drawn, key=lambda p: -abs(math.log10(p["optim.lr"]) + 2) - p["loss.focal.gamma"])
    assert best in [trial.params for trial in shown]
    assert sum(trial.constraints.get("unhealthy", 0.0) > 0 for trial in shown) == 2

    run = SearchDir(tmp_path / "part")
    part = play(StudySearcher.from_run(make_study(trials=28), run), states)
    assert part + play(StudySearcher.from_run(make_study(trials=41), run)) == drawn


def test_gp_sees_stopped_and_unhealthy_trials_at_their_expected_full_length(
    make_study: Callable[..., Study],
) -> None:
    history = ExtrapolatedHistory(make_study().space)
    curves: list[tuple[State, dict[int, float]]] = [
        ("completed", {1: 0.2, 2: 0.3, 4: 0.6}),  # gains 0.4 after epoch 1, 0.3 after epoch 2
        ("completed", {1: 0.1, 2: 0.4, 4: 0.2}),  # gains 0.3 and 0.0: the best counts, not the last
        ("pruned", {1: 0.2}),  # 0.2 and the median gain after epoch 1, 0.35
        ("pruned", {1: 0.2, 2: 0.1}),  # 0.2 and the median gain after epoch 2, 0.15
        ("unhealthy", {1: 0.9}),  # the lowest of the others
    ]
    for number, (state, mious) in enumerate(curves):
        history.ask(number, optuna.samplers.RandomSampler(seed=number))
        kind = "diverged" if state == "unhealthy" else ""
        history.tell(number, Verdict(state=state, kind=kind), mious)
    history.ask(9, optuna.samplers.RandomSampler(seed=9))
    shown = history.study_log.study.trials
    assert [t.value for t in shown[:5]] == pytest.approx([0.6, 0.4, 0.55, 0.35, 0.35])
    assert [t.state for t in shown] == [TrialState.COMPLETE] * 5 + [TrialState.RUNNING]


def test_a_paused_trial_is_shown_as_pruned_then_as_running_then_as_it_ended(
    make_study: Callable[..., Study],
) -> None:
    history = BoundedHistory(make_study().space, pauses=True)
    params = [{"optim.lr": lr, "loss.focal.gamma": 1.0} for lr in (1e-4, 1e-3, 1e-2)]

    def shown() -> list[tuple[float, TrialState]]:
        trials = history.study_log.study.trials
        return [(trial.params["optim.lr"], trial.state) for trial in trials]

    history.begin(0, params[0])
    history.tell(0, Verdict(state="paused", epoch=1), {1: 0.2})
    history.begin(1, params[1])
    history.tell(1, Verdict(state="completed", epoch=4), {1: 0.1, 4: 0.3})
    assert shown() == [(1e-4, TrialState.PRUNED), (1e-3, TrialState.COMPLETE)]
    history.resume(0, params[0])
    assert shown() == [(1e-3, TrialState.COMPLETE), (1e-4, TrialState.RUNNING)]
    history.tell(0, Verdict(state="completed", epoch=4), {1: 0.2, 4: 0.4})
    history.ask(2, optuna.samplers.RandomSampler(seed=0))
    # In the order of numbers, whichever has ended first: samplers weigh the latest more.
    assert shown()[:2] == [(1e-4, TrialState.COMPLETE), (1e-3, TrialState.COMPLETE)]
    assert history.study_log.study.trials[0].value == 0.4
    assert len(shown()) == 3


def test_history_of_a_long_search_that_pauses_is_the_same_after_a_resume(
    make_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHistory, "LIMIT", 10)
    monkeypatch.setattr(BoundedHistory, "BLOCK", 5)
    space = make_study().space

    def add(history: BoundedHistory, number: int, state: State, miou: float) -> None:
        history.begin(number, params_of(number))
        history.tell(number, Verdict(state=state, epoch=1), {1: miou})

    def params_of(number: int) -> dict[str, Any]:
        return {"optim.lr": 10 ** (-1 - number / 10), "loss.focal.gamma": 1.0}

    def shown(history: BoundedHistory) -> list[float]:
        history.ask(31, optuna.samplers.RandomSampler(seed=1))
        trials = history.study_log.study.trials
        return [trial.params["optim.lr"] for trial in trials if trial.state.is_finished()]

    # All wait. Trials 0, 1 and 2 are the best, two of which are kept, until trial 0 diverges.
    scores = [0.9, 0.8, 0.7, *(0.001 * number for number in range(3, 30))]
    live = BoundedHistory(space, pauses=True)
    for number, score in enumerate(scores):
        add(live, number, "paused", score)
    live.ask(30, optuna.samplers.RandomSampler(seed=0))
    assert len(live.study_log.study.trials) == 11
    live.resume(0, params_of(0))
    live.tell(0, Verdict(state="unhealthy", kind="diverged", epoch=2), {1: 0.9})
    replayed = BoundedHistory(space, pauses=True)
    for number, score in enumerate(scores):
        add(replayed, number, "paused" if number else "unhealthy", score)
    replayed.begin(30, live.running[30])
    assert shown(live) == shown(replayed)
    assert len(shown(live)) == 10
    assert shown(live)[:3] == [params_of(number)["optim.lr"] for number in range(3)]
