"""Which guards a trial breaks, by how much, and how settings that are wrong are explained."""

from collections.abc import Callable
from typing import Any

import pytest

from segtune.errors import ConfigError
from segtune.runs.records import NetworkProfile
from segtune.tuning.guards import check_guard_classes, guard_outcome
from segtune.tuning.guards_config import GuardsConfig
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.study import Study

PROFILE = NetworkProfile(30_000_000, ("road", "person"), 512, 1024, 20.0, "cpu, 1 threads", "fp32")


def guards(**limits: Any) -> GuardsConfig:
    return GuardsConfig.parse(limits)


def test_a_guard_is_kept_at_its_limit() -> None:
    limits = {"params_m": 30, "latency_ms": 20, "class_iou_drop": 0.05, "class": {"person": 0.8}}
    outcome = guard_outcome(guards(**limits), PROFILE, (0.9, 0.80), (0.9, 0.85))
    assert outcome.broken == ()
    assert outcome.constraints == pytest.approx(dict.fromkeys(guards(**limits).limits, 0.0))
    assert max(outcome.constraints.values()) <= 0


def test_each_broken_guard_has_a_sentence_and_an_excess() -> None:
    limits = {"params_m": 20, "latency_ms": 16, "class_iou_drop": 0.05, "class": {"person": 0.6}}
    outcome = guard_outcome(guards(**limits), PROFILE, (0.9, 0.52), (0.9, 0.7))
    assert outcome.broken == (
        "30 million parameters, search.guards.params_m allows 20",
        "20 ms for an image of 512 x 1024 on cpu, 1 threads, search.guards.latency_ms allows 16",
        "class person has IoU 0.5200, 0.1800 below the config itself (0.7000), "
        "search.guards.class_iou_drop allows 0.05",
        "class person has IoU 0.5200, search.guards.class asks for 0.6",
    )
    expected = {"params_m": 0.5, "latency_ms": 0.25, "class_iou_drop": 0.13, "class.person": 0.08}
    assert outcome.constraints == pytest.approx(expected)


def test_the_largest_drop_is_named_first_and_a_rise_is_no_drop() -> None:
    profile = NetworkProfile(1, ("a", "b", "c"), 8, 8)
    outcome = guard_outcome(guards(class_iou_drop=0.1), profile, (0.4, 0.2, 0.9), (0.6, 0.6, 0.1))
    (words,) = outcome.broken
    assert words.startswith("class b has IoU 0.2000, 0.4000 below")
    assert words.endswith("; also too far below: a")


def test_a_class_that_trial_0_never_learnt_cannot_fall() -> None:
    outcome = guard_outcome(guards(class_iou_drop=0.0), PROFILE, (0.5, 0.0), (0.5, 0.0))
    assert outcome.broken == ()


def test_a_class_that_is_not_in_the_masks_counts_as_0_for_its_own_guard_only() -> None:
    limits = {"class_iou_drop": 0.1, "class": {"person": 0.6}}
    outcome = guard_outcome(guards(**limits), PROFILE, (0.5, None), (0.5, None))
    (words,) = outcome.broken
    assert "no validation mask has a pixel of it" in words
    assert outcome.constraints["class.person"] == 0.6


@pytest.mark.parametrize(
    ("profile", "ious", "baseline"),
    [(None, (), ()), (PROFILE, (), (0.9, 0.9)), (PROFILE, (0.1, 0.1), ())],
)
def test_what_is_not_known_yet_is_not_broken_but_every_guard_has_a_constraint(
    profile: NetworkProfile | None, ious: tuple[float, ...], baseline: tuple[float, ...]
) -> None:
    # A Gaussian process needs the same constraints of every trial.
    limits = guards(latency_ms=30, class_iou_drop=0.1)
    outcome = guard_outcome(limits, profile, ious, baseline)
    assert outcome.broken == ()
    assert list(outcome.constraints) == ["latency_ms", "class_iou_drop"]
    assert outcome.constraints["class_iou_drop"] == 0.0


def test_a_guard_on_an_unknown_class_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"search\.guards\.class\.persn: .*mean 'person'\?.*road"):
        check_guard_classes(guards(**{"class": {"persn": 0.5, "road": 0.1}}), PROFILE.classes)


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        ({"guards": {"class": {"person": 60}}}, "guards.class: expected an IoU from 0 to 1, got"),
        ({"guards": {"class": {"person": "x"}}}, "guards.class.person: allowed is {name: number}"),
        ({"guards": {"clas": {}}}, "did you mean 'guards.class'?"),
        ({"objectives": ["latency_ms"]}, "objectives: miou must be among the objectives"),
        ({"objectives": ["miou", "miou"]}, "objectives: an objective is repeated"),
        (
            {"objectives": ["miou", "params_m"], "scheduler": {"median": {}}},
            "remove scheduler, or set scheduler: none",
        ),
    ],
)
def test_a_wrong_setting_gives_one_message(search: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchConfig.parse(search)
    (message,) = caught.value.problems
    assert problem in message


def test_several_objectives_turn_the_default_stopping_rule_off() -> None:
    search = SearchConfig.parse({"objectives": ["miou", "latency_ms"]})
    assert search.scheduler == "none"
    assert search.override({"trials": 3}).scheduler == "none"
    assert SearchConfig().scheduler != "none"


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        ({"sampler": "cmaes"}, "cmaes takes one objective"),
        ({"proxy": {"epochs": 1}}, "chooses the trials for the full length by mIoU alone"),
    ],
)
def test_what_several_objectives_exclude_is_refused(
    make_study: Callable[..., Study], search: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_study(objectives=["miou", "params_m"], **search)


def test_a_sampler_that_ignores_guards_is_named(
    make_study: Callable[..., Study], caplog: pytest.LogCaptureFixture
) -> None:
    make_study(sampler="random", guards={"params_m": 3})
    assert "random does not avoid trials that break a guard" in caplog.text
    caplog.clear()
    make_study(sampler="gp", guards={"params_m": 3})
    assert not caplog.text
