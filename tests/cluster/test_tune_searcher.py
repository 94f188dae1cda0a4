"""Optuna learns how each trial really ended, and the run folder alone brings a search back."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from segtune.cluster.run import replay_trials, stop_interrupted_trials
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.stopping import HyperbandBrackets
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def write_study(folder: Path, config: ExperimentConfig, **changes: Any) -> Study:
    tree = {
        "config": config.dump(),
        "space": {
            "optim.lr": {"loguniform": [1e-5, 1e-1]},
            "loss.focal.gamma": {"uniform": [0.0, 4.0]},
        },
        "search": {"sampler": "tpe", "trials": 14, "scheduler": "none"},
        **changes,
    }
    (folder / "s.yaml").write_text(write_yaml(tree))
    return load_study(folder / "s.yaml")


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    search = {
        "sampler": "tpe",
        "trials": 14,
        "known_good": [{"optim.lr": 0.01}],
        "scheduler": "none",
    }
    return write_study(tmp_path, tiny_config, search=search)


@pytest.fixture
def run(tmp_path: Path) -> SearchDir:
    return SearchDir(tmp_path / "r")


def validated(epoch: int, miou: float) -> EpochRecord:
    scores = ValidationScores(miou, constant_miou=0.0)
    return EpochRecord(epoch, step=epoch, seconds=1.0, validation=scores)


def play(searcher: StudySearcher, trials: int, states: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run trials of two epochs one after another and return their values.

    The score is best at lr 1e-2 and gamma 0. `states` are the ends of the first trials; "lost" is
    the death of the trial's process. All others are completed.
    """
    drawn: list[dict[str, Any]] = []
    for index in range(trials):
        name = f"tune-{index}-{id(searcher)}"
        suggestion = searcher.suggest(name)
        params = suggestion["params"]
        drawn.append(params)
        trial = searcher.run.trial(suggestion["number"])
        state = states[index] if index < len(states) else "completed"
        distance = abs(params["optim.lr"] - 1e-2) * 100 + params.get("loss.focal.gamma", 0.0)
        score = 1 / (1 + distance)
        for epoch in (1, 2):
            trial.append_epoch(validated(epoch, score * epoch / 2))
            searcher.on_trial_result(name, {"epoch": epoch, "miou": score * epoch / 2})
        if state in ("completed", "unhealthy", "failed"):
            kind = "" if state == "completed" else "non-finite"
            trial.write_verdict(Verdict.parse({"state": state, "kind": kind, "epoch": 2}))
        searcher.on_trial_complete(name, {"epoch": 2}, error=state == "lost")
    return drawn


def optuna_trials(searcher: StudySearcher) -> list[FrozenTrial]:
    return searcher.study_log.study.trials


def end_of(run: SearchDir, number: int) -> tuple[str, str, int, int]:
    verdict = run.trial(number).read_verdict()
    assert verdict is not None
    return verdict.state, verdict.kind, verdict.epoch, verdict.step


def test_first_points_are_the_config_and_the_known_good(study: Study, run: SearchDir) -> None:
    drawn = play(StudySearcher.from_run(study, run), 3)
    assert drawn[0] == {"optim.lr": 1e-3, "loss.focal.gamma": 2.0}
    assert drawn[1] == {"optim.lr": 0.01, "loss.focal.gamma": 2.0}
    assert drawn[2] not in drawn[:2]


