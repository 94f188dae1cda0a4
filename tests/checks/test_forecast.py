"""The forecast of a search: costs, survival, the simulated rest of the search, and the disk."""

import json
import random
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.checks.cost_model import CONTENTION, CostModel, CostRow
from segtune.checks.disk_need import (
    NUM_BUNDLES,
    NUM_LAST_KEPT,
    DiskNeed,
    folder_bytes,
    format_bytes,
    refuse_full_disk,
    search_bytes,
)
from segtune.checks.dry_run_costs import problems_of
from segtune.checks.forecast import (
    Forecast,
    Measured,
    Slots,
    forecast,
    needed_disk,
    observed_survival,
)
from segtune.checks.forecast_outcome import compare_with_outcome
from segtune.checks.forecast_record import Forecaster, read_forecast
from segtune.checks.observed_trials import ObservedTrial, TrialObserver
from segtune.checks.simulated_search import Pace
from segtune.checks.step_costs import StepCosts
from segtune.checks.survival import Survival
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import RunError
from segtune.reporting.forecast_lines import (
    forecast_summary,
    left_words,
    made_words,
    outcome_caption,
    two_digits,
)
from segtune.reporting.plan import plan_forecast
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import Session
from segtune.runs.verdict import State, Verdict
from segtune.training.checkpoint import NUM_LAST_KEPT as KEPT_BY_TRAINING
from segtune.training.replay_bundle import KINDS
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

MakeStudy = Callable[..., Study]
COSTS = StepCosts(
    name="the config itself",
    params={},
    verdict=None,
    start_s=0.1,
    step_s=0.5,
    steps_per_epoch=3,
    val_image_s=0.1,
    num_val_images=5,
    peak_bytes=100_000_000,
    checkpoint_bytes=4_000_000,
)


@pytest.fixture
def make_study(tiny_config: ExperimentConfig, tmp_path: Path) -> MakeStudy:
    def make(config: dict[str, Any] | None = None, **search: Any) -> Study:
        tree = {
            "config": tiny_config.override({"schedule.epochs": 9, **(config or {})}).dump(),
            "space": {
                "optim.lr": {"loguniform": [1e-4, 1e-2]},
                "model.encoder": {"choice": ["mit_nano", "mit_b0"]},
            },
            "search": {"trials": 10, "sampler": "random", "scheduler": "none", **search},
        }
        (tmp_path / "s.yaml").write_text(write_yaml(tree))
        return load_study(tmp_path / "s.yaml")

    return make


def known(number: float | None) -> float:
    assert number is not None
    return number


def known_need(need: DiskNeed | None) -> DiskNeed:
    assert need is not None
    return need


def rows_of(costs: dict[str, float], *, is_of_steps: bool = False) -> list[CostRow]:
    params = {"optim.lr": 1e-3}
    return [CostRow({**params, "model.encoder": e}, s, is_of_steps) for e, s in costs.items()]


def test_a_corner_says_what_a_choice_costs(make_study: MakeStudy) -> None:
    model = CostModel(make_study().space, rows_of({"mit_nano": 2.0, "mit_b0": 8.0}))
    own, other = ({"optim.lr": 1e-4, "model.encoder": name} for name in ("mit_nano", "mit_b0"))
    assert model.predict(own) == pytest.approx(2.0, rel=0.05)
    assert model.predict(other) == pytest.approx(8.0, rel=0.05)


def test_epochs_of_the_search_correct_steps_that_were_measured_alone(
    make_study: MakeStudy,
) -> None:
    space = make_study().space
    alone = rows_of({"mit_nano": 2.0, "mit_b0": 8.0}, is_of_steps=True)
    before = CostModel(space, alone, slows_down=True)
    own = space.complete({})
    assert before.predict(own) == pytest.approx(2.0 * CONTENTION, rel=0.05)
    after = CostModel(space, [*alone, *rows_of({"mit_nano": 3.6})], slows_down=True)
    assert after.predict(own) == pytest.approx(3.6, rel=0.05)
    # What was seen of one model holds for the other one.
    assert after.predict({**own, "model.encoder": "mit_b0"}) > 1.5 * 8.0
    assert after.spread < before.spread


