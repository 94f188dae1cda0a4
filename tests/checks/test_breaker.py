"""A search pauses if trial after trial ends for one cause, and proposes a narrower space."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.checks.breaker import Breaker
from segtune.checks.narrower_space import narrower_space
from segtune.checks.pause import explain
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import Source
from segtune.runs.results import TrialResult
from segtune.runs.rundir import SearchDir
from segtune.tuning.search_config import BreakerConfig, SearchConfig
from segtune.tuning.space_reader import read_space
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

DEFAULT = BreakerConfig()
SPACE = {
    "optim.lr": {"loguniform": [1e-5, 1.0]},
    "loss.focal.gamma": {"uniform": [0.0, 4.0]},
    "schedule.batch_size": {"choice": [4, 8, 16]},
}


def trial(number: int, kind: str = "", **params: Any) -> TrialResult:
    """Return a healthy trial, or one that has ended for a cause; `optim__lr` is optim.lr."""
    named = {name.replace("__", "."): value for name, value in params.items()}
    state = "unhealthy" if kind else "completed"
    miou = None if kind else 0.5
    return TrialResult(number, state, kind, reason=f"{kind}: why", miou=miou, params=named)


def ends(breaker: Breaker, kinds: list[str]) -> list[str]:
    return [str(breaker.ended(trial(number, kind)) or "") for number, kind in enumerate(kinds)]


def test_the_first_trials_with_one_cause_pause_the_search_once() -> None:
    breaker = Breaker(DEFAULT, is_new=True)
    said = "all of the first 5 trials have ended as diverged"
    assert ends(breaker, ["diverged"] * 7) == ["", "", "", "", said, "", ""]


@pytest.mark.parametrize("kinds", [["", *["diverged"] * 7], ["collapsed", *["diverged"] * 6]])
def test_another_end_among_the_first_trials_does_not_pause(kinds: list[str]) -> None:
    assert set(ends(Breaker(DEFAULT, is_new=True), kinds)) == {""}


def test_most_of_the_last_trials_pause_the_search_and_are_then_forgotten() -> None:
    kinds = ["", "", *["diverged"] * 8, *["diverged"] * 9]
    said = ends(Breaker(DEFAULT, is_new=True), kinds)
    assert [index for index, text in enumerate(said) if text] == [9]
    assert said[9] == "8 of the last 10 trials have ended as diverged"


def test_mixed_causes_do_not_pause() -> None:
    kinds = ["", *["diverged", "collapsed"] * 10]
    assert set(ends(Breaker(DEFAULT, is_new=True), kinds)) == {""}


def test_a_resumed_search_has_no_first_trials_and_interrupted_ones_do_not_count() -> None:
    assert set(ends(Breaker(DEFAULT, is_new=False), ["diverged"] * 9)) == {""}
    breaker = Breaker(BreakerConfig(first=2), is_new=True)
    assert breaker.ended(trial(0, "diverged")) is None
    assert breaker.ended(TrialResult(1, "interrupted", "diverged")) is None
    assert breaker.ended(trial(2, "diverged")) is not None


def test_trial_that_pauses_again_and_again_counts_once() -> None:
    breaker = Breaker(BreakerConfig(first=None, recent=4, share=0.6), is_new=True)
    paused = replace(trial(0), state="paused")
    assert not breaker.ended(paused)
    assert ends(breaker, ["", "diverged", "diverged"])[-1] == ""
    for _ in range(3):
        assert not breaker.ended(paused)
    assert "3 of the last 4 trials" in str(breaker.ended(trial(4, "diverged")))


def test_null_turns_both_off() -> None:
    breaker = Breaker(BreakerConfig(first=None, recent=None), is_new=True)
    assert set(ends(breaker, ["diverged"] * 30)) == {""}


def space_of(tree: dict[str, Any]) -> Any:
    return read_space(tree, ExperimentConfig(), Source(""))


def test_the_end_of_the_range_that_separates_unhealthy_from_healthy_is_cut_off() -> None:
    unhealthy = [
        trial(n, "diverged", optim__lr=lr, loss__focal__gamma=n % 4)
        for n, lr in enumerate([0.1, 0.3, 0.9, 0.05])
    ]
    healthy = [trial(9, optim__lr=1e-3, loss__focal__gamma=2.0), trial(10, optim__lr=1e-4)]
    found = narrower_space(space_of(SPACE), [*unhealthy, *healthy], "diverged")
    assert found is not None
    space, cut = found
    changed = {d.name: d.values for d in space.dimensions}
    assert changed["optim.lr"] == (1e-5, pytest.approx(0.0071, rel=0.02))  # between 1e-3 and 0.05
    assert changed["loss.focal.gamma"] == (0.0, 4.0)
    assert (cut.num_unhealthy, cut.num_healthy) == (4, 0)
    assert not any(space.missed_by(t.params) for t in healthy)
    assert all(space.missed_by(t.params) for t in unhealthy)


@pytest.mark.parametrize(("prior", "is_kept"), [(1e-3, True), (0.5, False)])
def test_a_prior_that_is_cut_off_is_named_and_removed(prior: float, is_kept: bool) -> None:
    space = space_of({"optim.lr": {"loguniform": [1e-5, 1.0], "prior": prior}})
    unhealthy = [trial(n, "diverged", optim__lr=lr) for n, lr in enumerate([0.1, 0.3, 0.9])]
    found = narrower_space(space, [*unhealthy, trial(9, optim__lr=1e-2)], "diverged")
    assert found is not None
    assert found[0].has_priors == is_kept
    assert ("and the prior 0.5 (medium))" in str(found[1])) != is_kept


def test_a_lower_end_is_cut_off_if_low_values_are_unhealthy() -> None:
    unhealthy = [trial(n, "no-progress", optim__lr=lr) for n, lr in enumerate([1e-5, 2e-5, 3e-5])]
    found = narrower_space(space_of(SPACE), [*unhealthy, trial(3, optim__lr=1e-3)], "no-progress")
    assert found is not None
    low, high = found[0].dimensions[0].values
    assert 3e-5 < low < 1e-3
    assert high == 1.0


def test_a_choice_that_only_unhealthy_trials_have_is_removed() -> None:
    unhealthy = [
        trial(n, "out-of-memory", schedule__batch_size=16, optim__lr=0.01) for n in range(3)
    ]
    healthy = [trial(5 + n, schedule__batch_size=8, optim__lr=0.01) for n in range(3)]
    found = narrower_space(space_of(SPACE), [*unhealthy, *healthy], "out-of-memory")
    assert found is not None
    assert found[0].dimensions[2].values == (4, 8)


def test_without_a_healthy_trial_the_cause_says_which_setting_goes_down() -> None:
    unhealthy = [trial(n, "diverged", optim__lr=lr) for n, lr in enumerate([0.1, 0.02, 0.9])]
    found = narrower_space(space_of(SPACE), unhealthy, "diverged")
    assert found is not None
    low, high = found[0].dimensions[0].values
    assert low == 1e-5
    assert high == pytest.approx(4.5e-4, rel=0.01)  # halfway, in decades, from 1e-5 to 0.02
    unhealthy = [trial(n, "out-of-memory", schedule__batch_size=b) for n, b in enumerate([16, 8])]
    found = narrower_space(space_of(SPACE), unhealthy, "out-of-memory")
    assert found is not None
    assert found[0].dimensions[2].values == (4,)


def test_no_space_is_proposed_if_unhealthy_and_healthy_trials_are_mixed() -> None:
    trials = [
        trial(n, "collapsed" if n % 2 else "", optim__lr=10.0 ** -(1 + n % 4)) for n in range(8)
    ]
    mixed = [
        *trials,
        *(trial(10 + n, optim__lr=t.params["optim.lr"]) for n, t in enumerate(trials)),
    ]
    assert narrower_space(space_of(SPACE), mixed, "collapsed") is None


def study_of(space: dict[str, Any]) -> Study:
    config = ExperimentConfig()
    return Study(config, read_space(space, config, Source("")), SearchConfig())


def test_the_pause_is_explained_and_the_proposed_study_can_be_loaded(tmp_path: Path) -> None:
    study, run = study_of({"optim.lr": SPACE["optim.lr"]}), SearchDir(tmp_path / "a")
    run.path.mkdir()
    trials = [trial(n, "diverged", optim__lr=0.1 * (n + 1)) for n in range(5)]
    breaker = Breaker(DEFAULT, is_new=True)
    (reason,) = [found for t in trials if (found := breaker.ended(t))]
    lines = list(explain(study, run, trials, reason))
    assert lines[:2] == [
        "the search pauses: all of the first 5 trials have ended as diverged",
        "for example trial 0004: diverged: why",
    ]
    assert lines[2].startswith("a narrower space: optim.lr: loguniform [1e-05, 0.001] in place of")
    command = f"segtune search --space {run.narrower} --out {tmp_path} --name a --extend"
    assert lines[3] == f"continue with it: {command}"
    assert load_study(run.narrower).space.dimensions[0].values == (1e-5, 1e-3)


def test_a_choice_that_a_condition_needs_is_not_removed(tmp_path: Path) -> None:
    space = {
        "optim.name": {"choice": ["adamw", "sgd"]},
        "optim.clip_norm": {"uniform": [1.0, 5.0], "when": {"optim.name": "sgd"}},
    }
    study, run = study_of(space), SearchDir(tmp_path / "a")
    run.path.mkdir()
    unhealthy = [trial(n, "diverged", optim__name="sgd", optim__clip_norm=2.0) for n in range(5)]
    healthy = [trial(9, optim__name="adamw")]
    breaker = Breaker(BreakerConfig(first=5), is_new=True)
    (reason,) = [found for t in unhealthy if (found := breaker.ended(t))]
    lines = list(explain(study, run, [*unhealthy, *healthy], reason))
    assert lines[-1].startswith("no narrower space follows")
    assert not run.narrower.exists()
