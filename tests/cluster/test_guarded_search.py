"""Guards and several objectives in a search: what samplers learn, who may win, what is printed."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from segtune.api import check_study_data, run_study
from segtune.cluster.messages import DrawnTrial
from segtune.cluster.supervisor import Supervisor
from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError, RunError
from segtune.export import main as export
from segtune.report import main as report
from segtune.runs.chosen_trial import part_of_best
from segtune.runs.pareto import objective_values
from segtune.runs.records import EpochRecord, NetworkProfile, ValidationScores
from segtune.runs.results import best_trial, read_trials, to_frame
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.search import main as search
from segtune.status import main as status
from segtune.tuning import warm_start
from segtune.tuning.confirm_study import plan_confirmation
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

MakeStudy = Callable[..., Study]
SPACE = {"optim.lr": {"loguniform": [1e-5, 1e-1]}, "model.drop_path": {"uniform": [0.0, 1.0]}}


@pytest.fixture
def make_study(tiny_config: ExperimentConfig, tmp_path: Path) -> MakeStudy:
    """Make a study of the tiny config from settings of the search block, and its file s.yaml."""

    def make(space: Mapping[str, Any] = SPACE, **settings: Any) -> Study:
        config = tiny_config.override({"schedule.epochs": 1, "model.drop_path": 0.0})
        tree = {"config": config.dump(), "space": dict(space), "search": settings}
        (tmp_path / "s.yaml").write_text(write_yaml(tree))
        return load_study(tmp_path / "s.yaml")

    return make


def start(searcher: StudySearcher, name: str) -> int:
    """Start the next trial; its network has 1 to 2 million parameters, by its drop_path."""
    drawn = searcher.suggest(name)
    trial = searcher.run.trial(drawn["number"])
    millions = 1 + drawn["params"]["model.drop_path"]
    trial.write_profile(NetworkProfile(int(millions * 1e6), ("road", "person"), 32, 32))
    return drawn["number"]


def end(searcher: StudySearcher, name: str, person: float, road: float = 0.5) -> None:
    """End a trial after an epoch with these IoUs."""
    trial = searcher.run.trial(searcher.numbers[name])
    miou = (person + road) / 2
    scores = ValidationScores(miou, constant_miou=0.0, class_iou=(road, person))
    trial.append_epoch(EpochRecord(1, step=1, validation=scores))
    searcher.on_trial_result(name, {"epoch": 1, "miou": miou})
    trial.write_verdict(Verdict(state="completed", epoch=1))
    searcher.on_trial_complete(name, {"epoch": 1})


def play(searcher: StudySearcher, persons: Mapping[int, float] = {}) -> list[dict[str, Any]]:
    """Run the trials that are left one after another; `persons` are IoUs of the second class."""
    while searcher.remaining:
        name = f"tune-{searcher.num_started}"
        end(searcher, name, persons.get(start(searcher, name), 0.5))
    assert searcher.suggest("none") == Searcher.FINISHED
    return [trial.params for trial in read_trials(searcher.run)]


def recorded(run: SearchDir) -> list[FrozenTrial]:
    """Return the trials of study.log, as optuna-dashboard reads them."""
    storage = JournalStorage(JournalFileBackend(str(run.journal)))
    return optuna.load_study(study_name=run.path.name, storage=storage).trials


GUARDS = {"class_iou_drop": 0.1, "params_m": 1.9, "class": {"person": 0.4}}


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2", "random"])
def test_a_trial_that_breaks_a_guard_cannot_win_and_the_sampler_is_told(
    make_study: MakeStudy, tmp_path: Path, sampler: str
) -> None:
    study, run = make_study(trials=14, sampler=sampler, guards=GUARDS), SearchDir(tmp_path / "r")
    searcher = StudySearcher.from_run(study, run)
    # Trial 1 would win: its classes have 0.9 and 0.38.
    assert (start(searcher, "a"), start(searcher, "b")) == (0, 1)
    end(searcher, "a", 0.5)
    end(searcher, "b", person=0.38, road=0.9)
    play(searcher)
    trials = read_trials(run)
    assert trials[1].broken_guards == (
        "class person has IoU 0.3800, 0.1200 below the config itself (0.5000), "
        "search.guards.class_iou_drop allows 0.1",
        "class person has IoU 0.3800, search.guards.class asks for 0.4",
    )
    best = best_trial(trials)
    assert best
    assert (best.number, best.miou) == (0, 0.5)
    for frozen, trial in zip(recorded(run), trials, strict=True):
        assert list(frozen.constraints) == ["params_m", "class_iou_drop", "class.person"]
        assert any(v > 0 for v in frozen.constraints.values()) == bool(trial.broken_guards)
    assert recorded(run)[1].constraints["class.person"] == pytest.approx(0.02)
    # A trial of 1.9 million parameters or more breaks a guard, too.
    large = [t.number for t in trials if t.params["model.drop_path"] > 0.9]
    assert [t.number for t in trials if t.broken_guards] == sorted({1, *large})
    assert plan_confirmation(study, run, 20, 1).candidates
    assert all(t.may_win for t in plan_confirmation(study, run, 20, 1).candidates)


def test_trials_that_end_before_trial_0_are_judged_again_when_it_ends(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(trials=3, sampler="tpe", guards={"class_iou_drop": 0.1})
    run = SearchDir(tmp_path / "r")
    searcher = StudySearcher.from_run(study, run)
    for name in ("a", "b", "c"):
        start(searcher, name)
    end(searcher, "b", 0.3)
    assert not run.trial(1).read_guards().broken
    assert [t.state for t in recorded(run)] == [TrialState.RUNNING] * 3
    end(searcher, "a", 0.5)
    assert "0.2000 below the config itself" in run.trial(1).read_guards().broken[0]
    assert [t.state for t in recorded(run)][:2] == [TrialState.COMPLETE] * 2
    assert recorded(run)[1].constraints["class_iou_drop"] == pytest.approx(0.1)
    assert searcher.history
    shown = searcher.history.study_log.study.trials
    assert [t.constraints["class_iou_drop"] > 0 for t in shown if t.constraints] == [False, True]
    end(searcher, "c", 0.45)
    assert not run.trial(2).read_guards().broken


def test_best_config_follows_when_trial_0_ends_last(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(trials=2, objectives=["miou", "params_m"], guards={"class_iou_drop": 0.1})
    run = SearchDir(tmp_path / "r")
    searcher = StudySearcher.from_run(study, run)
    supervisor = Supervisor(study, run, searcher)
    for name in ("a", "b"):
        start(searcher, name)
    for name, number, person, road in (("b", 1, 0.3, 0.9), ("a", 0, 0.5, 0.5)):
        end(searcher, name, person, road)
        ended: Any = SimpleNamespace(config=DrawnTrial(number, {}, 1).to_config())
        supervisor.on_trial_complete(0, [], ended)
        assert [path.stem for path in run.pareto.iterdir()] == [f"{number:04d}"]
        written = load_config(run.best)
        assert written.optim.lr == read_trials(run)[number].params["optim.lr"]


def test_an_extended_search_without_guards_forgets_what_they_said(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    run = SearchDir(tmp_path / "r")
    play(StudySearcher.from_run(make_study(trials=2, guards={"class": {"person": 0.9}}), run))
    assert all(trial.broken_guards for trial in read_trials(run))
    StudySearcher.from_run(make_study(trials=2), run)
    assert not any(trial.broken_guards for trial in read_trials(run))


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2"])
def test_a_resumed_search_has_the_constraints_and_draws_the_same_trials(
    make_study: MakeStudy, tmp_path: Path, sampler: str
) -> None:
    settings = {"sampler": sampler, "guards": GUARDS, "objectives": ["miou", "params_m"]}
    persons = {number: 0.3 + 0.01 * number for number in range(30)}
    study = make_study(trials=15, **settings)
    whole = play(StudySearcher.from_run(study, SearchDir(tmp_path / "a")), persons)
    run = SearchDir(tmp_path / "b")
    play(StudySearcher.from_run(make_study(trials=13, **settings), run), persons)
    before = [(t.values, t.constraints) for t in recorded(run)]
    for trial in run.trial_dirs():
        trial.guards.unlink()  # written again from the records
    searcher = StudySearcher.from_run(study, run)
    assert [(t.values, t.constraints) for t in recorded(run)] == before
    assert play(searcher, persons) == whole
    assert [t.broken_guards for t in read_trials(run)] == [
        t.broken_guards for t in read_trials(SearchDir(tmp_path / "a"))
    ]


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2", "random", "grid"])
def test_every_objective_is_told(make_study: MakeStudy, tmp_path: Path, sampler: str) -> None:
    study = make_study(trials=12, sampler=sampler, objectives=["miou", "params_m"])
    run = SearchDir(tmp_path / "r")
    searcher = StudySearcher.from_run(study, run)
    name = "unhealthy"
    number = start(searcher, name)
    run.trial(number).profile.unlink()
    run.trial(number).write_verdict(Verdict(state="unhealthy", kind="diverged"))
    searcher.on_trial_complete(name)
    play(searcher, {1: 0.7})
    trials = recorded(run)
    assert trials[0].state == TrialState.PRUNED
    for frozen, trial in zip(trials[1:], read_trials(run)[1:], strict=True):
        assert frozen.values == list(objective_values(trial, ("miou", "params_m")) or ())


def test_a_guard_on_an_unknown_class_ends_the_command(make_study: MakeStudy) -> None:
    study = make_study(guards={"class": {"disk": 0.5}})
    with pytest.raises(ConfigError, match=r"search\.guards\.class\.disk: .*did you mean 'disc'"):
        check_study_data(study)


@pytest.mark.ray
def test_a_real_search_ends_a_large_model_before_training_and_gives_a_front(
    cluster: None, make_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(
        space={"model.decoder_channels": {"choice": [16, 64, 512]}},
        trials=3,
        sampler="random",
        objectives=["miou", "params_m", "latency_ms"],
        guards={"params_m": 0.6},
        known_good=[{"model.decoder_channels": 512}, {"model.decoder_channels": 16}],
        cpus_per_worker=1.0,
    )
    options = ["--space", str(tmp_path / "s.yaml"), "--out", str(tmp_path), "--name", "r"]
    assert search(options) == 0
    run = SearchDir(tmp_path / "r")
    own, large, small = read_trials(run)
    assert (large.state, large.kind, large.epoch, large.miou) == ("pruned", "guard", 0, None)
    assert "million parameters, search.guards.params_m allows 0.6" in large.reason
    assert not run.trial(1).epochs.exists()
    front = [
        trial.id
        for trial, other in itertools.permutations((own, small), 2)
        if not all(a <= b for a, b in zip(costs(other), costs(trial), strict=True))
    ]
    assert sorted(path.stem for path in run.pareto.iterdir()) == sorted(front)
    assert small.id in front  # it has the fewest parameters
    written = load_config(run.pareto / f"{small.id}.yaml")
    assert written.model.decoder_channels == 16
    assert small.profile
    assert small.profile.latency_ms
    assert small.profile.precision == "float32"
    assert (small.profile.height, small.profile.width) == (64, 64)
    printed = capsys.readouterr().out
    assert f"{len(front)} trial(s) on the Pareto front" in printed
    assert "trial 0001 pruned: guard: " in printed
    assert "Pareto front" in run.report.read_text()
    result = run_study(load_study(tmp_path / "s.yaml"), tmp_path, "r", resume=True)
    assert sorted(result.pareto) == sorted(front)


def costs(trial: Any) -> tuple[float, ...]:
    return (-trial.miou, trial.profile.params_m, trial.profile.latency_ms)


@pytest.mark.ray
def test_a_search_whose_trials_all_break_a_guard_has_no_best_config(
    cluster: None, make_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(trials=1, guards={"class": {"background": 1.0}}, cpus_per_worker=1.0)
    result = run_study(study, tmp_path, "r")
    run = SearchDir(result.run)
    assert result.best is None
    assert not run.best.exists()
    assert "class background has IoU" in result.trials["broken_guards"][0]
    assert status([str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert "trial 0000 breaks a guard: class background has IoU" in printed
    assert "every healthy trial breaks a guard, so there is no best config" in printed
    out = tmp_path / "e.yaml"
    assert export([str(run.path), "--out", str(out)]) == 2
    assert "0000 completed, breaks a guard" in capsys.readouterr().err
    assert export([str(run.path), "--out", str(out), "--trial", "0"]) == 0
    assert report([str(run.path)]) == 0
    assert "breaks a guard: class background" in run.report.read_text()
    with pytest.raises(RunError, match="that keeps the guards"):
        plan_confirmation(study, run, 3, 1)


def test_a_table_without_measured_networks_has_the_columns_it_always_had(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    run = SearchDir(tmp_path / "r")
    searcher = StudySearcher.from_run(make_study(trials=1), run)
    start(searcher, "a")
    run.trial(0).profile.unlink()
    assert list(to_frame(read_trials(run)))[:6] == [
        *("trial", "state", "kind", "miou", "epoch", "seconds"),
    ]
    assert "latency_ms" not in to_frame(read_trials(run))


def test_no_checkpoint_is_deleted_while_trial_0_may_change_the_best(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(trials=3, guards={"class_iou_drop": 0.1})
    study = replace(study, config=study.config.override({"checkpoint.keep_trials": 1}))
    run = SearchDir(tmp_path / "r")
    searcher = StudySearcher.from_run(study, run)
    supervisor = Supervisor(study, run, searcher)

    def end_and_sweep(name: str, number: int, person: float, road: float) -> list[int]:
        end(searcher, name, person, road)
        ended: Any = SimpleNamespace(config=DrawnTrial(number, {}, 1).to_config())
        supervisor.on_trial_complete(0, [], ended)
        supervisor.wait_until_released(0.0)
        return [n for n in range(3) if run.trial(n).checkpoints.exists()]

    for name in ("a", "b", "c"):
        (run.trial(start(searcher, name)).checkpoints / "best-0001").mkdir(parents=True)
    assert end_and_sweep("b", 1, 0.3, 0.9) == [0, 1, 2]  # the best so far, but its class fell
    assert end_and_sweep("c", 2, 0.5, 0.55) == [0, 1, 2]
    assert end_and_sweep("a", 0, 0.5, 0.5) == [0, 2]  # and the config itself


def test_a_stopped_trial_is_told_at_once_and_breaks_no_class_guard(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(trials=3, sampler="tpe", guards=GUARDS | {"params_m": 5})
    run = SearchDir(tmp_path / "r")
    searcher = StudySearcher.from_run(study, run)
    for name in ("a", "b"):
        start(searcher, name)
    scores = ValidationScores(0.1, constant_miou=0.0, class_iou=(0.1, 0.1))
    run.trial(1).append_epoch(EpochRecord(1, step=1, validation=scores))
    searcher.on_trial_result("b", {"epoch": 1, "miou": 0.1})
    searcher.on_trial_complete("b", {"epoch": 1})
    assert recorded(run)[1].state == TrialState.PRUNED
    end(searcher, "a", 0.5)
    assert recorded(run)[1].constraints["class_iou_drop"] == 0.0
    assert recorded(run)[1].constraints["class.person"] == 0.0
    assert not run.trial(1).read_guards().broken
    assert not read_trials(run)[1].may_win


def test_guards_that_are_added_judge_the_trials_that_were_not_measured(
    make_study: MakeStudy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = SearchDir(tmp_path / "r")
    with run.locked():
        prepare_study(run, make_study(trials=2))
    play(StudySearcher.from_run(make_study(trials=2), run))
    for trial in run.trial_dirs():
        trial.profile.unlink()
    study = make_study(trials=2, guards={"params_m": 5, "class": {"person": 0.6}})
    classes = {"data.layout": "folder", "data.classes": ["road", "person"]}
    study = replace(study, config=study.config.override(classes))
    StudySearcher.from_run(study, run)
    for trial in read_trials(run):
        assert trial.broken_guards == (
            "class person has IoU 0.5000, search.guards.class asks for 0.6",
        )
    with run.locked():
        prepare_study(run, make_study(trials=2, guards={"params_m": 5}), resume=True, extend=True)
    assert "2 of 2 ended trials have no measured network" in caplog.text
    assert "search.guards.params_m cannot judge them" in caplog.text
    earlier = warm_start.collect(
        make_study(guards={"class": {"person": 0.6}}), [run.path], ("road", "person")
    )
    assert [trial.is_infeasible for trial in earlier.trials] == [True, True]


@pytest.mark.ray
def test_class_guards_after_a_proxy_judge_only_the_trials_at_full_length(
    cluster: None, make_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(
        trials=2,
        sampler="random",
        proxy={"resolution": 0.5, "carry": 2},
        guards={"class": {"background": 1.0}},
        cpus_per_worker=1.0,
    )
    result = run_study(study, tmp_path, "r")
    run = SearchDir(result.run)
    assert best_trial(read_trials(run))
    assert all(trial.broken_guards for trial in read_trials(run.full))
    assert result.best is None
    assert not run.best.exists()
    assert part_of_best(run).path == run.full.path
    assert export([str(run.path), "--out", str(tmp_path / "e.yaml")]) == 2
    assert "at full length that keeps the guards (0000 completed" in capsys.readouterr().err