def test_validations_are_a_part_of_the_time_of_an_epoch() -> None:
    pace = Pace(num_epochs=10, val_every=4, val_ratio=2.0)  # 10 + 2 x 3 validations
    assert pace.units(10) == pytest.approx(10.0)
    assert pace.units(3) == pytest.approx(10 * 3 / 16)
    assert pace.units(4) == pytest.approx(10 * 6 / 16)


@pytest.mark.parametrize(
    ("rule", "epochs", "first", "fifth"),
    [
        ({"asha": {"grace_epochs": 1, "reduction": 3}}, [1, 3], 1.0, 1 / 5),
        ({"asha": {"grace_epochs": 1, "reduction": 3, "pause": True}}, [1, 3], 1.0, 1 / 5),
        ({"median": {"grace_epochs": 7, "min_trials": 4}}, [7, 8], 1.0, 1 / 2),
        ("none", [], None, None),
    ],
)
def test_the_rule_says_how_many_trials_pass_before_any_has_run(
    make_study: MakeStudy, rule: Any, epochs: list[int], first: float, fifth: float
) -> None:
    survival = Survival(make_study(scheduler=rule))
    assert survival.decision_epochs(1) == epochs
    if not epochs:
        return
    assert survival.pass_probability(1, epochs[0]) == first
    for number in range(1, 5):
        expected = survival.pass_probability(number, epochs[0])
        survival.record(number, epochs[0], passed=expected > 0.4)
    assert survival.pass_probability(0, epochs[0]) == 1.0
    assert survival.pass_probability(5, epochs[0]) == pytest.approx(fifth, rel=0.2)


def test_survival_follows_the_trials_of_the_search(make_study: MakeStudy) -> None:
    study = make_study(scheduler={"asha": {"grace_epochs": 3, "reduction": 3}})
    verdict = Verdict(state="pruned", epoch=3)
    stopped = [ObservedTrial(n, verdict=verdict, validated=(1, 2, 3)) for n in range(1, 9)]
    passed = [replace(t, verdict=None, validated=(1, 2, 3, 4)) for t in stopped]
    few = observed_survival(study, stopped).pass_probability(9, 3)
    many = observed_survival(study, passed).pass_probability(9, 3)
    assert few < 1 / 3 < many


def test_a_paused_trial_has_not_passed_until_it_goes_on(
    make_study: MakeStudy, run: SearchDir
) -> None:
    study = make_study(scheduler={"asha": {"grace_epochs": 1, "reduction": 3, "pause": True}})
    write_trial(run, 1, "paused", 1, now=1000.0)
    observer = TrialObserver(run)
    [waiting] = observer.read()
    assert waiting.has_ended
    run.trial(1).begin_attempt()
    run.trial(1).append_epoch(EpochRecord(2, validation=ValidationScores(0.5, 0.0)))
    [running] = observer.read()
    assert not running.has_ended
    before, after = (
        observed_survival(study, [trial]).pass_probability(2, 1) for trial in (waiting, running)
    )
    assert before < after


def test_the_disk_holds_the_checkpoints_of_the_trials_that_wait(make_study: MakeStudy) -> None:
    def need(**asha: Any) -> DiskNeed:
        rule = {"asha": {"grace_epochs": 1, "reduction": 3, **asha}}
        study = make_study({"checkpoint.keep_trials": 1}, trials=50, scheduler=rule)
        measured = Measured(costs=[COSTS])
        return known_need(needed_disk(forecast(study, Slots(1, 1), measured), study, measured))

    stopping, pausing = need(pause=False), need(pause=True, max_paused=4)
    # Four at each of the rungs 1 and 3, besides the best and trial 0.
    assert pausing.checkpoints == pytest.approx(5 * stopping.checkpoints, rel=0.01)
    assert pausing.checkpoints_peak > stopping.checkpoints_peak + 3.5 * stopping.checkpoints