def test_optuna_is_told_how_each_trial_ended(study: Study, run: SearchDir) -> None:
    without_retries = replace(study, search=study.search.override({"retries": 0}))
    searcher = StudySearcher.from_run(without_retries, run)
    play(searcher, 5, ["completed", "pruned", "unhealthy", "failed", "lost"])
    trials = optuna_trials(searcher)
    assert [t.state for t in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert trials[2].constraints["unhealthy"] > 0
    assert trials[0].value is not None
    assert trials[0].intermediate_values == pytest.approx(
        {1: trials[0].value / 2, 2: trials[0].value}
    )
    assert searcher.study_log.study.best_trial.number == 0
    assert end_of(run, 1)[:2] == ("pruned", "")
    assert end_of(run, 4)[:2] == ("failed", "lost")


def test_lost_trial_is_started_again_and_counts_once(study: Study, run: SearchDir) -> None:
    searcher = StudySearcher.from_run(study, run)
    drawn = play(searcher, 15, ["lost", "lost", "lost", "lost"])
    # Trial 0 runs three times and is then given up; trial 1 is lost once. The same points are drawn
    # as without any fault.
    assert drawn[:3] == [drawn[0]] * 3
    assert drawn[3] == drawn[4] != drawn[0]
    assert [t.state for t in optuna_trials(searcher)[:2]] == [TrialState.FAIL, TrialState.COMPLETE]
    assert [len(run.trial(n).read_attempts()) for n in range(3)] == [3, 2, 1]


def test_search_waits_for_the_last_trial_because_it_may_be_lost(
    study: Study, run: SearchDir
) -> None:
    searcher = StudySearcher.from_run(study, run)
    play(searcher, 13)
    last = searcher.suggest("last")
    assert last["number"] == 13
    assert searcher.suggest("none") is None
    searcher.on_trial_complete("last", error=True)
    assert searcher.suggest("again") == {**last, "attempt": 2}


def test_journal_opens_with_optuna_alone(study: Study, run: SearchDir) -> None:
    play(StudySearcher.from_run(study, run), 2)
    storage = JournalStorage(JournalFileBackend(str(run.journal)))
    assert len(optuna.load_study(study_name="r", storage=storage).trials) == 2


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_resumed_search_draws_what_an_unbroken_one_draws(
    study: Study, tmp_path: Path, cut: int
) -> None:
    whole = play(StudySearcher.from_run(study, SearchDir(tmp_path / "whole")), 14)
    run = SearchDir(tmp_path / "broken")
    first = play(StudySearcher.from_run(study, run), cut)
    # A crash in the middle of a write leaves a torn journal. It is rebuilt from the run folder.
    run.journal.write_bytes(run.journal.read_bytes()[:-7])
    resumed = StudySearcher.from_run(study, run)
    assert resumed.remaining == 14 - cut
    assert first + play(resumed, 14 - cut) == whole


def test_unfinished_trials_go_first_under_their_number(study: Study, run: SearchDir) -> None:
    searcher = StudySearcher.from_run(study, run)
    play(searcher, 2)
    for name in ("a", "b"):
        searcher.suggest(name)
    searcher.stop()
    searcher.on_trial_complete("a", {"epoch": 1})
    assert end_of(run, 2) == ("interrupted", "", 0, 0)
    assert searcher.suggest("c") == Searcher.FINISHED
    resumed = StudySearcher.from_run(study, run)
    assert resumed.remaining == 12
    assert [resumed.suggest(str(i))["number"] for i in range(3)] == [2, 3, 4]


def test_search_ends_after_the_last_trial(study: Study, run: SearchDir) -> None:
    searcher = StudySearcher.from_run(study, run)
    play(searcher, 14)
    assert searcher.suggest("x") == Searcher.FINISHED


def test_tpe_avoids_unhealthy_regions(study: Study, run: SearchDir) -> None:
    longer = replace(study, search=study.search.override({"trials": 60}))
    searcher = StudySearcher.from_run(longer, run)
    num_unhealthy_draws = 0
    for index in range(60):
        suggestion = searcher.suggest(f"t{index}")
        lr = suggestion["params"]["optim.lr"]
        is_unhealthy = lr > 1e-2
        if index >= 30:
            num_unhealthy_draws += is_unhealthy
        trial = run.trial(suggestion["number"])
        # Unhealthy trials have the better score before they end: only the constraint counts.
        score = 0.9 if is_unhealthy else 0.5 / (1 + abs(math.log10(lr) + 3))
        trial.append_epoch(validated(1, score))
        state, kind = ("unhealthy", "non-finite") if is_unhealthy else ("completed", "")
        trial.write_verdict(Verdict.parse({"state": state, "kind": kind}))
        searcher.on_trial_complete(f"t{index}", {"epoch": 1})
    # At random, a quarter of the last thirty draws would lie there: one decade of four.
    assert num_unhealthy_draws <= 2
    assert searcher.study_log.study.best_value <= 0.5


def test_values_are_on_disk_before_the_trial_starts(study: Study, run: SearchDir) -> None:
    suggestion = StudySearcher.from_run(study, run).suggest("a")
    assert json.loads(run.trial(0).params.read_text()) == suggestion["params"]


def test_running_trials_of_a_search_that_ends_are_left_to_a_resume(
    study: Study, run: SearchDir
) -> None:
    searcher = StudySearcher.from_run(study, run)
    searcher.suggest("a")
    run.trial(0).append_epoch(validated(1, 0.1))
    searcher.settle()
    assert end_of(run, 0) == ("interrupted", "", 1, 1)
    assert StudySearcher.from_run(study, run).unfinished == [0]


def test_optuna_is_not_told_about_epochs_after_a_stop(study: Study, run: SearchDir) -> None:
    searcher = StudySearcher.from_run(study, run)
    searcher.suggest("a")
    # Tune stops the trial at its first epoch. Its workers have trained the second by then, and
    # train the third before they notice.
    run.trial(0).append_epoch(validated(1, 0.1))
    run.trial(0).append_epoch(validated(2, 0.2))
    searcher.on_trial_result("a", {"epoch": 1, "miou": 0.1})
    searcher.on_trial_complete("a", {"epoch": 1})
    run.trial(0).append_epoch(validated(3, 0.3))
    assert end_of(run, 0) == ("pruned", "", 1, 1)
    for either in (searcher, StudySearcher.from_run(study, run)):
        assert optuna_trials(either)[0].intermediate_values == {1: 0.1}


@pytest.mark.parametrize("running", [1, 2])
def test_trial_is_stopped_at_a_resume_if_the_crash_came_before_its_stop(
    study: Study, run: SearchDir, running: int
) -> None:
    asha = {"grace_epochs": 1, "pause": False}
    search = SearchConfig.parse({"trials": 5, "scheduler": {"asha": asha}})
    halving = replace(study, config=study.config.override({"schedule.epochs": 4}), search=search)
    searcher = StudySearcher.from_run(halving, run)
    mious = [0.5] + [0.1] * running
    for number, miou in enumerate(mious):
        searcher.suggest(str(number))
        run.trial(number).append_epoch(validated(1, miou))
    run.trial(0).write_verdict(Verdict(state="completed", epoch=4))
    scheduler = StoppingRuleScheduler(stopping_rule(halving))
    stop_interrupted_trials(run, scheduler.rule, replay_trials(scheduler, run))
    assert isinstance(scheduler.rule, HyperbandBrackets)
    assert scheduler.rule.halvings[0].recorded[1] == dict(enumerate(mious))
    if running == 1:
        assert end_of(run, 1) == ("pruned", "", 1, 1)
        assert StudySearcher.from_run(halving, run).unfinished == []
    else:
        # The order in which several running trials reached the rung is not known: they continue.
        assert run.trial(1).read_verdict() is None
        assert StudySearcher.from_run(halving, run).unfinished == [1, 2]


class TrialThatEndsLate(TrialDir):
    """A trial whose process writes its verdict right after the driver has found none."""

    def read_verdict(self) -> Verdict | None:
        verdict = super().read_verdict()
        if verdict is None:
            own = Verdict(state="unhealthy", kind="non-finite", evidence="the loss is nan")
            TrialDir(self.path).write_verdict(own)
        return verdict


class RunOfLateTrials(SearchDir):
    def trial(self, number: int, attempt: int | None = None) -> TrialDir:
        return TrialThatEndsLate(super().trial(number).path, attempt)


def test_verdict_that_the_trial_wrote_first_is_what_optuna_is_told(
    study: Study, tmp_path: Path
) -> None:
    searcher = StudySearcher.from_run(study, RunOfLateTrials(tmp_path / "r"))
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"epoch": 1, "miou": 0.5})
    assert end_of(SearchDir(tmp_path / "r"), 0)[:2] == ("unhealthy", "non-finite")
    (trial,) = optuna_trials(searcher)
    assert trial.constraints["unhealthy"] > 0


