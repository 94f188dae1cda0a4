"""What mattered is found in trials that are made so, and noise is not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segtune.checks.permutation import BLOCK, permutations
from segtune.checks.setting_effects import Design, pair_tests, ranks, setting_tests
from segtune.checks.unhealthy_settings import Side, unhealthy_predictors
from segtune.checks.what_mattered import comparable_scores, pairs_words, what_mattered
from segtune.config.schema import ExperimentConfig
from segtune.runs.results import TrialResult
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study

LR = Dimension("lr", "loguniform", (1e-5, 1e-1))
FORM = Dimension("form", "choice", ("a", "b", [1, 2]))
SIZE = Dimension("size", "int", (1, 8))
DECAY = Dimension("decay", "uniform", (0.0, 1.0))
GAMMA = Dimension("gamma", "uniform", (0.0, 4.0), {"form": "a"})  # inactive with another form
SPACE = Space(
    (LR, FORM, SIZE, DECAY, GAMMA), {"lr": 1e-3, "form": "a", "size": 4, "decay": 0.5, "gamma": 2.0}
)
STUDY = Study(ExperimentConfig(), SPACE, SearchConfig())
Params = Mapping[str, Any]


def ps_of(drawn: Sequence[Params], scores: Sequence[float]) -> dict[str, float]:
    return setting_tests(Design(SPACE, drawn), scores, permutations(len(scores)))


def points(number: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    drawn = [
        {
            "lr": float(10 ** random.uniform(-5, -1)),
            "form": FORM.values[random.integers(3)],
            "size": int(random.integers(1, 9)),
            "decay": float(random.random()),
            "gamma": float(random.uniform(0, 4)),
        }
        for _ in range(number)
    ]
    return [SPACE.complete(point) for point in drawn]


def trials_of(
    drawn: Sequence[dict[str, Any]],
    score: Callable[[Params], float],
    is_unhealthy: Callable[[Params], bool] = lambda params: False,
    noise: float = 0.1,
) -> list[TrialResult]:
    random = np.random.default_rng(len(drawn))
    return [
        TrialResult(
            number,
            "unhealthy" if is_unhealthy(params) else "completed",
            "diverged" if is_unhealthy(params) else "",
            miou=float(0.5 + 0.1 * (score(params) + noise * random.standard_normal())),
            params=params,
        )
        for number, params in enumerate(drawn)
    ]


def exponent(params: Params) -> float:
    """Return the learning rate as -1..1."""
    return float(np.log10(params["lr"]) + 3) / 2


def test_only_setting_that_matters_comes_first_and_the_others_are_noise() -> None:
    record = what_mattered(STUDY, trials_of(points(60, 0), exponent), {})
    first, *others = record["settings"]
    assert (first["name"], first["shown"]) == ("lr", True)
    assert first["low"] > max(row["share"] for row in others)
    assert not any(row["shown"] for row in others)
    assert sum(row["share"] for row in record["settings"]) == pytest.approx(1)
    assert all(row["low"] <= row["share"] <= row["high"] for row in record["settings"])
    (sentence,) = record["sentences"]
    assert sentence.startswith("for mIoU: lr has ")
    assert sentence.endswith("4 of 5 settings cannot be told apart from noise")


def test_choice_with_lists_and_conditional_settings_are_found() -> None:
    def with_form(params: Params) -> float:
        return float(params["form"] == [1, 2])

    def with_gamma(params: Params) -> float:
        return params.get("gamma", 2.0) - 2.0

    for name, score in (("form", with_form), ("gamma", with_gamma)):
        drawn = points(80, 1)
        ps = ps_of(drawn, [t.miou or 0 for t in trials_of(drawn, score)])
        assert [setting for setting, p in ps.items() if p < 0.05] == [name]
    assert what_mattered(STUDY, trials_of(points(80, 1), with_gamma), {})["settings"][0][
        "name"
    ] == ("gamma")


def test_optimum_in_the_middle_of_a_range_is_found() -> None:
    drawn = points(60, 2)
    scores = [-abs(params["decay"] - 0.5) for params in drawn]
    ps = ps_of(drawn, scores)
    assert [setting for setting, p in ps.items() if p < 0.05] == ["decay"]


def test_noise_is_named_in_one_of_twenty_searches() -> None:
    wrong = 0
    for seed in range(60):
        drawn = points(30, seed)
        scores = np.random.default_rng(seed).standard_normal(30).tolist()
        wrong += min(ps_of(drawn, scores).values()) < 0.05
    assert wrong <= 7  # of 60 at a level of 5 %, 8 or more have a probability of 1 %


def test_setting_that_was_only_drawn_together_with_one_that_matters_is_not_credited() -> None:
    drawn = points(60, 3)
    for params in drawn:  # as a sampler does that draws near the best trials
        params["decay"] = float(np.clip(0.5 + 0.4 * exponent(params) + 0.1 * params["decay"], 0, 1))
    ps = ps_of(drawn, [t.miou or 0 for t in trials_of(drawn, exponent)])
    assert ps["lr"] < 0.05 < ps["decay"]


def test_pure_interaction_is_found_and_a_sum_of_effects_is_none() -> None:
    def either(params: Params) -> float:
        return float((params["decay"] > 0.5) != (exponent(params) > 0))

    record = what_mattered(STUDY, trials_of(points(60, 4), either), {})
    best = record["pairs"][0]
    assert (sorted(best["names"]), best["shown"]) == (["decay", "lr"], True)
    assert 0 < best["low"] < best["share"] < best["high"] <= 1
    assert any("seems to depend on" in sentence for sentence in record["sentences"])
    # Of the four combinations, the two mixed ones are better.
    means = sorted(cell["mean"] for cell in best["cells"])
    assert len(means) == 4
    assert means[2] - means[1] > 0.05
    drawn = points(60, 4)
    random = np.random.default_rng(0)
    summed = [exponent(p) + p["decay"] + 0.2 * random.standard_normal() for p in drawn]
    pairs = pair_tests(Design(SPACE, drawn), summed, SPACE.names, permutations(60))
    assert all(row.p > 0.05 for row in pairs)


def test_threshold_that_makes_trials_unhealthy_is_found_with_its_direction() -> None:
    trials = trials_of(points(40, 5), exponent, is_unhealthy=lambda params: params["lr"] > 1e-2)
    row, *others = unhealthy_predictors(SPACE, trials)
    assert (row.cause, row.name, row.is_shown) == ("diverged", "lr", True)
    assert row.unhealthy_side.values.startswith("above ")
    threshold = float(row.unhealthy_side.values.removeprefix("above "))
    rates = [trial.params["lr"] for trial in trials]
    between = (max(lr for lr in rates if lr <= 1e-2), min(lr for lr in rates if lr > 1e-2))
    assert between[0] <= threshold <= between[1]
    num_unhealthy = sum(lr > 1e-2 for lr in rates)
    assert row.unhealthy_side.num_unhealthy == row.unhealthy_side.num_trials == num_unhealthy
    assert row.other_side.num_unhealthy == 0
    assert not any(other.is_shown for other in others)
    sentences = what_mattered(STUDY, trials, {})["sentences"]
    assert f"{num_unhealthy} of {num_unhealthy} trials end diverged; at most " in sentences[-1]


def test_choice_that_is_unhealthy_is_found() -> None:
    trials = trials_of(points(40, 6), exponent, is_unhealthy=lambda params: params["form"] == "b")
    row = unhealthy_predictors(SPACE, trials)[0]
    assert (row.name, row.unhealthy_side.values, row.other_side.values) == (
        "form",
        "is b",
        "is not b",
    )


def test_unhealthy_ends_at_random_are_named_in_one_of_twenty_searches() -> None:
    wrong = 0
    for seed in range(60):
        flags = np.random.default_rng(seed).random(30) < 0.3
        trials = [
            TrialResult(number, "unhealthy", "diverged", params=params)
            if flags[number]
            else TrialResult(number, "completed", miou=0.5, params=params)
            for number, params in enumerate(points(30, seed))
        ]
        wrong += any(row.is_shown for row in unhealthy_predictors(SPACE, trials))
    assert wrong <= 7


def test_wilson_interval_is_that_of_a_textbook() -> None:
    assert Side("", 1, 10).interval == pytest.approx((0.0179, 0.4042), abs=1e-3)
    assert Side("", 0, 5).interval[0] == 0.0


def test_too_few_trials_say_how_many_are_missing() -> None:
    record = what_mattered(STUDY, trials_of(points(8, 7), exponent), {})
    # Lines for four ranges, two for a choice, a constant, and five trials for the noise: 12.
    assert (record["trials_missing"], record["settings"], record["pairs"]) == (4, [], [])
    assert "at least 4 more completed or pruned trials" in record["sentences"][0]
    empty = what_mattered(STUDY, [], {})
    assert (empty["trials_missing"], empty["unhealthy"]) == (12, [])


def test_one_setting_and_one_that_no_trial_has() -> None:
    drawn = [{"lr": params["lr"], "form": "b"} for params in points(20, 9)]
    trials = trials_of(drawn, exponent)
    alone = Study(ExperimentConfig(), Space((LR,), {"lr": 1e-3}), SearchConfig())
    (row,) = what_mattered(alone, trials, {})["settings"]
    assert (row["name"], row["share"], row["shown"]) == ("lr", 1.0, True)
    assert pairs_words(what_mattered(alone, trials, {})) == ""
    space = Space((LR, FORM, GAMMA), dict(SPACE.base))
    record = what_mattered(Study(ExperimentConfig(), space, SearchConfig()), trials, {})
    assert [row["name"] for row in record["settings"] if row["shown"]] == ["lr"]
    assert "gamma" not in [row["name"] for row in record["settings"]]


def test_trials_outside_the_space_and_of_an_older_space_count_as_they_can() -> None:
    trials = trials_of(points(30, 8), exponent)
    outside = TrialResult(30, "completed", miou=0.9, params={**trials[0].params, "lr": 0.5})
    older = TrialResult(31, "completed", miou=0.5, params={"lr": 1e-3})
    record = what_mattered(STUDY, [*trials, outside, older], {})
    assert record["num_completed"] == 31


def test_pruned_trial_is_compared_at_full_length() -> None:
    trials = [
        TrialResult(0, "completed", miou=0.5),
        TrialResult(1, "completed", miou=0.7),
        TrialResult(2, "pruned", miou=0.3),
        TrialResult(3, "unhealthy", miou=0.9),
        TrialResult(4, "running", miou=0.9),
    ]
    curves = {"0000": {1: 0.3, 2: 0.5}, "0001": {1: 0.3, 2: 0.7}, "0002": {1: 0.3}}
    # The completed trials gained 0.2 and 0.4 after epoch 1.
    scores = comparable_scores(trials, curves)
    assert scores == pytest.approx({"0000": 0.5, "0001": 0.7, "0002": 0.6})
    assert comparable_scores(trials[2:], curves) == {}


def test_equal_scores_share_a_rank_and_permutations_stay_in_their_block() -> None:
    assert ranks([3.0, 1.0, 1.0, 2.0]) == pytest.approx([0.75, -0.5, -0.5, 0.25])
    orders = permutations(3 * BLOCK)
    blocks = np.arange(3 * BLOCK) // BLOCK
    assert (blocks[orders] == blocks).all()
    assert (np.sort(orders, axis=1) == np.arange(3 * BLOCK)).all()


def test_trials_that_a_guard_ended_before_training_are_left_out() -> None:
    trials = trials_of(points(40, 7), exponent, is_unhealthy=lambda params: params["form"] == "b")
    untrained = [
        replace(trial, state="pruned", kind="guard", miou=None)
        if trial.params["form"] == "a"
        else trial
        for trial in trials
    ]
    trained = [trial for trial in untrained if trial.kind != "guard"]
    assert len(trained) < len(trials)
    counts = ("num_completed", "num_pruned", "num_unhealthy", "unhealthy", "sentences")
    records = [what_mattered(STUDY, some, {}) for some in (untrained, trained)]
    assert [records[0][name] for name in counts] == [records[1][name] for name in counts]