def test_a_trial_ends_at_a_decision_or_at_full_length(make_study: MakeStudy) -> None:
    survival = Survival(make_study(scheduler={"asha": {"grace_epochs": 3, "reduction": 3}}))
    survival.num_ended = 10**6  # no trial has ended badly
    rng = random.Random(0)
    searches = [survival.copy() for _ in range(100)]
    ends = [[search.draw_end(n, 0, rng) for n in range(30)] for search in searches]
    assert {end for search in ends for end in search} == {3, 9}
    assert {search[0] for search in ends} == {9}  # the config itself
    # ASHA keeps a third, and a few more while few trials have reached the rung.
    assert sum(search.count(9) for search in ends) / 3000 == pytest.approx(0.36, abs=0.04)
    assert survival.draw_end(1, 9, rng) == 9


def test_trials_that_a_guard_ends_before_training_are_expected_again(
    make_study: MakeStudy,
) -> None:
    study = make_study(trials=40)
    refused = Verdict(state="pruned", kind="guard", epoch=0)
    trained = Verdict(state="completed", epoch=9)
    trials = [ObservedTrial(n, verdict=refused if n % 2 else trained) for n in range(20)]
    survival = observed_survival(study, trials)
    assert survival.untrained_probability(20) == 10 / (10 + 20)
    assert survival.untrained_probability(0) == 0.0
    assert observed_survival(study, trials[:1]).untrained_probability(20) == 0.0
    rng = random.Random(0)
    ends = [survival.copy().draw_end(20, 0, rng) for _ in range(300)]
    assert ends.count(0) / 300 == pytest.approx(1 / 3, abs=0.1)
    assert survival.copy().draw_end(20, 1, rng) > 0  # it is trained already
    result = forecast(study, Slots(1, 1), Measured(costs=[COSTS], trials=trials))
    assert result.num_epochs == pytest.approx(20 * 9 * 2 / 3, rel=0.15)


def test_trials_from_before_an_extension_have_the_config_itself_in_what_was_added(
    make_study: MakeStudy,
) -> None:
    study = make_study()
    of_other = replace(COSTS, params={"model.encoder": "mit_b0"}, step_s=2.0)

    def total_s(params: dict[str, Any]) -> float:
        ended = Verdict(state="completed", epoch=9)
        trial = ObservedTrial(0, params, ended, seconds=9.0, num_epochs=9)
        running = ObservedTrial(1, params, num_epochs=3, seconds=3.0)
        measured = Measured(costs=[COSTS, of_other], trials=[trial, running])
        return known(forecast(study, Slots(1, 1), measured).total_s)

    assert total_s({"optim.lr": 1e-3}) == total_s(study.space.complete({"optim.lr": 1e-3}))


def test_workers_of_one_trial_slow_each_other_down(make_study: MakeStudy) -> None:
    alone = Measured(costs=[COSTS], are_alone=True)
    one, two = (forecast(make_study(), Slots(1, n), alone) for n in (1, 2))
    assert known(two.epoch_s) == pytest.approx(CONTENTION * known(one.epoch_s), rel=0.05)


def test_a_search_of_full_trials_takes_what_its_steps_say(make_study: MakeStudy) -> None:
    study = make_study(config={"schedule.val_every": 3})
    measured = Measured(costs=[COSTS])
    result = forecast(study, Slots(1, 1), measured)
    # 3 steps and a third of a validation of 5 images.
    assert result.epoch_s == pytest.approx(1.5 + 0.5 / 3, rel=0.01)
    assert result.num_epochs == pytest.approx(90, rel=0.1)  # a few may end unhealthy
    assert result.total_s == pytest.approx(10 * 9 * (1.5 + 0.5 / 3), rel=0.15)
    two = forecast(study, Slots(2, 1), measured)
    assert known(two.total_s) == pytest.approx(known(result.total_s) / 2, rel=0.15)
    assert known(two.low_s) < known(two.total_s) < known(two.high_s)
    assert two.worker_hours == pytest.approx(2 * known(two.total_s) / 3600)


def test_a_stopping_rule_saves_time(make_study: MakeStudy) -> None:
    rule = {"asha": {"grace_epochs": 1, "reduction": 3}}
    full = forecast(make_study(), Slots(2, 1), Measured(costs=[COSTS]))
    halved = forecast(make_study(scheduler=rule), Slots(2, 1), Measured(costs=[COSTS]))
    assert known(halved.total_s) < 0.7 * known(full.total_s)
    assert halved.saved_share > 0.4 > 0.1 > full.saved_share