# The tiny config has lr 1e-3 and mix.kind none, which these spaces do not contain.
WITHOUT_THE_CONFIG = {
    "optim.lr": {"loguniform": [3e-3, 1e-1]},
    "augment.mix.kind": {"choice": ["cutmix"]},
    "augment.mix.prob": {"uniform": [0.1, 1.0], "when": {"augment.mix.kind": "cutmix"}},
    "loss.focal.gamma": {"uniform": [0.0, 4.0]},
}
CONFIG_ITSELF = {"optim.lr": 1e-3, "augment.mix.kind": "none", "loss.focal.gamma": 2.0}


def outside_study(folder: Path, config: ExperimentConfig, sampler: str, **search: Any) -> Study:
    block = {"sampler": sampler, "trials": 14, "scheduler": "none", **search}
    return write_study(folder, config, space=WITHOUT_THE_CONFIG, search=block)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid"])
def test_trial_0_outside_the_space_is_trained_but_optuna_is_not_told(
    tiny_config: ExperimentConfig, tmp_path: Path, run: SearchDir, sampler: str
) -> None:
    searcher = StudySearcher.from_run(outside_study(tmp_path, tiny_config, sampler), run)
    drawn = play(searcher, 14)
    assert searcher.suggest("x") == Searcher.FINISHED
    assert drawn[0] == CONFIG_ITSELF == json.loads(run.trial(0).params.read_text())
    assert end_of(run, 0)[0] == "completed"
    assert all(params["augment.mix.kind"] == "cutmix" for params in drawn[1:])
    trials = optuna_trials(searcher)
    assert [t.params for t in trials] == drawn[1:]
    if searcher.history:
        shown = [t.params for t in searcher.history.study_log.study.trials]
        assert drawn[0] not in shown
        assert drawn[1] in shown


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid"])
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_search_whose_trial_0_lies_outside_the_space_resumes_as_if_unbroken(
    tiny_config: ExperimentConfig, tmp_path: Path, sampler: str, cut: int
) -> None:
    study = outside_study(tmp_path, tiny_config, sampler)
    whole = play(StudySearcher.from_run(study, SearchDir(tmp_path / "whole")), 14)
    run = SearchDir(tmp_path / "part")
    first = StudySearcher.from_run(study, run)
    drawn = play(first, cut)
    first.suggest("running")
    first.settle()
    resumed = StudySearcher.from_run(study, run)
    assert resumed.unfinished == [cut]
    assert drawn + play(resumed, 14 - cut) == whole


