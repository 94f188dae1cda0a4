"""Laws of how points are drawn and where the study lies: every sampler, databases, what earlier runs know."""

import json
import math
import statistics
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.yaml_io import write_yaml
from segtune.errors import ClusterError, ConfigError, RunError
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning import warm_start
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import load_study
from segtune.tuning.trial_history import BoundedHistory, history_for

SPACE = {"optim.lr": {"loguniform": [1e-5, 1e-1]}, "loss.focal.gamma": {"uniform": [0.0, 4.0]}}


@pytest.fixture
def make(tiny_config, tmp_path):
    def study(space=SPACE, config=(), **search):
        tree = {
            "config": tiny_config.override(dict(config)).dump(),
            "space": space,
            "search": {"scheduler": "none", "sampler": "tpe", **search},
        }
        (tmp_path / "s.yaml").write_text(write_yaml(tree))
        return load_study(tmp_path / "s.yaml")

    return study


def play(sampler, states=()):
    """Runs a study to its end; the score is best at lr 1e-2 and gamma 0, and `states` are the ends of the first trials."""
    drawn = []
    while (suggestion := sampler.suggest(f"t{len(drawn)}")) != Searcher.FINISHED:
        name, params = f"t{len(drawn)}", suggestion["params"]
        state = states[len(drawn)] if len(drawn) < len(states) else "completed"
        drawn.append(params)
        trial = sampler.run.trial(suggestion["number"])
        miou = 1 / (
            1 + abs(math.log10(params["optim.lr"]) + 2) + params.get("loss.focal.gamma", 0.0)
        )
        trial.append_epoch({"epoch": 1, "step": 1, "miou": miou, "seconds": 1.0})
        sampler.on_trial_result(name, {"epoch": 1, "miou": miou})
        if state != "pruned":
            trial.write_verdict(
                Verdict(state=state, kind="diverged" if state == "unhealthy" else "", epoch=1)
            )
        sampler.on_trial_complete(name, {"epoch": 1})
    return drawn


@pytest.mark.parametrize("name", ["random", "tpe", "gp"])
def test_corner_that_the_config_refuses_is_not_drawn(make, tmp_path, name):
    weights = {f"loss.{term}.weight": {"choice": [0.0, 1.0]} for term in ("focal", "dice", "ce")}
    study = make(
        {"optim.lr": SPACE["optim.lr"], **weights}, sampler=name, trials=40, seed=2**31 - 1
    )
    drawn = play(StudySearcher(study, SearchDir(tmp_path / name)))
    assert len(drawn) == 40
    assert all(any(params[weight] for weight in weights) for params in drawn)
    # The same again, so that a resumed search draws as an unbroken one.
    assert play(StudySearcher(study, SearchDir(tmp_path / f"{name} again"))) == drawn


@pytest.mark.parametrize("name", ["tpe", "cmaes", "gp"])
def test_sampler_with_a_model_comes_nearer_than_chance(make, tmp_path, name):
    def late(sampler):
        return statistics.median(
            abs(math.log10(p["optim.lr"]) + 2) + p["loss.focal.gamma"] for p in drawn[sampler][-20:]
        )

    drawn = {
        n: play(StudySearcher(make(trials=40, sampler=n), SearchDir(tmp_path / n)))
        for n in (name, "random")
    }
    assert late(name) < 0.7 * late("random")


@pytest.mark.parametrize("name", ["tpe", "cmaes", "gp", "random"])
def test_every_sampler_goes_on_as_if_unbroken(make, tmp_path, name):
    whole = play(StudySearcher(make(trials=18, sampler=name), SearchDir(tmp_path / "whole")))
    part = play(StudySearcher(make(trials=13, sampler=name), SearchDir(tmp_path / "part")))
    rest = play(StudySearcher(make(trials=18, sampler=name), SearchDir(tmp_path / "part")))
    assert part + rest == whole


