"""Which guards a trial breaks, by how much, and how settings that are wrong are explained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.errors import ConfigError
from segtune.reporting.format import baseline_note, reason_of
from segtune.runs.records import EpochRecord, NetworkProfile, ValidationScores
from segtune.runs.results import TrialResult, read_trial
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.guards import check_guard_classes, guard_outcome
from segtune.tuning.guards_config import GuardsConfig
from segtune.tuning.measured import final_ious, outcome_of, warn_of_unmeasured
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.study import Study

CLASSES = ("road", "person")
PROFILE = NetworkProfile(30_000_000, CLASSES, 512, 1024, 20.0, "cpu, 1 threads", "fp32")


@pytest.fixture
def run(tmp_path: Path) -> SearchDir:
    """Return an empty search run."""
    return SearchDir(tmp_path / "r")


def guards(**limits: Any) -> GuardsConfig:
    return GuardsConfig.parse(limits)


def test_a_guard_is_kept_at_its_limit() -> None:
    limits = {"params_m": 30, "latency_ms": 20, "class_iou_drop": 0.05, "class": {"person": 0.8}}
    outcome = guard_outcome(guards(**limits), PROFILE, CLASSES, (0.9, 0.80), (0.9, 0.85))
    assert outcome.broken == ()
    assert outcome.constraints == pytest.approx(dict.fromkeys(guards(**limits).limits, 0.0))
    assert max(outcome.constraints.values()) <= 0


def test_each_broken_guard_has_a_sentence_and_an_excess() -> None:
    limits = {"params_m": 20, "latency_ms": 16, "class_iou_drop": 0.05, "class": {"person": 0.6}}
    outcome = guard_outcome(guards(**limits), PROFILE, CLASSES, (0.9, 0.52), (0.9, 0.7))
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
    outcome = guard_outcome(
        guards(class_iou_drop=0.1), profile, profile.classes, (0.4, 0.2, 0.9), (0.6, 0.6, 0.1)
    )
    (words,) = outcome.broken
    assert words.startswith("class b has IoU 0.2000, 0.4000 below")
    assert words.endswith("; also too far below: a")


def test_a_class_that_trial_0_never_learnt_cannot_fall() -> None:
    outcome = guard_outcome(guards(class_iou_drop=0.0), PROFILE, CLASSES, (0.5, 0.0), (0.5, 0.0))
    assert outcome.broken == ()


def test_a_class_that_is_not_in_the_masks_counts_as_0_for_its_own_guard_only() -> None:
    limits = {"class_iou_drop": 0.1, "class": {"person": 0.6}}
    outcome = guard_outcome(guards(**limits), PROFILE, CLASSES, (0.5, None), (0.5, None))
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
    outcome = guard_outcome(limits, profile, CLASSES, ious, baseline)
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


def test_class_guards_need_no_measured_network() -> None:
    limits = guards(params_m=20, **{"class": {"person": 0.6}})
    outcome = guard_outcome(limits, None, CLASSES, (0.9, 0.5), ())
    assert outcome.broken == ("class person has IoU 0.5000, search.guards.class asks for 0.6",)
    assert outcome.constraints == pytest.approx({"params_m": 0.0, "class.person": 0.1})


def test_trials_on_a_proxy_are_not_judged_by_the_least_ious() -> None:
    limits = {"params_m": 20, "class_iou_drop": 0.1, "class": {"person": 0.6}}
    search = SearchConfig.parse({"guards": limits})
    assert search.guards_of_trials == search.guards
    on_proxy = search.override({"proxy": {"epochs": 1}})
    assert list(on_proxy.guards_of_trials.limits) == ["params_m", "class_iou_drop"]


@pytest.mark.parametrize("state", ["pruned", "unhealthy", "interrupted", "completed", None])
def test_class_guards_judge_completed_trials_only(run: SearchDir, state: Any) -> None:
    limits = {"class_iou_drop": 0.1, "class": {"person": 0.6}}
    search = SearchConfig.parse({"guards": limits})
    for number, person in ((0, 0.9), (1, 0.2)):
        trial = run.trial(number)
        trial.write_profile(PROFILE)
        scores = ValidationScores(0.5, constant_miou=0.0, class_iou=(0.5, person))
        trial.append_epoch(EpochRecord(1, step=1, validation=scores))
    run.trial(0).write_verdict(Verdict(state="completed", epoch=1))
    trial = run.trial(1)
    if state:
        trial.write_verdict(Verdict(state=state, epoch=1))
    outcome = outcome_of(search, run, trial, ())
    trial.write_guards(outcome)
    is_judged = state == "completed"
    assert len(outcome.broken) == (2 if is_judged else 0)
    assert any(outcome.constraints.values()) == is_judged
    assert read_trial(trial).is_judged == is_judged
    assert not read_trial(trial).may_win


def test_an_unfinished_trial_0_is_no_baseline(run: SearchDir) -> None:
    scores = ValidationScores(0.5, constant_miou=0.0, class_iou=(0.9, 0.9))
    run.trial(0).append_epoch(EpochRecord(1, step=1, validation=scores))
    run.trial(0).write_verdict(Verdict(state="unhealthy", kind="diverged", epoch=1))
    assert final_ious(run.trial(0)) == ()


@pytest.mark.parametrize(
    ("state", "kind", "ending"),
    [
        ("unhealthy", "diverged", "trial 0 ended as diverged"),
        ("failed", "", "trial 0 ended as failed"),
        ("completed", "", ""),
        ("running", "", ""),
        ("interrupted", "", ""),
    ],
)
def test_a_baseline_that_did_not_complete_is_named(
    make_study: Callable[..., Study], state: str, kind: str, ending: str
) -> None:
    trials = [TrialResult(0, state, kind=kind), TrialResult(1, "completed", miou=0.5)]
    note = baseline_note(make_study(guards={"class_iou_drop": 0.1}), trials)
    assert ending in note
    assert bool(note) == bool(ending)
    assert baseline_note(make_study(), trials) == ""


def test_the_reason_has_the_note_of_a_trial_and_the_guards_that_it_breaks() -> None:
    broken = ("too large", "too slow")
    noted = TrialResult(1, "completed", reason="trained in fp32", broken_guards=broken)
    assert reason_of(noted) == "trained in fp32; breaks a guard: too large; too slow"
    assert reason_of(replace(noted, reason="")) == "breaks a guard: too large; too slow"
    assert reason_of(replace(noted, broken_guards=())) == "trained in fp32"
    untrained = replace(noted, state="pruned", kind="guard", reason="guard: too large")
    assert reason_of(untrained) == "guard: too large"


def test_ended_trials_without_a_measured_network_are_counted(
    run: SearchDir, caplog: pytest.LogCaptureFixture
) -> None:
    slow = replace(PROFILE, latency_ms=None)
    trials = [
        TrialResult(0, "completed"),
        TrialResult(1, "completed", profile=slow),
        TrialResult(2, "completed", profile=PROFILE),
    ]
    warn_of_unmeasured(guards(**{"class": {"person": 0.6}}), run, trials)
    warn_of_unmeasured(guards(params_m=3), run, trials[1:])
    assert not caplog.text
    warn_of_unmeasured(guards(params_m=3), run, trials)
    assert "1 of 3 ended trials have no measured network" in caplog.text
    warn_of_unmeasured(guards(latency_ms=3), run, trials)
    assert "2 of 3" in caplog.text
