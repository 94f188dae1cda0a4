"""A search ends when its budget is used up, says why, and its forecast knows it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from segtune.checks.forecast import Forecast, Measured, Slots, forecast
from segtune.checks.search_limits import (
    SearchEnd,
    SearchLimits,
    limit_words,
    read_end,
    refuse_reached_limit,
    write_end,
)
from segtune.checks.simulated_search import TrialSpan, end_of_budget
from segtune.checks.step_costs import StepCosts
from segtune.errors import ConfigError, RunError
from segtune.reporting.forecast_lines import forecast_lines
from segtune.reporting.html import page
from segtune.reporting.plan import search_plan
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, GuardOutcome, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import Session
from segtune.runs.verdict import State, Verdict
from segtune.tuning.confirm_study import noise_floor_study
from segtune.tuning.preparation import prepare_study
from segtune.tuning.proxy_check import full_length_study
from segtune.tuning.study import Study

MakeStudy = Callable[..., Study]
SPACE = {"optim.lr": {"loguniform": [1e-4, 1e-2]}}


@pytest.fixture
def run(tmp_path: Path) -> SearchDir:
    return SearchDir(tmp_path / "runs" / "a")


@pytest.fixture
def make_limited(make_study: MakeStudy) -> MakeStudy:
    """Make a study of 4 trials of 9 epochs with a budget."""

    def make(
        trials: int = 4,
        proxy: dict[str, Any] | None = None,
        regret: float | None = None,
        **budget: Any,
    ) -> Study:
        search = {"trials": trials, "proxy": proxy, "budget": budget, "noise_floor": 2}
        stop_when = {"regret": regret}
        return make_study(SPACE, {"schedule.epochs": 9}, stop_when=stop_when, **search)

    return make


def write_trial(
    run: SearchDir, number: int, state: State | None, num_epochs: int, miou: float = 0.2
) -> None:
    trial = run.trial(number)
    write_atomic(trial.params, json.dumps({"optim.lr": 1e-3}))
    for epoch in range(1, num_epochs + 1):
        trial.append_epoch(EpochRecord(epoch, validation=ValidationScores(miou, 0.1)))
    if state:
        trial.write_verdict(Verdict(state=state, epoch=num_epochs))


def write_sessions(run: SearchDir, *seconds: float) -> None:
    sessions = [Session(1e5 * i, 1e5 * i + s, 1, 1) for i, s in enumerate(seconds, 1)]
    run.path.mkdir(parents=True, exist_ok=True)
    write_atomic(run.sessions, "".join(json.dumps(vars(s)) + "\n" for s in sessions))


def end_of(study: Study, run: SearchDir) -> SearchEnd:
    end = SearchLimits(study, run).reached()
    assert end is not None
    return end


def test_epochs_of_all_trials_count_also_of_running_ones(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    write_trial(run, 0, "completed", 9)
    write_trial(run, 1, "interrupted", 4)
    write_trial(run, 2, None, 2)
    assert SearchLimits(make_limited(epochs=16), run).reached() is None
    end = end_of(make_limited(epochs=15), run)
    assert (end.setting, end.limit, end.value, end.num_ended) == ("budget.epochs", 15, 15, 1)
    assert end.sentence == (
        "search.budget.epochs 15 is used up: its trials have trained 15 epochs; "
        "1 of 4 trials have ended"
    )


def test_a_search_without_a_budget_or_without_trials_left_reaches_no_limit(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    for number in range(3):
        write_trial(run, number, "completed", 9)
    write_sessions(run, 7200.0)
    assert SearchLimits(make_limited(), run).reached() is None
    assert end_of(make_limited(epochs=20, hours=1), run)
    write_trial(run, 3, "unhealthy", 1)
    assert SearchLimits(make_limited(epochs=20, hours=1), run).reached() is None


def test_hours_are_those_of_all_sessions(make_limited: MakeStudy, run: SearchDir) -> None:
    write_trial(run, 0, "completed", 9)
    write_sessions(run, 3600.0, 5400.0)
    assert SearchLimits(make_limited(hours=2.6), run).reached() is None
    end = end_of(make_limited(hours=2.5), run)
    assert end.sentence.startswith(
        "search.budget.hours 2.5 is used up: the search has run for 2.5 hours; 1 of 4"
    )


def test_epochs_that_are_trained_while_the_search_runs_are_seen(
    make_limited: MakeStudy, run: SearchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segtune.checks.search_limits.PAUSE_PER_LOOK", 0)
    write_trial(run, 0, "completed", 9)
    write_trial(run, 1, None, 3)
    limits = SearchLimits(make_limited(epochs=16), run)
    assert limits.reached() is None
    run.trial(1).append_epoch(EpochRecord(4))
    write_trial(run, 2, None, 2)
    assert limits.reached() is None
    run.trial(2).append_epoch(EpochRecord(3))
    end = limits.reached()
    assert end is not None
    assert end.value == 16


def test_epochs_of_a_trial_count_that_has_paused_and_gone_on(
    make_limited: MakeStudy, run: SearchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segtune.checks.search_limits.PAUSE_PER_LOOK", 0)
    write_trial(run, 0, "paused", 3)
    write_trial(run, 1, "paused", 3)
    limits = SearchLimits(make_limited(epochs=10, trials=2), run)
    assert limits.reached() is None
    trial = run.trial(0)
    trial.verdict.unlink()
    for epoch in range(4, 8):
        trial.append_epoch(EpochRecord(epoch, validation=ValidationScores(0.3, 0.1)))
    end = limits.reached()
    assert end is not None
    assert (end.value, end.num_ended) == (10, 0)


def test_a_resume_without_a_larger_budget_is_refused_with_the_way_out(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    write_trial(run, 0, "completed", 9)
    with pytest.raises(RunError) as caught:
        refuse_reached_limit(make_limited(epochs=8), run)
    assert "search.budget.epochs 8 is used up: its trials have trained 9 epochs" in str(
        caught.value
    )
    assert "for example --resume --budget-epochs 18, or change search.budget.epochs" in str(
        caught.value
    )
    refuse_reached_limit(make_limited(epochs=18), run)


def test_a_budget_may_change_at_a_resume_and_must_be_positive(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    with run.locked():
        prepare_study(run, make_limited(epochs=8))
        prepare_study(run, make_limited(epochs=18, hours=2), resume=True)
    with pytest.raises(ConfigError, match=r"budget\.hours: allowed is number > 0"):
        make_limited(hours=0)


def test_the_training_runs_of_other_parts_have_no_budget(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    study = make_limited(epochs=8, hours=1, regret=0.1, proxy={"epochs": 3})
    with run.locked():
        prepare_study(run, study)
    for other in (noise_floor_study(study, run), full_length_study(study, run)):
        assert (other.search.budget.hours, other.search.budget.epochs) == (None, None)
        assert other.search.stop_when.regret is None


def test_the_end_is_shown_in_words_and_in_the_report(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    study = make_limited(epochs=10, hours=2)
    with run.locked():
        prepare_study(run, study)
    write_trial(run, 0, "completed", 9)
    write_sessions(run, 1800.0)
    assert limit_words(study, run) == {"budget": "0.5 of 2 hours, 9 of 10 epochs"}
    assert limit_words(make_limited(), run) == {}
    write_trial(run, 1, "interrupted", 1)
    end = end_of(study, run)
    write_end(run, end)
    assert read_end(run) == end
    assert limit_words(study, run) == {"ended": end.sentence}
    assert f"The search has ended before its last trial: {end.sentence}" in page(study, run)
    run.end.write_text("{")
    assert read_end(run) is None


def test_a_search_ends_when_nothing_is_left_to_gain(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    # Of 30 trials, the later ones gain 0.01 over the first ten.
    for number in range(30):
        write_trial(run, number, "completed", 2, miou=0.3 + 0.01 * (number > 9))
    assert SearchLimits(make_limited(trials=100), run).reached() is None
    assert SearchLimits(make_limited(trials=100, regret=0.009), run).reached() is None
    assert SearchLimits(make_limited(trials=30, regret=0.02), run).reached() is None
    end = end_of(make_limited(trials=100, regret=0.02), run)
    assert end.sentence == (
        "search.stop_when.regret 0.02 is reached: as many trials again would raise the best mIoU "
        "by about 0.01, as far as the trials show; 30 of 100 trials have ended"
    )
    with pytest.raises(RunError, match=r"lower or remove search\.stop_when\.regret in the study"):
        refuse_reached_limit(make_limited(trials=100, regret=0.02), run)
    # A stopped trial counts as if it had full length: the others gained nothing after epoch 1.
    write_trial(run, 30, "pruned", 1, miou=0.4)
    assert SearchLimits(make_limited(trials=100, regret=0.02), run).reached() is None


def test_trials_that_cannot_win_show_nothing_about_the_gain(
    make_limited: MakeStudy, run: SearchDir
) -> None:
    study = make_limited(trials=100, regret=0.02)
    for number in range(29):
        write_trial(run, number, "completed", 1)
    write_trial(run, 29, "unhealthy", 1, miou=0.9)
    write_trial(run, 30, "completed", 1, miou=0.9)
    run.trial(30).write_guards(GuardOutcome(broken=("too slow",)))
    write_trial(run, 31, "failed", 1, miou=0.9)
    assert SearchLimits(study, run).reached() is None  # 29 trials count
    write_trial(run, 32, "completed", 1)
    assert end_of(study, run).value == pytest.approx(0.0)


def test_the_gain_in_one_of_several_objectives_ends_no_search(make_study: MakeStudy) -> None:
    with pytest.raises(ConfigError, match=r"stop_when\.regret: looks at mIoU alone.*set search"):
        make_study(SPACE, objectives=["miou", "params_m"], stop_when={"regret": 0.01})


SPANS = [TrialSpan(0.0, 10.0, 10), TrialSpan(0.0, 20.0, 10), TrialSpan(12.0, 32.0, 20)]


@pytest.mark.parametrize(
    ("seconds", "epochs", "expected"),
    [
        (100.0, 100, (32.0, 40.0)),  # the last trial
        (16.0, 100, (16.0, 10 + 8 + 4)),
        (100.0, 12, (8.0, 12)),  # 1.5 epochs per second until 10 s
        (100.0, 25, (18.0, 25)),  # 15 at 10 s, 16 at 12 s, then 1.5 per second
        (16.0, 25, (16.0, 22.0)),
        (100.0, 0, (0.0, 0)),
    ],
)
def test_a_simulated_search_ends_with_the_least_of_its_limits(
    seconds: float, epochs: int, expected: tuple[float, float]
) -> None:
    assert end_of_budget(SPANS, seconds, epochs) == pytest.approx(expected)


def test_epochs_are_cut_although_their_times_are_not_known() -> None:
    spans: Sequence[TrialSpan] = [TrialSpan(2.0, 2.0, 9)] * 4
    assert end_of_budget(spans, 3600.0, 20)[1] == 20
    assert end_of_budget(spans, 3600.0, 50)[1] == 36


COSTS = StepCosts(
    name="the config itself",
    params={},
    verdict=None,
    start_s=0.1,
    step_s=1.0,
    steps_per_epoch=10,
    val_image_s=None,
    num_val_images=None,
    peak_bytes=None,
    checkpoint_bytes=None,
)


def test_the_forecast_ends_with_the_budget(make_limited: MakeStudy) -> None:
    def of(**budget: Any) -> Forecast:
        return forecast(make_limited(**budget), Slots(1, 1), Measured(costs=[COSTS]))

    whole = of()
    assert whole.total_s == pytest.approx(4 * 90, rel=0.15)
    assert whole.cut_share == 0.0
    cut = of(epochs=9)
    assert cut.num_epochs == pytest.approx(9)
    assert cut.total_s == pytest.approx(90, rel=0.15)
    assert cut.cut_share == 1.0
    short = of(hours=0.05, epochs=30)  # 180 s
    assert short.total_s == pytest.approx(180)
    assert short.num_epochs == pytest.approx(18, rel=0.1)
    lines = "\n".join(forecast_lines(short, free=0, now=0.0))
    assert "ends the search before its last trial in 100 % of the simulated searches" in lines
    assert "budget" not in "\n".join(forecast_lines(whole, free=0, now=0.0))


def test_what_is_used_up_counts_in_the_forecast(make_limited: MakeStudy) -> None:
    measured = Measured(costs=[COSTS], elapsed_s=120.0)
    result = forecast(make_limited(hours=0.05), Slots(1, 1), measured)
    assert result.total_s == pytest.approx(180.0)
    assert result.left_s == pytest.approx(60.0)


def test_the_plan_names_the_budget(make_limited: MakeStudy) -> None:
    plan = search_plan(make_limited(epochs=30, hours=1.5))
    assert "budget:     1.5 hours and 30 epochs; the search ends when" in plan
    assert "budget:" not in search_plan(make_limited())
