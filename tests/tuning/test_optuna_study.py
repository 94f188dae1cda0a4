"""Where the Optuna study is stored; it is the same with and without Optuna's private names."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from segtune.cluster.tune_searcher import StudySearcher
from segtune.errors import ClusterError
from segtune.runs.rundir import SearchDir
from segtune.tuning import optuna_study
from segtune.tuning.study import Study

MakeStudy = Callable[..., Study]
Play = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def without_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand for a version of Optuna that has other private names."""
    monkeypatch.setattr(optuna_study, "STUDY_NAMES", ("_storage_of_another_version",))
    monkeypatch.setattr(optuna_study, "TRIAL_NAMES", ("_id_of_another_version",))
    optuna_study._warn_once.cache_clear()


def test_study_in_a_database_is_rebuilt_there(
    make_study: MakeStudy, play: Play, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study, run = make_study(trials=6, storage=url), SearchDir(tmp_path / "a" / "r")
    play(StudySearcher.from_run(study, run), ["completed", "pruned", "unhealthy"])
    StudySearcher.from_run(study, run)
    trials = optuna.load_study(study_name="r", storage=url).trials
    assert [t.state for t in trials[:3]] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
    ]
    assert len(trials) == 6
    assert not run.journal.exists()


def test_study_of_another_search_run_is_not_deleted(
    make_study: MakeStudy, play: Play, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = make_study(trials=3, storage=url)
    play(StudySearcher.from_run(study, SearchDir(tmp_path / "a" / "r")))
    with pytest.raises(ClusterError, match=r"already holds a study 'r' \(of .*/a/r\)"):
        StudySearcher.from_run(study, SearchDir(tmp_path / "b" / "r"))
    assert len(optuna.load_study(study_name="r", storage=url).trials) == 3


def test_a_new_searcher_deletes_no_study(make_study: MakeStudy, tmp_path: Path) -> None:
    study, run = make_study(), SearchDir(tmp_path / "r")
    study_log = StudySearcher.from_run(study, run).study_log
    journal = run.journal.read_bytes()
    StudySearcher(study, run, study_log)
    assert run.journal.read_bytes() == journal


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "not the URL of a database"),
        ("mysql+mysqldb://u:secret@host/x", "driver of this database is not installed"),
        ("sqlite:////no/such/folder/x.db", "there is no folder /no/such/folder"),
    ],
)
def test_message_about_an_unusable_database_hides_the_password(
    make_study: MakeStudy, tmp_path: Path, url: str, problem: str
) -> None:
    with pytest.raises(ClusterError, match=problem) as caught:
        StudySearcher.from_run(make_study(storage=url), SearchDir(tmp_path / "r"))
    assert "secret" not in str(caught.value)


def essence(trial: FrozenTrial) -> tuple[Any, ...]:
    values = (trial.value, trial.intermediate_values, trial.constraints, trial.user_attrs)
    return (trial.number, trial.state, trial.params, trial.distributions, *values)


CONDITIONAL = {
    "optim.lr": {"loguniform": [1e-5, 1e-1]},
    "augment.mix.kind": {"choice": ["none", "cutmix"]},
    "augment.mix.prob": {"uniform": [0.1, 1.0], "when": {"augment.mix.kind": "cutmix"}},
    "schedule.batch_size": {"int": [2, 8]},
}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_documented_interface_gives_the_same_study(
    make_study: MakeStudy,
    play: Play,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    sampler: str,
) -> None:
    study = make_study(CONDITIONAL, trials=14, sampler=sampler, known_good=[{"optim.lr": 0.02}])
    states = ["completed", "pruned", "unhealthy", "failed"]

    def play_twice(name: str) -> StudySearcher:
        run = SearchDir(tmp_path / name)
        play(StudySearcher.from_run(study, run), states)
        return StudySearcher.from_run(study, run)

    expected = play_twice("private").study_log.study
    request.getfixturevalue("without_private_names")
    with caplog.at_level(logging.WARNING, "segtune"):
        documented = play_twice("documented").study_log.study
    assert [essence(t) for t in documented.trials] == [essence(t) for t in expected.trials]
    assert len(documented.trials) == 14
    assert len({t.state for t in documented.trials}) == 3
    # One warning for the study and one for its trials, however many trials there are.
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "has no Study._storage_of_another_version: segtune uses" in warnings[0]
    assert "has no Trial._id_of_another_version: segtune uses" in warnings[1]


@pytest.mark.usefixtures("without_private_names")
def test_without_private_names_the_sampler_state_is_neither_read_nor_restored() -> None:
    trial = optuna.create_study().ask()
    optuna_study.restore_sampler_state(trial, {"cma:generation": 3})
    assert optuna_study.read_sampler_state(trial) == {}
    assert trial.study.trials[0].system_attrs == {}


def test_sampler_state_is_restored_in_another_study() -> None:
    trial = optuna.create_study().ask()
    optuna_study.restore_sampler_state(trial, {"cma:generation": 3})
    assert optuna_study.read_sampler_state(trial) == {"cma:generation": 3}
