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
