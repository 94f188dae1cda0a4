"""Pausing: the best trials of a rung go on, and one that waits is among them once it has to be."""

import math
import random
from pathlib import Path
from typing import Any

import pytest

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.curves.halving import ExpectedHalving
from segtune.tuning.stopping import PausingHalving, PausingRule, SuccessiveHalving
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def report(rule: PausingHalving, number: int, epoch: int, score: float) -> bool:
    """Report a score as the search does: a trial that does not continue is paused."""
    continues = rule.decide(number, epoch, score)
    if not continues and number:
        rule.pause(number)
    return continues


def test_trial_waits_until_a_rung_has_enough_trials_for_it() -> None:
    rule = PausingHalving([1, 3], reduction=3, max_paused=8)
    # One in three goes on: none of the first two, whatever their scores, then the best of three.
    assert [report(rule, n, 1, score) for n, score in enumerate([0.2, 0.5, 0.4])] == [False] * 3
    assert rule.next_paused(can_draw=True) == 1
    rule.resume(1)
    assert rule.next_paused(can_draw=True) is None
    assert [report(rule, n, 1, 0.1) for n in (3, 4)] == [False, False]
    assert rule.next_paused(can_draw=True) is None
    assert not report(rule, 5, 1, 0.0)  # the sixth: two of six go on, and trial 2 is second
    assert rule.next_paused(can_draw=True) == 2


def test_trial_among_the_best_of_a_rung_does_not_wait() -> None:
    rule = PausingHalving([1], reduction=2, max_paused=8)
    assert [report(rule, n, 1, score) for n, score in enumerate([0.3, 0.5])] == [False, True]


def test_the_highest_rung_at_which_a_trial_may_go_on_comes_first() -> None:
    rule = PausingHalving([1, 2], reduction=2, max_paused=8)
    for number, epoch, score in [
        *((1, 1, 0.1), (2, 1, 0.2), (3, 1, 0.3), (4, 1, 0.4)),
        *((4, 2, 0.5), (3, 2, 0.4)),
        *((5, 1, 0.25), (6, 1, 0.0)),
    ]:
        rule.decide(number, epoch, score)
        rule.pause(number)
    # The best of two may go on at rung 2, and of six, the third at rung 1.
    for expected in (4, 5, None):
        assert rule.next_paused(can_draw=True) == expected
        if expected is not None:
            rule.resume(expected)


def test_the_best_of_each_rung_goes_on_once_no_trial_can_be_drawn() -> None:
    rule = PausingHalving([1, 3], reduction=3, max_paused=8)
    assert not report(rule, 1, 1, 0.4)
    assert not report(rule, 2, 1, 0.5)
    assert rule.next_paused(can_draw=True) is None
    assert rule.next_paused(can_draw=False) == 2
    rule.resume(2)
    assert not report(rule, 2, 3, 0.6)
    assert rule.next_paused(can_draw=False) == 2
    rule.resume(2)
    assert rule.next_paused(can_draw=False) is None


def test_a_rung_decides_once_about_a_trial() -> None:
    rule = PausingHalving([2, 6], reduction=2, max_paused=8)
    assert rule.decide(0, 1, 0.9)
    assert not rule.decide(0, 2, 0.9)
    assert rule.decide(0, 2, 0.9)  # again, after a restart from an earlier checkpoint
    assert rule.decide(0, 3, 0.9)
    assert not rule.decide(0, 8, 0.5)  # the first validation after rung 6
    assert rule.recorded == {2: {0: 0.9}, 6: {0: 0.5}}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_trial_without_a_score_never_goes_on_and_is_given_up(score: float) -> None:
    rule = PausingHalving([1], reduction=2, max_paused=8)
    for number in (1, 2, 3):
        assert not report(rule, number, 1, score)
    assert rule.next_paused(can_draw=False) is None
    assert rule.given_up() == [1, 2, 3]