def test_without_measured_steps_only_epochs_and_not_seconds_are_known(
    make_study: MakeStudy,
) -> None:
    result = forecast(make_study(), Slots(2, 1), Measured())
    assert (result.total_s, result.epoch_s, result.disk_bytes) == (None, None, None)
    assert result.num_epochs > 80
    assert Forecast.parse(json.loads(json.dumps(result.dump()))) == result


def test_the_forecast_of_a_search_that_has_ended_is_what_it_took(make_study: MakeStudy) -> None:
    study = make_study()
    ended = Verdict(state="completed", epoch=9)
    params = study.space.complete({})
    trials = [
        ObservedTrial(n, params, ended, seconds=90.0, num_epochs=9, validated=tuple(range(1, 10)))
        for n in range(10)
    ]
    result = forecast(study, Slots(2, 1), Measured(costs=[COSTS], trials=trials, elapsed_s=480.0))
    assert (result.left_s, result.total_s, result.num_epochs) == (0.0, 480.0, 90.0)
    half = forecast(study, Slots(2, 1), Measured(costs=[COSTS], trials=trials[:5], elapsed_s=240.0))
    # The observed 10 s per epoch count, not the 2 s of the steps.
    assert half.total_s == pytest.approx(240 + 3 * 90, rel=0.2)


def test_the_time_between_two_sessions_is_no_progress_of_a_trial(make_study: MakeStudy) -> None:
    study = make_study(trials=1)
    trial = ObservedTrial(0, study.space.complete({}), num_epochs=3, seconds=30.0, last_step=100.0)

    def left_s(began: float, now: float) -> float:
        measured = Measured(trials=[trial], began=began, now=now)
        return known(forecast(study, Slots(1, 1), measured).left_s)

    assert left_s(began=50.0, now=100.0) == pytest.approx(60.0, rel=0.1)
    assert left_s(began=50.0, now=105.0) == pytest.approx(55.0, rel=0.1)
    assert left_s(began=5000.0, now=5001.0) == pytest.approx(60.0, rel=0.1)


def write_trial(run: SearchDir, number: int, state: State, num_epochs: int, now: float) -> None:
    trial = run.trial(number)
    params = {"optim.lr": 1e-3, "model.encoder": "mit_nano"}
    write_atomic(trial.params, json.dumps(params))
    write_atomic(trial.attempts, json.dumps({"started": now}) + "\n")
    for epoch in range(1, num_epochs + 1):
        scores = ValidationScores(miou=0.2, constant_miou=0.1)
        seconds = 2.0 * epoch
        record = EpochRecord(
            epoch=epoch, seconds=seconds, ended=now + 1 + seconds, validation=scores
        )
        trial.append_epoch(record)
    trial.write_verdict(Verdict(state=state, epoch=num_epochs))


@pytest.fixture
def run(make_study: MakeStudy, tmp_path: Path) -> SearchDir:
    run = SearchDir(tmp_path / "runs" / "a")
    prepare_study(run, make_study(trials=2))
    write_atomic(run.corners, json.dumps({"format": 1, "costs": [COSTS.dump()]}))
    return run


def test_the_first_forecast_stays_and_the_latest_follows_the_trials(
    make_study: MakeStudy, run: SearchDir
) -> None:
    study = make_study(trials=2)
    Forecaster(study, run, Slots(1, 1)).begin(may_refuse=True)
    first = read_forecast(run)
    assert first is not None
    assert first.first == first.latest
    write_trial(run, 0, "completed", 9, now=1000.0)
    # Another session, as after a crash.
    forecaster = Forecaster(study, run, Slots(1, 1))
    forecaster.begin(may_refuse=True)
    write_trial(run, 1, "completed", 9, now=1020.0)
    forecaster.update_if_due()
    record = read_forecast(run)
    assert record is not None
    assert record.first == first.first
    assert record.latest.num_ended == 2
    assert record.latest.left_s == 0.0
    assert [entry["num_ended"] for entry in record.history] == [0, 1, 2]
    assert [trial.launch_s for trial in TrialObserver(run).read()] == [1.0, 1.0]


