"""What a new study takes from earlier search runs, and when a space may change at a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from segtune.cluster.tune_searcher import StudySearcher
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning import warm_start
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.warm_start import KnownTrial

MakeStudy = Callable[..., Study]
Play = Callable[..., list[dict[str, Any]]]
FinishedRun = Callable[..., SearchDir]

SOME_SCORES = ValidationScores(0.5, 0.5)
LR = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
LR_AND_GAMMA = {**LR, "loss.focal.gamma": {"uniform": [0.0, 4.0]}}


@pytest.fixture
def finished_run(make_study: MakeStudy, play: Play, tmp_path: Path) -> FinishedRun:
    """Play a search of six trials in the folder `old`: the third unhealthy, the fourth pruned."""

    def make(**changes: Any) -> SearchDir:
        study, run = make_study(trials=6, **changes), SearchDir(tmp_path / "old")
        prepare_study(run, study, resume=False)
        states = ["completed", "completed", "unhealthy", "pruned"]
        play(StudySearcher.from_run(study, run), states)
        return run

    return make


def miou_of(run: SearchDir, number: int) -> float:
    miou = run.trial(number).read_epochs()[0].miou
    assert miou is not None
    return miou


@pytest.mark.parametrize(
    ("state", "mious", "expected"),
    [
        ("completed", {1: 0.5}, "completed"),
        ("completed", {}, "pruned"),
        ("pruned", {1: 0.5}, "pruned"),
        ("unhealthy", {}, "unhealthy"),
    ],
)
def test_completed_trial_without_a_score_counts_as_pruned(
    state: str, mious: dict[int, float], expected: str
) -> None:
    assert KnownTrial.of({"optim.lr": 0.1}, state, mious).state == expected


def test_trials_of_the_same_config_count_as_results(
    make_study: MakeStudy, finished_run: FinishedRun, tmp_path: Path
) -> None:
    old = finished_run(config={"seed": 7})
    study, run = make_study(trials=3), SearchDir(tmp_path / "new")
    prepare_study(run, study, resume=False, earlier=warm_start.collect(study, [old.path]))
    searcher = StudySearcher.from_run(study, run)
    trials = searcher.study_log.study.trials
    assert [t.state for t in trials[:4]] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
    ]
    assert trials[2].constraints["unhealthy"] > 0
    assert trials[1].value == miou_of(old, 1)
    # The new study numbers its own trials from 0. After a resume it has both, old and new.
    assert searcher.suggest("a")["number"] == 0
    assert len(StudySearcher.from_run(study, run).study_log.study.trials) == 6 + 1


def test_points_of_another_config_are_only_tried_first(
    make_study: MakeStudy, play: Play, finished_run: FinishedRun, tmp_path: Path
) -> None:
    old = finished_run(config={"schedule.epochs": 7})
    study = make_study(trials=8)
    known = warm_start.collect(study, [old.path])
    assert known.trials == ()
    best = max((0, 1, 3, 4, 5), key=lambda number: miou_of(old, number))
    assert known.points[0] == json.loads(old.trial(best).params.read_text())
    run = SearchDir(tmp_path / "new")
    prepare_study(run, study, resume=False, earlier=known)
    assert play(StudySearcher.from_run(study, run))[1:4] == list(known.points)


def test_run_outside_the_space_is_refused(make_study: MakeStudy, finished_run: FinishedRun) -> None:
    old = finished_run()
    study = make_study({"schedule.poly_power": {"uniform": [0.5, 2.0]}})
    with pytest.raises(RunError, match="none of its trials lies in the space"):
        warm_start.collect(study, [old.path])


def test_points_that_leave_out_a_setting_outside_the_space_are_not_taken(
    make_study: MakeStudy, finished_run: FinishedRun
) -> None:
    old = finished_run(space=LR, config={"schedule.epochs": 7})
    # The old trials have the config's own gamma, 2.0, which the new space does not contain.
    study = make_study({**LR, "loss.focal.gamma": {"uniform": [0.0, 1.0]}})
    with pytest.raises(RunError, match="none of its trials lies in the space"):
        warm_start.collect(study, [old.path])


def test_space_may_be_widened_and_narrowed_but_keeps_its_settings(
    make_study: MakeStudy, play: Play, finished_run: FinishedRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished_run()
    wider = make_study(
        {
            "optim.lr": {"loguniform": [1e-6, 1.0]},
            "loss.focal.gamma": {"uniform": [0.0, 8.0]},
            "optim.name": {"choice": ["adamw", "sgd"]},
        },
        trials=9,
    )
    with pytest.raises(RunError, match=r"space optim\.lr(.|\n)*change the space with --extend"):
        prepare_study(run, wider, resume=True)
    prepare_study(run, wider, resume=True, extend=True)
    searcher = StudySearcher.from_run(wider, run)
    assert searcher.remaining == 3
    assert [t.params["optim.name"] for t in searcher.study_log.study.trials] == ["adamw"] * 6
    play(searcher)
    without_name = make_study(LR_AND_GAMMA)
    with pytest.raises(RunError, match=r"trial 0006: optim\.name: not in the space"):
        prepare_study(run, without_name, resume=True, extend=True)
    narrow = {**wider.space.dump(), "optim.lr": {"loguniform": [9e-4, 1e-1]}}
    narrower = make_study(narrow, trials=12)
    lrs = [trial.params["optim.lr"] for trial in read_trials(run)]
    outside = [lr for lr in lrs[1:] if not 9e-4 <= lr <= 1e-1]
    assert outside
    caplog.set_level("INFO")
    prepare_study(run, narrower, resume=True, extend=True)
    assert f"{len(outside)} of 8 trials lie outside the new space" in caplog.text
    searcher = StudySearcher.from_run(narrower, run)
    assert len(searcher.study_log.study.trials) == len([lr for lr in lrs if 9e-4 <= lr <= 1e-1])
    play(searcher)
    assert all(9e-4 <= t.params["optim.lr"] <= 1e-1 for t in read_trials(run)[9:])
    other = make_study(config={"schedule.epochs": 9}, space=wider.space.dump())
    with pytest.raises(RunError, match=r"config schedule\.epochs: 9 here, 2 there"):
        prepare_study(run, other, resume=True, extend=True)


def test_space_that_lacks_the_config_itself_may_be_widened(
    make_study: MakeStudy, finished_run: FinishedRun
) -> None:
    # The config's own rate is 1e-3.
    run = finished_run(space={"optim.lr": {"loguniform": [1e-5, 1e-4]}})
    wider = make_study({"optim.lr": {"loguniform": [1e-6, 1e-4]}}, trials=6)
    prepare_study(run, wider, resume=True, extend=True)
    assert len(StudySearcher.from_run(wider, run).study_log.study.trials) == 5
    # Once the space contains the config, the sampler learns from trial 0 too.
    with_config = make_study({"optim.lr": {"loguniform": [1e-6, 1e-2]}}, trials=6)
    prepare_study(run, with_config, resume=True, extend=True)
    assert len(StudySearcher.from_run(with_config, run).study_log.study.trials) == 6


def test_extension_with_other_rungs_says_which_paused_trials_are_lost(
    make_study: MakeStudy, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def study(grace_epochs: int, trials: int) -> Study:
        asha = {"grace_epochs": grace_epochs, "reduction": 3}
        return make_study(
            LR,
            {"schedule.epochs": 9, "schedule.val_every": 1},
            trials=trials,
            sampler="random",
            scheduler={"asha": asha},
        )

    run = SearchDir(tmp_path / "other-rungs")
    prepare_study(run, study(1, trials=3))
    for number, epochs in enumerate((9, 1, 3)):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": 1e-3}))
        for epoch in range(1, epochs + 1):
            trial.append_epoch(EpochRecord(epoch, epoch, 1.0, validation=SOME_SCORES))
        trial.write_verdict(Verdict(state="paused" if number else "completed", epoch=epochs))
    prepare_study(run, study(1, trials=4), resume=True, extend=True)
    assert "rungs" not in caplog.text
    prepare_study(run, study(2, trials=5), resume=True, extend=True)
    assert "epochs 1, 3 and are now 2, 6" in caplog.text
    assert "1 of 2 paused trials can no longer go on" in caplog.text