def test_healthy_trial_that_has_gone_on_keeps_its_place() -> None:
    rule = PausingHalving([1], reduction=2, max_paused=8)
    for number, score in enumerate([0.5, 0.4, 0.1], 1):
        report(rule, number, 1, score)
    assert rule.next_paused(can_draw=True) == 1
    rule.resume(1)
    rule.end(1, is_healthy=True)
    assert rule.next_paused(can_draw=True) is None


def test_the_worst_of_those_that_wait_are_given_up() -> None:
    rule = PausingHalving([1, 2], reduction=2, max_paused=1)
    for number, score in enumerate([0.9, 0.5, 0.4, 0.3], 1):
        rule.decide(number, 1, score)
        rule.pause(number)
    # Two of four go on: trials 1 and 2. Of the others, trial 3 waits.
    assert rule.given_up() == [4]
    rule.end(4, is_healthy=True)
    rule.resume(2)
    report(rule, 2, 2, 0.5)
    # Each rung keeps one.
    assert rule.given_up() == []
    report(rule, 5, 1, 0.2)
    assert rule.given_up() == [5]


def test_trials_that_may_go_on_are_not_given_up_however_many_they_are() -> None:
    rule = PausingHalving([1], reduction=2, max_paused=1)
    for number, score in enumerate([0.1, 0.5, 0.6, 0.0], 1):
        rule.decide(number, 1, score)
        rule.pause(number)
    assert rule.given_up() == [4]


def played(scores: list[float], rungs: list[int]) -> tuple[PausingHalving, dict[int, list[str]]]:
    """Play a search with one slot, 9 epochs long; return the rule and what became of each trial."""
    rule = PausingHalving(rungs, reduction=3, max_paused=100)
    epochs = dict.fromkeys(range(len(scores)), 0)
    events: dict[int, list[str]] = {number: [] for number in epochs}
    new = 0
    while True:
        number = rule.next_paused(can_draw=new < len(scores))
        if number is not None:
            rule.resume(number)
        elif new < len(scores):
            number, new = new, new + 1
        else:
            return rule, events
        while epochs[number] < 9:
            epochs[number] += 1
            if not rule.decide(number, epochs[number], scores[number]) and number:
                rule.pause(number)
                events[number].append(f"paused {epochs[number]}")
                break
        else:
            rule.end(number, is_healthy=True)
            events[number].append("completed")


def test_of_27_trials_nine_reach_the_second_rung_and_three_the_third() -> None:
    rng = random.Random(1)
    scores = [rng.random() for _ in range(27)]
    rule, events = played(scores, [1, 3])
    best = sorted(range(27), key=lambda number: -scores[number])
    assert {number for number in events if number in rule.recorded[3]} >= set(best[:9])
    completed = {number for number, ends in events.items() if ends[-1] == "completed"}
    assert completed >= {0, *best[:3]}
    # Asynchronous: a trial may go on before better ones are drawn, but not many do.
    assert len(rule.recorded[3]) <= 14
    assert len(completed) <= 7


def test_rule_that_is_told_the_end_of_a_search_in_another_order_is_the_same() -> None:
    rng = random.Random(2)
    scores = [rng.random() for _ in range(20)]
    rule, events = played(scores, [1, 3])
    again = PausingHalving([1, 3], reduction=3, max_paused=100)
    for number in reversed(range(20)):
        for epoch in (1, 3):
            if number in rule.recorded[epoch]:
                again.decide(number, epoch, scores[number])
        if events[number][-1].startswith("paused"):
            again.pause(number)
        else:
            again.decide(number, 9, scores[number])
            again.end(number, is_healthy=True)
    assert (again.recorded, again.paused) == (rule.recorded, rule.paused)
    assert [again.decide(20, 1, 0.5), again.next_paused(can_draw=True)] == [
        rule.decide(20, 1, 0.5),
        rule.next_paused(can_draw=True),
    ]