def test_a_search_that_has_ended_is_compared_with_its_forecast(
    make_study: MakeStudy, run: SearchDir
) -> None:
    study = make_study(trials=2)
    Forecaster(study, run, Slots(1, 1)).begin(may_refuse=True)
    write_trial(run, 0, "completed", 9, now=1000.0)
    assert compare_with_outcome(study, run) == []
    write_trial(run, 1, "pruned", 3, now=1020.0)
    write_atomic(run.sessions, json.dumps(vars(Session(1000.0, 1030.0, 1, 1))) + "\n")
    rows = {row.name: row for row in compare_with_outcome(study, run)}
    assert rows["total time"].actual == 30.0
    assert rows["epochs"].actual == 12
    own = rows["one epoch of the config itself"]
    assert (own.actual, own.ratio) == (2.0, pytest.approx(2.0 / own.expected))
    assert compare_with_outcome(make_study(trials=3), run) == []


def test_training_runs_inside_the_folder_are_no_part_of_the_search(run: SearchDir) -> None:
    before = search_bytes(run)
    for part in (run.retrained.path, run.confirm.path, run.full.path):
        part.mkdir()
        (part / "weights").write_bytes(bytes(1000))
    assert search_bytes(run) == before == folder_bytes(run.path) - 3000


def test_the_disk_holds_the_pareto_front_and_the_bundles(make_study: MakeStudy) -> None:
    def need(**search: Any) -> DiskNeed:
        study = make_study({"checkpoint.keep_trials": 1}, trials=50, **search)
        measured = Measured(costs=[COSTS])
        return known_need(needed_disk(forecast(study, Slots(1, 1), measured), study, measured))

    one, front = need(), need(objectives=["miou", "params_m"])
    # With one objective, the best and trial 0.
    assert front.checkpoints == pytest.approx(25 * one.checkpoints, rel=0.01)
    # Without the bundles, the peak holds the checkpoints of whole trials.
    per_trial = one.checkpoints / 2
    peak = one.checkpoints_peak - NUM_BUNDLES * known(COSTS.checkpoint_bytes)
    assert peak / per_trial == pytest.approx(round(peak / per_trial), abs=0.01)
    assert front.checkpoints_peak >= front.checkpoints + NUM_BUNDLES * 4_000_000


def test_a_first_forecast_says_when_it_was_made(make_study: MakeStudy, run: SearchDir) -> None:
    study = make_study(trials=2)
    write_trial(run, 0, "completed", 9, now=1000.0)
    write_atomic(run.sessions, json.dumps(vars(Session(1000.0, 1022.0, 1, 1))) + "\n")
    Forecaster(study, run, Slots(1, 1)).begin(may_refuse=True)
    assert outcome_caption(run).startswith("Forecast after 1 trial(s) and 22 s, and what came out.")
    write_trial(run, 1, "completed", 9, now=1020.0)
    words = forecast_summary(study, run)["forecast"]
    assert words.endswith("; the forecast was made after 1 trial(s) and 22 s")
    first = Forecast(2, 9, Slots(1, 1), elapsed_s=0.01)
    assert made_words(first) == "before the first trial"


def test_an_old_forecast_does_not_say_that_the_search_is_about_to_end() -> None:
    latest = Forecast(2, 9, Slots(1, 1), written=1000.0, elapsed_s=50.0, total_s=60.0)
    assert left_words(latest, now=1005.0).startswith("about 0:05 left")
    assert left_words(latest, now=1020.0) == "about to end"
    assert left_words(latest, now=1000.0 + 601) == ""


def test_hours_have_two_digits_or_are_whole() -> None:
    assert [two_digits(hours) for hours in (0.039, 2.54, 9.97, 130.4)] == [
        *("0.039", "2.5", "10", "130")
    ]


