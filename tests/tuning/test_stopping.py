"""Laws of successive halving: what a rung has seen decides, non-finite is worst, and replaying gives the same rungs."""

import math
import random

import pytest

from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.tuning.stopping import HyperbandBrackets, MedianRule, SuccessiveHalving, stopping_rule
from segtune.tuning.study import load_study


def test_first_arrival_goes_on_and_below_the_reduction_only_the_best_does():
    halving = SuccessiveHalving([2], reduction=3)
    assert [halving.decide(n, 2, s) for n, s in enumerate([0.5, 0.4, 0.6])] == [True, False, True]


def test_one_in_reduction_goes_on():
    halving = SuccessiveHalving([1], reduction=2)
    for number, score in enumerate([0.1, 0.2, 0.3, 0.4]):
        halving.decide(number, 1, score)
    # Six have come with this one, three may go on; 0.35 is second.
    assert halving.decide(4, 1, 0.35)
    assert not halving.decide(5, 1, 0.15)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_worst_even_alone(score):
    halving = SuccessiveHalving([1], reduction=2)
    assert not halving.decide(0, 1, score)
    assert halving.decide(1, 1, 0.0)


def test_rung_decides_once_and_between_rungs_nothing_is_decided():
    halving = SuccessiveHalving([2, 6], reduction=2)
    assert halving.decide(0, 2, 0.9)
    assert halving.decide(1, 1, 0.0)
    assert not halving.decide(1, 2, 0.1)
    assert halving.decide(1, 3, 0.1)
    # The next validation after rung 6 may be epoch 8.
    assert halving.decide(0, 8, 0.5)
    assert halving.recorded == {2: {0: 0.9, 1: 0.1}, 6: {0: 0.5}}


def test_without_rungs_nothing_is_stopped():
    assert SuccessiveHalving([], reduction=2).decide(0, 5, -1.0)


def test_replayed_rungs_equal_those_of_an_unbroken_search():
    rng = random.Random(0)
    curves = [[{"epoch": e, "miou": rng.random()} for e in range(1, 10)] for _ in range(30)]
    live, decisions = SuccessiveHalving([1, 3], 3), {}
    rows = {n: [] for n in range(30)}
    for number, curve in enumerate(curves):
        best = 0.0
        for row in curve:
            best = max(best, row["miou"])
            rows[number].append(row)
            if not live.decide(number, row["epoch"], best):
                decisions[number] = row["epoch"]
                break
    again = StoppingRuleScheduler(SuccessiveHalving([1, 3], 3))
    # Trial 0 is never stopped; what comes last decides about the others as it did then.
    assert [again.replay(n, rows[n]) for n in range(30)] == [
        n == 0 or n not in decisions for n in range(30)
    ]
    assert again.rule.recorded == live.recorded
    assert 0 < len(decisions) < 30


class FakeTrial:
    def __init__(self, number):
        self.config = {"number": number}


def test_scheduler_scores_by_the_best_so_far_and_spares_trial_0():
    scheduler = StoppingRuleScheduler(SuccessiveHalving([2], reduction=2))
    ends = []
    for number, curve in (
        (1, [0.9, 0.1]),
        (2, [0.5, 0.6]),
        (0, [0.1, 0.1]),
        (3, [math.nan, math.nan]),
    ):
        ends.append(
            [
                scheduler.on_trial_result(None, FakeTrial(number), {"epoch": e, "miou": m})
                for e, m in enumerate(curve, 1)
            ][-1]
        )
    assert ends == ["CONTINUE", "STOP", "CONTINUE", "STOP"]
    assert scheduler.rule.recorded[2][1] == 0.9


def test_resumed_trial_is_judged_by_the_best_of_both_sessions():
    scheduler = StoppingRuleScheduler(SuccessiveHalving([4], reduction=2))
    scheduler.replay(1, [{"epoch": 2, "miou": 0.2}, {"epoch": 4, "miou": 0.5}])
    scheduler.replay(2, [{"epoch": 2, "miou": 0.6}])
    assert scheduler.on_trial_result(None, FakeTrial(2), {"epoch": 4, "miou": 0.3}) == "CONTINUE"
    assert scheduler.rule.recorded[4] == {1: 0.5, 2: 0.6}


def test_brackets_begin_a_rung_later_each_and_take_about_equal_epochs():
    rule = HyperbandBrackets([1, 3, 9], reduction=3, brackets=4)
    assert [list(h.recorded) for h in rule.halvings] == [[1, 3, 9], [3, 9], [9], []]
    counts = [sum(rule.bracket(n) == b for n in range(1000)) for b in range(4)]
    # 27/4, 9/3, 3/2 and 1/1 of 12.25, as Hyperband divides them.
    assert counts == pytest.approx([551, 245, 122, 82], abs=5)
    assert len({rule.bracket(n) for n in range(12)}) >= 3


def test_bracket_judges_only_its_own():
    rule = HyperbandBrackets([1], reduction=2, brackets=2)
    first, second = ([n for n in range(20) if rule.bracket(n) == b] for b in (0, 1))
    assert rule.decide(first[0], 1, 0.9)
    assert not rule.decide(first[1], 1, 0.1)
    assert rule.decide(second[0], 1, 0.1)


def test_median_stops_what_is_worse_than_half_of_the_others():
    rule = MedianRule(grace_epochs=2, min_trials=3)
    for number, score in enumerate([0.1, 0.2, 0.3]):
        assert rule.decide(number, 1, score)
        assert rule.decide(number, 2, score) or number < 3
    assert rule.decide(3, 1, 0.0)  # before the grace is over
    assert not rule.decide(3, 2, 0.15)
    assert rule.decide(4, 2, 0.18)  # the median of 0.1, 0.2, 0.3 and 0.15 is 0.175
    assert not rule.decide(5, 2, math.nan)


@pytest.mark.parametrize(
    ("scheduler", "kind", "rungs"),
    [
        ("none", SuccessiveHalving, []),
        ({"median": {}}, MedianRule, []),
        ({"hyperband": {"grace_epochs": 1}}, HyperbandBrackets, [1, 3, 9]),
    ],
)
def test_study_names_its_rule(tiny_config, tmp_path, scheduler, kind, rungs):
    tree = {
        "config": tiny_config.override({"schedule.epochs": 12}).dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
    }
    (tmp_path / "s.yaml").write_text(write_yaml({**tree, "search": {"scheduler": scheduler}}))
    study = load_study(tmp_path / "s.yaml")
    assert isinstance(stopping_rule(study), kind)
    assert study.rungs() == rungs


def test_two_schedulers_at_once_are_refused(tiny_config, tmp_path):
    tree = {"config": tiny_config.dump(), "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}}}
    (tmp_path / "s.yaml").write_text(
        write_yaml({**tree, "search": {"scheduler": {"asha": {}, "median": {}}}})
    )
    with pytest.raises(ConfigError, match="exactly one of asha, hyperband and median"):
        load_study(tmp_path / "s.yaml")
