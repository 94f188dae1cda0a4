"""Laws of the sampler: verdicts reach Optuna as what they are, and the run folder alone brings everything back."""

import json
import math

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from segtune.cluster.run import prune_interrupted_trial, replay_trials
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.yaml_io import write_yaml
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.stopping import stopping_rule
from segtune.tuning.study import SearchConfig, load_study


@pytest.fixture
def study(tiny_config, tmp_path):
    tree = {
        "config": tiny_config.dump(),
        "space": {
            "optim.lr": {"loguniform": [1e-5, 1e-1]},
            "loss.focal.gamma": {"uniform": [0.0, 4.0]},
        },
        "search": {
            "sampler": "tpe",
            "trials": 14,
            "known_good": [{"optim.lr": 0.01}],
            "scheduler": "none",
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


def play(sampler, trials, states=()):
    """Runs trials one after another; the score is best at lr 1e-2 and gamma 0, `states` are the ends of the first ones."""
    drawn = []
    for index in range(trials):
        name = f"tune-{index}-{id(sampler)}"
        suggestion = sampler.suggest(name)
        trial = sampler.run.trial(suggestion["number"])
        drawn.append(suggestion["params"])
        state = states[index] if index < len(states) else "completed"
        score = 1 / (
            1
            + abs(suggestion["params"]["optim.lr"] - 1e-2) * 100
            + suggestion["params"]["loss.focal.gamma"]
        )
        for epoch in (1, 2):
            row = {"epoch": epoch, "step": epoch, "miou": score * epoch / 2, "seconds": 1.0}
            trial.append_epoch(row)
            sampler.on_trial_result(name, {**row, "training_iteration": epoch})
        if state in ("completed", "unhealthy", "failed"):
            trial.write_verdict(
                Verdict(state=state, kind="" if state == "completed" else "non-finite", epoch=2)
            )
        sampler.on_trial_complete(name, {"epoch": 2}, error=state == "lost")
    return drawn


def test_first_points_are_the_config_and_the_known_good(study, tmp_path):
    drawn = play(StudySearcher(study, SearchDir(tmp_path / "r")), 3)
    assert drawn[0] == {"optim.lr": 1e-3, "loss.focal.gamma": 2.0}
    assert drawn[1] == {"optim.lr": 0.01, "loss.focal.gamma": 2.0}
    assert drawn[2] not in drawn[:2]


def test_ends_are_told_as_what_they_are(study, tmp_path):
    without = study.__class__(study.config, study.space, study.search.override({"retries": 0}))
    sampler = StudySearcher(without, SearchDir(tmp_path / "r"))
    play(sampler, 5, ["completed", "pruned", "unhealthy", "failed", "lost"])
    told = sampler.record.study.trials
    assert [t.state for t in told] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert told[2].constraints["unhealthy"] > 0
    assert told[0].intermediate_values == {1: pytest.approx(told[0].value / 2), 2: told[0].value}
    assert sampler.record.study.best_trial.number == 0
    verdicts = [sampler.run.trial(n).read_verdict() for n in (1, 4)]
    assert [(v.state, v.kind) for v in verdicts if v] == [("pruned", ""), ("failed", "lost")]


def test_lost_trial_is_started_again_and_counts_once(study, tmp_path):
    sampler = StudySearcher(study, SearchDir(tmp_path / "r"))
    drawn = play(sampler, 15, ["lost", "lost", "lost", "lost"])
    # Trial 0 three times, then it is given up, and 1 is lost once: what was drawn is the same as without any fault.
    assert drawn[:3] == [drawn[0]] * 3
    assert drawn[3] == drawn[4] != drawn[0]
    told = sampler.record.study.trials
    assert [t.state for t in told[:2]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert [sampler.run.trial(n).attempts_begun() for n in range(3)] == [3, 2, 1]


def test_search_waits_for_what_may_be_lost_yet(study, tmp_path):
    sampler = StudySearcher(study, SearchDir(tmp_path / "r"))
    play(sampler, 13)
    assert sampler.suggest("last")["number"] == 13
    assert sampler.suggest("none") is None
    sampler.on_trial_complete("last", error=True)
    assert sampler.suggest("again") == {
        "number": 13,
        "params": sampler.study.space.complete(sampler.record.study.trials[13].params),
        "attempt": 2,
    }


def test_journal_opens_with_optuna_alone(study, tmp_path):
    sampler = StudySearcher(study, SearchDir(tmp_path / "r"))
    play(sampler, 2)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(sampler.run.journal))
    )
    assert len(optuna.load_study(study_name="r", storage=storage).trials) >= 2


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_resumed_sampler_draws_what_an_unbroken_one_draws(study, tmp_path, cut):
    whole = play(StudySearcher(study, SearchDir(tmp_path / "whole")), 14)
    run = SearchDir(tmp_path / "broken")
    first = play(StudySearcher(study, run), cut)
    # A crash in the middle of a write leaves a torn journal; the folder knows better.
    run.journal.write_bytes(run.journal.read_bytes()[:-7])
    resumed = StudySearcher(study, run)
    assert resumed.remaining == 14 - cut
    assert first + play(resumed, 14 - cut) == whole


def test_unfinished_trials_go_first_under_their_number(study, tmp_path):
    run = SearchDir(tmp_path / "r")
    sampler = StudySearcher(study, run)
    play(sampler, 2)
    for name in ("a", "b"):
        sampler.suggest(name)
    sampler.stopping = True
    sampler.on_trial_complete("a", {"epoch": 1})
    assert run.trial(2).read_verdict() == Verdict(state="interrupted")
    assert sampler.suggest("c") == Searcher.FINISHED
    again = StudySearcher(study, run)
    assert again.remaining == 12
    assert [again.suggest(str(i))["number"] for i in range(3)] == [2, 3, 4]


def test_sampler_ends_after_the_last_trial(study, tmp_path):
    sampler = StudySearcher(study, SearchDir(tmp_path / "r"))
    play(sampler, 14)
    assert sampler.suggest("x") == Searcher.FINISHED


def test_tpe_keeps_away_from_unhealthy_regions(study, tmp_path):
    sampler = StudySearcher(study, SearchDir(tmp_path / "r"))
    sampler.study = study.__class__(
        study.config, study.space, study.search.override({"trials": 60})
    )
    counts = {True: 0, False: 0}
    for index in range(60):
        suggestion = sampler.suggest(f"t{index}")
        bad = suggestion["params"]["optim.lr"] > 1e-2
        if index >= 30:
            counts[bad] += 1
        trial = sampler.run.trial(suggestion["number"])
        # Unhealthy trials have the better score before they die: only the constraint tells.
        score = 0.9 if bad else 0.5 / (1 + abs(math.log10(suggestion["params"]["optim.lr"]) + 3))
        trial.append_epoch({"epoch": 1, "step": 1, "miou": score, "seconds": 1.0})
        trial.write_verdict(
            Verdict(state="unhealthy" if bad else "completed", kind="non-finite" if bad else "")
        )
        sampler.on_trial_complete(f"t{index}", {"epoch": 1})
    # By chance a quarter of the last thirty draws would lie there (one decade of four).
    assert counts[True] <= 2
    assert sampler.record.study.best_value <= 0.5


def test_params_are_on_disk_before_the_trial_starts(study, tmp_path):
    sampler = StudySearcher(study, SearchDir(tmp_path / "r"))
    suggestion = sampler.suggest("a")
    assert json.loads(sampler.run.trial(0).params.read_text()) == suggestion["params"]


def test_trials_of_a_search_that_broke_off_are_left_to_a_resume(study, tmp_path):
    run = SearchDir(tmp_path / "r")
    sampler = StudySearcher(study, run)
    sampler.suggest("a")
    run.trial(0).append_epoch({"epoch": 1, "step": 1, "miou": 0.1, "seconds": 1.0})
    sampler.settle()
    assert run.trial(0).read_verdict() == Verdict(state="interrupted", epoch=1, step=1)
    assert StudySearcher(study, run).unfinished == [0]


def test_epochs_after_a_stop_are_not_told(study, tmp_path):
    run = SearchDir(tmp_path / "r")
    sampler = StudySearcher(study, run)
    sampler.suggest("a")

    def validate(epoch):
        run.trial(0).append_epoch(
            {"epoch": epoch, "step": epoch, "miou": epoch / 10, "seconds": 1.0}
        )

    # The workers of a group are ahead of Tune by an epoch when they are stopped at the first, and go on for another.
    validate(1)
    validate(2)
    sampler.on_trial_result("a", {"epoch": 1, "miou": 0.1})
    sampler.on_trial_complete("a", {"epoch": 1})
    validate(3)
    assert run.trial(0).read_verdict() == Verdict(state="pruned", epoch=1, step=1)
    for told in (sampler, StudySearcher(study, run)):
        assert told.record.study.trials[0].intermediate_values == {1: 0.1}


@pytest.fixture
def halving_study(study):
    return study.__class__(
        study.config.override({"schedule.epochs": 4}),
        study.space,
        SearchConfig.parse({"trials": 5, "scheduler": {"asha": {"grace_epochs": 1}}}),
    )


@pytest.mark.parametrize("running", [1, 2])
def test_trial_is_stopped_at_resume_where_the_crash_came_before_its_stop(
    halving_study, tmp_path, running
):
    run = SearchDir(tmp_path / "r")
    sampler = StudySearcher(halving_study, run)
    for number, miou in enumerate([0.5] + [0.1] * running):
        sampler.suggest(str(number))
        run.trial(number).append_epoch({"epoch": 1, "step": 7, "miou": miou, "seconds": 1.0})
    run.trial(0).write_verdict(Verdict(state="completed", epoch=4))
    scheduler = StoppingRuleScheduler(stopping_rule(halving_study))
    prune_interrupted_trial(run, replay_trials(scheduler, run))
    assert scheduler.rule.halvings[0].recorded[1] == dict(enumerate([0.5] + [0.1] * running))
    # Of several that were running nobody knows in which order they had come: they go on.
    verdict = Verdict(state="pruned", epoch=1, step=7) if running == 1 else None
    assert run.trial(1).read_verdict() == verdict
    assert StudySearcher(halving_study, run).unfinished == ([] if running == 1 else [1, 2])