def study_with(folder: Path, config: ExperimentConfig, **search: Any) -> Study:
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}, "loss.focal.gamma": {"uniform": [0.0, 4.0]}}
    tree = {"config": config.dump(), "space": space, "search": search}
    (folder / "s.yaml").write_text(write_yaml(tree))
    return load_study(folder / "s.yaml")


def test_setting_of_asha_makes_it_pause(tiny_config: ExperimentConfig, tmp_path: Path) -> None:
    config = tiny_config.override({"schedule.epochs": 12})
    asha = {"grace_epochs": 1, "pause": True, "max_paused": 3}
    study = study_with(tmp_path, config, scheduler={"asha": asha})
    rule = stopping_rule(study)
    assert isinstance(rule, PausingRule)
    assert isinstance(rule, PausingHalving)
    assert list(rule.pause_epochs) == [1, 3, 9]
    assert study.max_paused == 9
    assert not isinstance(SuccessiveHalving([1], 2), PausingRule)
    assert isinstance(stopping_rule(study_with(tmp_path, config)), ExpectedHalving)
    by_score = {"asha": {**asha, "order": "score"}}
    assert not isinstance(
        stopping_rule(study_with(tmp_path, config, scheduler=by_score)), ExpectedHalving
    )


@pytest.mark.parametrize(
    "search",
    [
        {"scheduler": {"asha": {"pause": False}}},
        {"scheduler": {"asha": {"brackets": 2}}},
        {"sampler": "cmaes"},
        {"scheduler": {"median": {}}},
        {"scheduler": "none"},
    ],
)
def test_no_trial_is_paused_where_that_is_impossible_or_unwanted(
    tiny_config: ExperimentConfig, tmp_path: Path, search: dict[str, Any]
) -> None:
    config = tiny_config.override({"schedule.epochs": 12})
    study = study_with(tmp_path, config, **search)
    assert not isinstance(stopping_rule(study), PausingRule)
    assert study.max_paused == 0


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"scheduler": {"asha": {"pause": True, "brackets": 2}}}, "set brackets: 1, or pause: fal"),
        ({"scheduler": {"asha": {"pause": True}}, "sampler": "cmaes"}, "use sampler curves or tpe"),
    ],
)
def test_what_does_not_work_with_a_pause_is_refused(
    tiny_config: ExperimentConfig, tmp_path: Path, search: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study_with(tmp_path, tiny_config.override({"schedule.epochs": 12}), **search)


def waiting(scores: dict[int, float], reduction: int = 3, max_paused: int = 8) -> PausingHalving:
    """Return a rule whose trials wait at rung 1, except for trial 0."""
    rule = PausingHalving([1, 3], reduction=reduction, max_paused=max_paused)
    for number, score in scores.items():
        report(rule, number, 1, score)
    return rule


def test_trial_that_was_given_up_takes_no_place() -> None:
    rule = waiting({1: 0.5, 2: 0.4, 3: 0.3}, max_paused=1)
    assert rule.given_up() == [3]
    rule.end(3, is_healthy=True)
    rule.recorded[1][3] = 0.6  # the order by expected ends may turn around
    assert rule.next_paused(can_draw=True) == 1
    assert rule.next_paused(can_draw=False) == 1


def test_trial_that_ends_unhealthy_leaves_its_place_to_another() -> None:
    rule = waiting({1: 0.5, 2: 0.4, 3: 0.3})
    rule.resume(1)
    assert rule.next_paused(can_draw=True) is None
    rule.end(1, is_healthy=False)
    assert rule.next_paused(can_draw=True) == 2


def test_trial_that_waits_before_the_first_rung_is_given_up() -> None:
    """An extended search may have other rungs than the one at which the trial was paused."""
    rule = PausingHalving([3, 9], reduction=3, max_paused=8)
    assert rule.decide(1, 1, 0.5)
    rule.pause(1)
    assert rule.given_up() == [1]
    assert rule.next_paused(can_draw=False) is None