def test_a_dry_run_names_steps_that_failed_and_steps_that_were_not_taken() -> None:
    failed = Verdict(state="unhealthy", kind="non-finite", evidence="the loss is nan")
    absent = Verdict(state="failed", kind="weights", evidence="no file")
    own = replace(COSTS, verdict=failed)
    other = StepCosts.unmeasured("other weights", {}, absent)
    assert list(problems_of([own, own, COSTS, other])) == [
        "these steps failed: the config itself: non-finite: the loss is nan; segtune check STUDY "
        "shows the way out",
        "the forecast leaves out other weights: weights: no file",
    ]


def test_a_plan_without_a_forecast_says_why(make_study: MakeStudy, tmp_path: Path) -> None:
    without = make_study(corner_steps=0)
    assert [*plan_forecast(without, tmp_path)] == [
        "forecast:   none, because search.corner_steps is 0"
    ]
    large = make_study(cpus_per_worker=100_000.0)
    assert [*plan_forecast(large, tmp_path)] == [
        "time:       not known: a trial does not fit on this machine"
    ]


def test_a_dry_run_measures_the_workers_of_all_slots(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def measured(study: Study, *, num_processes: int, cpus: float) -> list[StepCosts]:
        calls.append(num_processes)
        return [COSTS]

    monkeypatch.setattr("segtune.checks.dry_run_costs.measured_costs", measured)
    monkeypatch.setattr("segtune.reporting.plan._slots_here", lambda _: (Slots(3, 2), 1.0))
    assert any(
        line.startswith("time:       about 2.0 s") for line in plan_forecast(make_study(), tmp_path)
    )
    gpus = (Slots(3, 2, 1.0), 1.0)
    monkeypatch.setattr("segtune.reporting.plan._slots_here", lambda _: gpus)
    # Steps on a GPU are as slow as those of the search.
    assert any(
        line.startswith("time:       about 2.0 s") for line in plan_forecast(make_study(), tmp_path)
    )
    assert calls == [6, 1]


def test_a_damaged_forecast_is_no_forecast(make_study: MakeStudy, run: SearchDir) -> None:
    run.forecast.write_text('{"format": 1, "first"')
    assert read_forecast(run) is None
    Forecaster(make_study(trials=2), run, Slots(1, 1)).begin(may_refuse=True)
    assert read_forecast(run) is not None


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder on a disk of 8 MB: a real one if this machine allows to mount it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(8_000_000, 0, 8_000_000))
    yield folder


def test_a_search_does_not_start_on_a_disk_that_is_too_small(
    make_study: MakeStudy, small_disk: Path
) -> None:
    study = make_study(trials=2)
    run = SearchDir(small_disk / "a")
    prepare_study(run, study)
    write_atomic(run.corners, json.dumps({"format": 1, "costs": [COSTS.dump()]}))
    forecaster = Forecaster(study, run, Slots(1, 1))
    with pytest.raises(RunError, match=r"the disk has 8\.\d MB free, and the search needs") as e:
        forecaster.begin(may_refuse=True)
    assert "checkpoint.keep_trials=1, now 3" in str(e.value)
    assert "--out" in str(e.value)
    assert read_forecast(run) is None
    forecaster.begin(may_refuse=False)
    assert read_forecast(run) is not None


def test_on_a_disk_that_is_too_small_fewer_trials_may_wait(
    make_study: MakeStudy, small_disk: Path
) -> None:
    pausing = make_study(scheduler={"asha": {"grace_epochs": 1, "pause": True}})
    need = DiskNeed(checkpoints=0, checkpoints_peak=10**9, records=0)
    way = "let fewer trials wait (search.scheduler.asha.max_paused=1)"
    with pytest.raises(RunError) as refused:
        refuse_full_disk(pausing, SearchDir(small_disk / "a"), need)
    assert way in str(refused.value)
    with pytest.raises(RunError) as refused:
        refuse_full_disk(make_study(), SearchDir(small_disk / "a"), need)
    assert way not in str(refused.value)


def test_constants_and_units() -> None:
    assert NUM_LAST_KEPT == KEPT_BY_TRAINING
    assert len(KINDS) == NUM_BUNDLES
    assert [format_bytes(n) for n in (900, 3.8e7, 2.5e9)] == ["1 kB", "38 MB", "2.5 GB"]
