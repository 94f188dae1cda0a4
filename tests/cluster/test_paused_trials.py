"""Paused trials wait in the run folder: sampler, Optuna and a resumed search know them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from segtune.cluster.messages import DrawnTrial
from segtune.cluster.run import replay_trials, stop_interrupted_trials
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.cluster.verdict_scheduler import VerdictScheduler
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, StaleAttemptError
from segtune.runs.verdict import State, Verdict
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.stopping import PausingHalving
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

EPOCHS = 9  # rungs at 1 and 3


class Killed(Exception):
    """Stands for `kill -9` of the driver."""


@pytest.fixture
def run(tmp_path: Path) -> SearchDir:
    return SearchDir(tmp_path / "r")


@pytest.fixture
def make_study(tiny_config: ExperimentConfig, tmp_path: Path) -> Any:
    """Return a function that makes a study of so many trials that pauses them."""

    def make(trials: int, sampler: str = "random", **asha: Any) -> Study:
        rules = {"asha": {"grace_epochs": 1, "reduction": 3, "order": "score", **asha}}
        tree = {
            "config": tiny_config.override({"schedule.epochs": EPOCHS}).dump(),
            "space": {
                "optim.lr": {"loguniform": [1e-5, 1e-1]},
                "loss.focal.gamma": {"uniform": [0.0, 4.0]},
            },
            "search": {
                "trials": trials,
                "sampler": sampler,
                "scheduler": rules,
                # Better than trial 0, and each better than the next.
                "known_good": [{"optim.lr": 1e-2, "loss.focal.gamma": g} for g in (0.5, 1, 1.5)],
            },
        }
        (tmp_path / "s.yaml").write_text(write_yaml(tree))
        return load_study(tmp_path / "s.yaml")

    return make


def score_of(params: dict[str, Any], epoch: int) -> float:
    """Return the mIoU of a trial: it rises with the epochs, and is best at lr 1e-2 and gamma 0."""
    distance = abs(params["optim.lr"] - 1e-2) * 100 + params["loss.focal.gamma"]
    return epoch / (EPOCHS + 1) / (1 + distance)


class Session:
    """One session of a search with a single slot, without Ray and without training."""

    def __init__(self, study: Study, run: SearchDir, rule: PausingHalving | None = None) -> None:
        self.run = run
        made = rule or stopping_rule(study)
        assert isinstance(made, PausingHalving)
        self.rule = made
        self.scheduler = StoppingRuleScheduler(made)
        stop_interrupted_trials(run, made, replay_trials(self.scheduler, run))
        self.searcher = StudySearcher.from_run(study, run, made)
        self.trained: list[tuple[int, int]] = []  # number and epoch of a trial, in order

    def play(self, cut: int | None = None) -> list[tuple[int, int]]:
        """Search to the end and return what was trained; die after `cut` epochs."""
        step = 0
        while (suggestion := self.searcher.suggest(f"t{step}")) != Searcher.FINISHED:
            assert suggestion is not None  # nothing else runs
            self._train(f"t{step}", DrawnTrial.from_config(suggestion), cut)
            step += 1
        self.searcher.settle()
        return self.trained

    def _train(self, name: str, drawn: DrawnTrial, cut: int | None) -> None:
        trial = self.run.trial(drawn.number, drawn.attempt)
        for epoch in range(trial.progress()[0] + 1, EPOCHS + 1):
            miou = score_of(drawn.params, epoch)
            scores = ValidationScores(miou, constant_miou=0.0)
            trial.append_epoch(EpochRecord(epoch, step=epoch, validation=scores))
            self.trained.append((drawn.number, epoch))
            if len(self.trained) == cut:
                raise Killed
            result = {"epoch": epoch, "miou": miou}
            tune_trial = Trial("segtune", config=drawn.to_config(), stub=True)
            if self.scheduler.on_trial_result(None, tune_trial, result) == TrialScheduler.STOP:
                self.searcher.on_trial_complete(name, result)
                return
            self.searcher.on_trial_result(name, result)
        trial.write_verdict(Verdict(state="completed", epoch=EPOCHS, step=EPOCHS))
        self.searcher.on_trial_complete(name, {"epoch": EPOCHS})


class RecordedRule(PausingHalving):
    """Records what it is told about each trial."""

    def __init__(self) -> None:
        super().__init__([1, 3], reduction=3, max_paused=1)
        self.heard: dict[int, list[Any]] = {}

    def _hear(self, number: int, news: Any) -> None:
        self.heard.setdefault(number, []).append(news)

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        self._hear(number, params)

    def decide(self, number: int, epoch: int, score: float) -> bool:
        self._hear(number, epoch)
        return super().decide(number, epoch, score)

    def pause(self, number: int) -> None:
        self._hear(number, "pause")
        super().pause(number)

    def resume(self, number: int) -> None:
        self._hear(number, "resume")
        super().resume(number)

    def end(self, number: int, *, is_healthy: bool) -> None:
        self._hear(number, is_healthy)
        super().end(number, is_healthy=is_healthy)


def test_rule_learns_of_the_life_of_each_trial_and_again_at_a_resume(
    make_study: Any, run: SearchDir
) -> None:
    rule = RecordedRule()
    session = Session(make_study(4), run, rule)
    session.play()
    params = [trial.params for trial in read_trials(run)]
    # The best of three goes on after rung 1; it is the best of two at rung 3, which goes on when no
    # trial can be drawn any more. Of those that wait at rung 1, the worse is given up.
    assert rule.heard == {
        0: [params[0], *range(1, 10), True],
        1: [params[1], 1, "pause", "resume", 2, 3, "pause", "resume", *range(4, 10), True],
        2: [params[2], 1, "pause"],
        3: [params[3], 1, "pause", True],
    }
    again = RecordedRule()
    Session(make_study(4), run, again)
    assert again.heard == {
        0: [params[0], *range(1, 10), True],
        1: [params[1], *range(1, 10), True],
        2: [params[2], 1, "pause"],
        3: [params[3], 1, True],
    }


def test_unhealthy_end_is_told_to_the_rule(make_study: Any, run: SearchDir) -> None:
    rule = RecordedRule()
    session = Session(make_study(2), run, rule)
    session.searcher.suggest("a")
    run.trial(0).write_verdict(Verdict(state="unhealthy", kind="diverged"))
    session.searcher.on_trial_complete("a")
    again = RecordedRule()
    Session(make_study(2), run, again)
    assert rule.heard[0][1:] == again.heard[0][1:] == [False]


def ends(run: SearchDir) -> list[tuple[Any, ...]]:
    return [(t.params, t.state, t.epoch, t.miou) for t in read_trials(run)]


@pytest.mark.parametrize(("sampler", "num_trials"), [("random", 8), ("tpe", 14), ("gp", 14)])
def test_search_that_was_killed_makes_the_same_decisions(
    make_study: Any, tmp_path: Path, sampler: str, num_trials: int
) -> None:
    study = make_study(num_trials, sampler)
    whole = SearchDir(tmp_path / "whole")
    trained = Session(study, whole).play()
    states = {trial.state for trial in read_trials(whole)}
    assert {"completed", "paused"} <= states <= {"completed", "paused", "pruned"}
    # Some trial goes on after the next one has begun.
    assert any(
        epoch > 1 and (number + 1, 1) in trained[:at] for at, (number, epoch) in enumerate(trained)
    )
    assert len(set(trained)) == len(trained)
    for cut in range(1, len(trained), 2 if sampler == "random" else 15):
        run = SearchDir(tmp_path / f"cut{cut}")
        first = Session(study, run)
        with pytest.raises(Killed):
            first.play(cut)
        assert first.trained + Session(study, run).play() == trained, f"killed after {cut} epochs"
        assert ends(run) == ends(whole)


def test_search_with_more_trials_lets_paused_ones_go_on(make_study: Any, run: SearchDir) -> None:
    first = Session(make_study(4), run).play()
    waiting = {t.number for t in read_trials(run) if t.state == "paused"}
    assert waiting
    session = Session(make_study(14), run)
    assert session.rule.paused == waiting
    assert session.searcher.has_work
    second = session.play()
    assert not set(first) & set(second)
    gone_on = {number for number, _ in second} & waiting
    assert gone_on
    for number in gone_on:
        epochs = [record.epoch for record in run.trial(number).read_epochs()]
        assert epochs == list(range(1, len(epochs) + 1))
    assert not Session(make_study(14), run).searcher.has_work


def test_paused_trial_stays_running_in_optuna_until_the_session_ends(
    make_study: Any, run: SearchDir
) -> None:
    session = Session(make_study(5, "gp"), run)
    searcher = session.searcher
    for name in ("a", "b"):
        session._train(name, DrawnTrial.from_config(searcher.suggest(name)), None)
    shown = searcher.study_log.study.trials
    assert [trial.state for trial in shown] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert shown[1].intermediate_values == {1: score_of(shown[1].params, 1)}
    assert searcher.history is not None
    # The sampler learns from it at once.
    assert sorted(searcher.history.ended) == [0, 1]
    assert searcher.history.ended[1].state == "pruned"
    searcher.settle()
    assert searcher.study_log.study.trials[1].state == TrialState.PRUNED
    assert [t.state for t in read_trials(run)] == ["completed", "paused"]


def test_history_of_a_paused_trial_is_corrected_when_it_ends(
    make_study: Any, run: SearchDir
) -> None:
    session = Session(make_study(14, "tpe"), run)
    session.play()
    history = session.searcher.history
    assert history is not None
    results = {trial.number: trial for trial in read_trials(run)}
    assert sorted(history.ended) == list(range(14))
    for number, known in history.ended.items():
        assert max(known.mious.values()) == results[number].miou
        assert known.state == {"paused": "pruned"}.get(results[number].state, results[number].state)


def test_process_that_paused_may_not_write_once_the_trial_goes_on(
    make_study: Any, run: SearchDir
) -> None:
    session = Session(make_study(14), run)
    session.play()
    number = next(
        trial.number
        for trial in read_trials(run)
        if len(run.trial(trial.number).read_attempts()) > 1
    )
    first, second = run.trial(number).read_attempts()[:2]
    assert (first.paused, first.pause_epoch) == (None, None)
    assert second.paused is not None
    assert second.pause_epoch == 1
    with pytest.raises(StaleAttemptError):
        run.trial(number, 1).append_epoch(EpochRecord(epoch=2))


def test_hopeless_paused_trials_are_pruned(make_study: Any, run: SearchDir) -> None:
    session = Session(make_study(14, max_paused=1), run)
    session.play()
    states = [trial.state for trial in read_trials(run)]
    assert states.count("pruned") > 5
    assert session.rule.paused == {n for n, state in enumerate(states) if state == "paused"}
    assert session.rule.given_up() == []
    assert all(t.state != TrialState.RUNNING for t in session.searcher.study_log.study.trials)


def test_hopeless_paused_trials_are_pruned_at_a_resume_if_a_crash_came_before(
    make_study: Any, run: SearchDir
) -> None:
    Session(make_study(14), run).play()
    assert sum(trial.state == "paused" for trial in read_trials(run)) > 5
    session = Session(make_study(14, max_paused=1), run)
    waiting = {trial.number for trial in read_trials(run) if trial.state == "paused"}
    assert session.rule.paused == session.searcher.paused == waiting
    assert len(waiting) <= 2
    assert not session.searcher.has_work


def test_paused_trials_count_as_pruned_if_the_search_goes_on_without_pauses(
    make_study: Any, run: SearchDir
) -> None:
    Session(make_study(4), run).play()
    study = make_study(4, pause=False)
    searcher = StudySearcher.from_run(study, run, stopping_rule(study))
    assert not searcher.has_work
    states = [trial.state for trial in searcher.study_log.study.trials]
    assert TrialState.RUNNING not in states
    assert TrialState.PRUNED in states


def test_trial_that_is_lost_after_a_pause_is_started_again(make_study: Any, run: SearchDir) -> None:
    session = Session(make_study(3), run)
    searcher, rule = session.searcher, session.rule
    for step in range(3):
        session._train(f"t{step}", DrawnTrial.from_config(searcher.suggest(f"t{step}")), None)
    resumed = DrawnTrial.from_config(searcher.suggest("x"))
    assert resumed.attempt == 2
    searcher.on_trial_complete("x", error=True)
    assert resumed.number not in rule.paused
    again = DrawnTrial.from_config(searcher.suggest("y"))
    assert (again.number, again.attempt) == (resumed.number, 3)
    assert run.trial(again.number).progress()[0] == 1


def test_verdict_scheduler_pauses_if_the_rule_does(make_study: Any, run: SearchDir) -> None:
    scheduler = VerdictScheduler(stopping_rule(make_study(3)), run)
    drawn = DrawnTrial(1, {}, run.trial(1).begin_attempt())
    scores = ValidationScores(0.5, constant_miou=0.0)
    run.trial(1).append_epoch(EpochRecord(1, step=7, validation=scores))
    tune_trial = Trial("segtune", config=drawn.to_config(), stub=True)
    decision = scheduler.on_trial_result(None, tune_trial, {"epoch": 1, "miou": 0.5})
    assert decision == TrialScheduler.CONTINUE
    verdict = run.trial(1).read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.epoch, verdict.step) == ("paused", 1, 7)


def test_trial_that_was_killed_at_a_rung_is_judged_among_all_that_have_reached_it(
    make_study: Any, run: SearchDir
) -> None:
    # Trial 3 went on later than the others, and was killed before the rule judged its epoch 3.
    states: dict[int, State] = {0: "completed", **dict.fromkeys((1, 2, 4, 5), "paused")}
    for number, miou in enumerate([0.1, 0.2, 0.3, 0.7, 0.9, 0.8]):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": 1e-3, "loss.focal.gamma": 1.0}))
        for epoch in (1, 2, 3):
            scores = ValidationScores(miou, constant_miou=0.0)
            trial.append_epoch(EpochRecord(epoch, step=epoch, validation=scores))
        if number in states:
            trial.write_verdict(Verdict(state=states[number], epoch=3))
    session = Session(make_study(6), run)
    # It is the third of six, and the best of the first four.
    assert session.rule.paused == {1, 2, 3, 4, 5}
    verdict = run.trial(3).read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.epoch) == ("paused", 3)
