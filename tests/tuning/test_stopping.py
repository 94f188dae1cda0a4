"""Stopping rules: scores decide, a non-finite score is the worst, a replay gives the same rungs."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial

from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.stopping import HyperbandBrackets, MedianRule, SuccessiveHalving
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def test_below_the_reduction_only_the_best_so_far_continues() -> None:
    halving = SuccessiveHalving([2], reduction=3)
    decisions = [halving.decide(n, 2, score) for n, score in enumerate([0.5, 0.4, 0.6])]
    assert decisions == [True, False, True]


def test_one_trial_in_reduction_continues() -> None:
    halving = SuccessiveHalving([1], reduction=2)
    for number, score in enumerate([0.1, 0.2, 0.3, 0.4]):
        halving.decide(number, 1, score)
    # Trial 4 is the fifth at the rung, so two may continue; 0.35 is second.
    assert halving.decide(4, 1, 0.35)
    assert not halving.decide(5, 1, 0.15)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_score_that_is_not_finite_is_the_worst_even_alone(score: float) -> None:
    halving = SuccessiveHalving([1], reduction=2)
    assert not halving.decide(0, 1, score)
    assert halving.decide(1, 1, 0.0)


def test_a_rung_decides_once_about_a_trial_and_no_rung_decides_between_rungs() -> None:
    halving = SuccessiveHalving([2, 6], reduction=2)
    assert halving.decide(0, 2, 0.9)
    assert halving.decide(1, 1, 0.0)
    assert not halving.decide(1, 2, 0.1)
    assert halving.decide(1, 3, 0.1)
    # The first validation after rung 6 may be at epoch 8.
    assert halving.decide(0, 8, 0.5)
    assert halving.recorded == {2: {0: 0.9, 1: 0.1}, 6: {0: 0.5}}


def test_without_rungs_no_trial_is_stopped() -> None:
    assert SuccessiveHalving([], reduction=2).decide(0, 5, -1.0)


def test_replayed_rungs_equal_those_of_an_unbroken_search() -> None:
    rng = random.Random(0)
    live = SuccessiveHalving([1, 3], 3)
    stopped: set[int] = set()
    validated: list[dict[int, float]] = []
    for number in range(30):
        mious: dict[int, float] = {}
        for epoch, miou in enumerate((rng.random() for _ in range(9)), 1):
            mious[epoch] = miou
            if not live.decide(number, epoch, max(mious.values())):
                stopped.add(number)
                break
        validated.append(mious)
    scheduler = StoppingRuleScheduler(SuccessiveHalving([1, 3], 3))
    continues = [scheduler.replay(number, mious) for number, mious in enumerate(validated)]
    # Trial 0 is never stopped.
    assert continues == [number == 0 or number not in stopped for number in range(30)]
    assert isinstance(scheduler.rule, SuccessiveHalving)
    assert scheduler.rule.recorded == live.recorded
    assert 0 < len(stopped) < 30


def result_of(scheduler: StoppingRuleScheduler, number: int, epoch: int, miou: float) -> str:
    """Give the scheduler a result of a Tune trial, as Tune does."""
    trial = Trial("segtune", config={"number": number}, stub=True)
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "miou": miou})


def test_scheduler_judges_by_the_best_so_far_and_never_stops_trial_0() -> None:
    scheduler = StoppingRuleScheduler(SuccessiveHalving([2], reduction=2))
    ends: list[str] = []
    for number, first, second in (
        (1, 0.9, 0.1),
        (2, 0.5, 0.6),
        (0, 0.1, 0.1),
        (3, math.nan, math.nan),
    ):
        result_of(scheduler, number, 1, first)
        ends.append(result_of(scheduler, number, 2, second))
    assert ends == ["CONTINUE", "STOP", "CONTINUE", "STOP"]
    assert isinstance(scheduler.rule, SuccessiveHalving)
    assert scheduler.rule.recorded[2][1] == 0.9


def test_resumed_trial_is_judged_by_the_best_of_both_sessions() -> None:
    scheduler = StoppingRuleScheduler(SuccessiveHalving([4], reduction=2))
    scheduler.replay(1, {2: 0.2, 4: 0.5})
    scheduler.replay(2, {2: 0.6})
    assert result_of(scheduler, 2, 4, 0.3) == "CONTINUE"
    assert isinstance(scheduler.rule, SuccessiveHalving)
    assert scheduler.rule.recorded[4] == {1: 0.5, 2: 0.6}


def test_brackets_begin_one_rung_later_each_and_get_about_equal_epochs() -> None:
    rule = HyperbandBrackets([1, 3, 9], reduction=3, brackets=4)
    assert [list(halving.recorded) for halving in rule.halvings] == [[1, 3, 9], [3, 9], [9], []]
    counts = [sum(rule.bracket(n) == bracket for n in range(1000)) for bracket in range(4)]
    # Hyperband divides them as 27/4, 9/3, 3/2 and 1/1, of 12.25 in all.
    assert counts == pytest.approx([551, 245, 122, 82], abs=5)
    assert len({rule.bracket(n) for n in range(12)}) >= 3


def test_bracket_compares_only_its_own_trials() -> None:
    rule = HyperbandBrackets([1], reduction=2, brackets=2)
    first, second = ([n for n in range(20) if rule.bracket(n) == bracket] for bracket in (0, 1))
    assert rule.decide(first[0], 1, 0.9)
    assert not rule.decide(first[1], 1, 0.1)
    assert rule.decide(second[0], 1, 0.1)


def test_median_rule_stops_a_trial_below_the_median_of_the_others() -> None:
    rule = MedianRule(grace_epochs=2, min_trials=3)
    for number, score in enumerate([0.1, 0.2, 0.3]):
        assert rule.decide(number, 1, score)
        assert rule.decide(number, 2, score)
    assert rule.decide(3, 1, 0.0)  # the grace epochs are not over
    assert not rule.decide(3, 2, 0.15)
    assert rule.decide(4, 2, 0.18)  # the median of 0.1, 0.2, 0.3 and 0.15 is 0.175
    assert not rule.decide(5, 2, math.nan)


def write_study(folder: Path, config: ExperimentConfig, scheduler: Any) -> Study:
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    tree = {"config": config.dump(), "space": space, "search": {"scheduler": scheduler}}
    (folder / "s.yaml").write_text(write_yaml(tree))
    return load_study(folder / "s.yaml")


@pytest.mark.parametrize(
    ("scheduler", "kind", "rungs"),
    [
        ("none", SuccessiveHalving, []),
        ({"median": {}}, MedianRule, []),
        ({"hyperband": {"grace_epochs": 1}}, HyperbandBrackets, [1, 3, 9]),
    ],
)
def test_search_scheduler_names_the_rule(
    tiny_config: ExperimentConfig, tmp_path: Path, scheduler: Any, kind: type, rungs: list[int]
) -> None:
    config = tiny_config.override({"schedule.epochs": 12})
    study = write_study(tmp_path, config, scheduler)
    assert isinstance(stopping_rule(study), kind)
    assert study.rungs() == rungs


def test_two_schedulers_at_once_are_refused(tiny_config: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one of asha, hyperband and median"):
        write_study(tmp_path, tiny_config, {"asha": {}, "median": {}})