def test_grid_is_every_combination_once_after_the_config(make, tmp_path):
    space = {
        "optim.lr": {"loguniform": [1e-5, 1e-1]},
        "augment.mix.kind": {"choice": ["none", "cutmix"]},
        "augment.mix.prob": {"uniform": [0.0, 1.0], "when": {"augment.mix.kind": "cutmix"}},
        "schedule.batch_size": {"int": [4, 8]},
    }
    study = make(space, trials=1000, sampler="grid", grid_points=3)
    points = study.points()
    assert points[0] == {"optim.lr": 1e-3, "augment.mix.kind": "none", "schedule.batch_size": 8}
    # Three rates and three sizes, without mixing or with three shares of it; the config itself is one of them.
    assert len(points) == study.num_trials == 3 * (1 + 3) * 3
    assert {p["optim.lr"] for p in points} == {1e-5, 1e-3, 1e-1}
    assert {p["schedule.batch_size"] for p in points} == {4, 6, 8}
    assert {p.get("augment.mix.prob") for p in points} == {None, 0.0, 0.5, 1.0}
    assert play(StudySearcher(study, SearchDir(tmp_path / "r"))) == points


def test_grid_of_a_part_is_the_start_of_the_whole(make):
    assert (
        make(trials=5, sampler="grid").points()[:5] == make(trials=500, sampler="grid").points()[:5]
    )


def test_cmaes_is_refused_for_choices(make):
    with pytest.raises(
        ConfigError,
        match=r"search\.sampler: cmaes needs settings that are numbers, but these are choices.*: optim\.name",
    ):
        make({**SPACE, "optim.name": {"choice": ["adamw", "sgd"]}}, sampler="cmaes")


def test_study_lies_in_a_database_and_is_rebuilt_there(make, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    study, run = make(trials=6, storage=url), SearchDir(tmp_path / "a" / "r")
    play(StudySearcher(study, run), ["completed", "pruned", "unhealthy"])
    StudySearcher(study, run)
    told = optuna.load_study(study_name="r", storage=url).trials
    assert [t.state for t in told[:3]] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
    ]
    assert len(told) == 6
    assert not run.journal.exists()
    with pytest.raises(ClusterError, match="holds a study 'r' already"):
        StudySearcher(study, SearchDir(tmp_path / "b" / "r"))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "not the URL of a database"),
        ("mysql+mysqldb://u:secret@host/x", "driver of this database is not installed"),
        ("sqlite:////no/such/folder/x.db", "the database does not answer"),
    ],
)
def test_database_that_cannot_be_used_is_told_without_the_password(make, tmp_path, url, why):
    with pytest.raises(ClusterError, match=why) as told:
        StudySearcher(make(storage=url), SearchDir(tmp_path / "r"))
    assert "secret" not in str(told.value)


def finished_run(make, tmp_path, name, **changes):
    study, run = make(trials=6, **changes), SearchDir(tmp_path / name)
    prepare_study(run, study, resume=False)
    play(StudySearcher(study, run), ["completed", "completed", "unhealthy", "pruned"])
    return run


def test_trials_of_the_same_config_count_as_known(make, tmp_path):
    old = finished_run(make, tmp_path, "old", config={"seed": 7})
    study, run = make(trials=3), SearchDir(tmp_path / "new")
    prepare_study(run, study, resume=False, earlier=warm_start.collect(study, [old.path]))
    sampler = StudySearcher(study, run)
    told = sampler.record.study.trials
    assert [t.state for t in told[:4]] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
    ]
    assert told[2].constraints["unhealthy"] > 0
    assert told[1].value == old.trial(1).read_epochs()[0]["miou"]
    # The new study draws its own trials, from 0, and knows the old ones after a resume too.
    assert sampler.suggest("a")["number"] == 0
    assert len(StudySearcher(study, run).record.study.trials) == 6 + 1 + 0


def test_points_of_another_config_are_only_tried_first(make, tmp_path):
    old = finished_run(make, tmp_path, "old", config={"schedule.epochs": 7})
    study = make(trials=8)
    known = warm_start.collect(study, [old.path])
    assert known.trials == ()
    best = max((0, 1, 3, 4, 5), key=lambda n: old.trial(n).read_epochs()[0]["miou"])
    assert known.points[0] == json.loads(old.trial(best).params.read_text())
    run = SearchDir(tmp_path / "new")
    prepare_study(run, study, resume=False, earlier=known)
    assert play(StudySearcher(study, run))[1:4] == list(known.points)


def test_run_outside_of_the_space_is_refused(make, tmp_path):
    old = finished_run(make, tmp_path, "old")
    with pytest.raises(RunError, match="none of its trials lies in the space"):
        warm_start.collect(make({"schedule.poly_power": {"uniform": [0.5, 2.0]}}), [old.path])