def test_trial_0_outside_the_space_is_started_again_after_a_machine_fault(
    tiny_config: ExperimentConfig, tmp_path: Path, run: SearchDir
) -> None:
    searcher = StudySearcher.from_run(outside_study(tmp_path, tiny_config, "gp"), run)
    drawn = play(searcher, 3, ["lost", "pruned"])
    assert drawn[:2] == [CONFIG_ITSELF] * 2
    assert len(run.trial(0).read_attempts()) == 2
    assert end_of(run, 0)[0] == "pruned"
    assert [t.params for t in optuna_trials(searcher)] == drawn[2:]


def test_search_tells_the_user_once_that_the_sampler_does_not_learn_from_trial_0(
    tiny_config: ExperimentConfig, tmp_path: Path, run: SearchDir, caplog: pytest.LogCaptureFixture
) -> None:
    study = outside_study(tmp_path, tiny_config, "gp")
    with caplog.at_level(logging.INFO, "segtune"):
        play(StudySearcher.from_run(study, run), 3)
    assert [record.getMessage() for record in caplog.records] == [
        "trial 0 is the config itself; optim.lr 0.001 lies outside loguniform [0.003, 0.1] and "
        "augment.mix.kind 'none' lies outside choice ['cutmix'], "
        "so the sampler does not learn from it"
    ]


def test_cmaes_copes_with_a_fixed_setting_and_a_trial_0_outside_the_space(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    space = {name: body for name, body in WITHOUT_THE_CONFIG.items() if "when" not in body}
    search = {"sampler": "cmaes", "trials": 24, "scheduler": "none"}
    study = write_study(tmp_path, tiny_config, space=space, search=search)
    whole = play(StudySearcher.from_run(study, SearchDir(tmp_path / "whole")), 24)
    assert whole[0] == CONFIG_ITSELF
    run = SearchDir(tmp_path / "part")
    first = play(StudySearcher.from_run(study, run), 17)
    assert first + play(StudySearcher.from_run(study, run), 7) == whole