def test_space_may_be_widened_but_not_narrowed(make, tmp_path):
    run = finished_run(make, tmp_path, "old")
    wider = make(
        {
            "optim.lr": {"loguniform": [1e-6, 1.0]},
            "loss.focal.gamma": {"uniform": [0.0, 8.0]},
            "optim.name": {"choice": ["adamw", "sgd"]},
        },
        trials=9,
    )
    with pytest.raises(RunError, match=r"space optim\.lr(.|\n)*widen the space with --extend"):
        prepare_study(run, wider, resume=True)
    prepare_study(run, wider, resume=True, extend=True)
    sampler = StudySearcher(wider, run)
    assert sampler.remaining == 3
    assert [t.params["optim.name"] for t in sampler.record.study.trials] == ["adamw"] * 6
    play(sampler)
    narrower = make({**SPACE, "optim.lr": {"loguniform": [9e-4, 1e-1]}})
    with pytest.raises(RunError, match=r"trial 000\d: optim\.lr: .* is outside loguniform"):
        prepare_study(run, narrower, resume=True, extend=True)
    other = make(config={"schedule.epochs": 9}, space=wider.space.dump())
    with pytest.raises(RunError, match=r"config schedule\.epochs: 9 here, 2 there"):
        prepare_study(run, other, resume=True, extend=True)


def test_view_of_a_long_search_is_bounded_and_the_same_after_a_resume(make, tmp_path, monkeypatch):
    monkeypatch.setattr(BoundedHistory, "LIMIT", 15)
    monkeypatch.setattr(BoundedHistory, "BLOCK", 5)
    ends = ["completed"] * 12 + ["unhealthy", "pruned", "unhealthy"]
    whole = StudySearcher(make(trials=41), SearchDir(tmp_path / "whole"))
    drawn = play(whole, ends)
    assert whole.history is not None
    seen = whole.history.book.study.trials
    assert len(seen) <= 20
    assert len(whole.record.study.trials) == 41
    # The best and the sick stay in sight, whenever they were.
    best = max(drawn, key=lambda p: -abs(math.log10(p["optim.lr"]) + 2) - p["loss.focal.gamma"])
    assert best in [t.params for t in seen]
    assert sum(t.constraints.get("unhealthy", 0.0) > 0 for t in seen) == 2
    part = play(StudySearcher(make(trials=28), SearchDir(tmp_path / "part")), ends)
    assert part + play(StudySearcher(make(trials=41), SearchDir(tmp_path / "part"))) == drawn


def test_stopped_and_sick_trials_are_shown_to_gp_at_what_they_would_have_come_to(make):
    history = history_for("gp", make().space)
    assert history is not None
    curves = [
        ("completed", {1: 0.2, 2: 0.3, 4: 0.6}),  # gains 0.4 after epoch 1, 0.3 after epoch 2
        ("completed", {1: 0.1, 2: 0.4, 4: 0.2}),  # gains 0.3 and 0.0: the best counts, not the last
        ("pruned", {1: 0.2}),
        ("pruned", {1: 0.2, 2: 0.1}),
        ("unhealthy", {1: 0.9}),
    ]
    for number, (state, mious) in enumerate(curves):
        history.ask(number, optuna.samplers.RandomSampler(seed=number))
        history.tell(
            number, Verdict(state=state, kind="diverged" if state == "unhealthy" else ""), mious
        )
    history.ask(9, optuna.samplers.RandomSampler(seed=9))
    shown = history.book.study.trials
    assert [t.value for t in shown[:5]] == [
        0.6,
        0.4,
        pytest.approx(0.55),
        pytest.approx(0.35),
        pytest.approx(0.35),
    ]
    assert [t.state for t in shown] == [TrialState.COMPLETE] * 5 + [TrialState.RUNNING]


@pytest.mark.parametrize(
    ("sampler", "trials", "there"), [("gp", 11, True), ("gp", 10, False), ("tpe", 11, False)]
)
def test_what_the_first_model_imports_is_there_before_it_draws(sampler, trials, there):
    """In a process of its own: this one has imported everything."""
    script = f"""
import sys
from segtune.tuning.samplers import sampler_warmed_up
from segtune.tuning.space import Space
from segtune.tuning.study import SearchConfig
with sampler_warmed_up(SearchConfig(sampler={sampler!r}, trials={trials}), Space((), {{}})):
    pass
print("torch" in sys.modules, "optuna._gp.gp" in sys.modules, "optuna._gp.acqf" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == ([str(there)] * 3, "")
