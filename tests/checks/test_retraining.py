"""The rule of `segtune retrain`: an interval by hand, its coverage, and the sentences."""

from typing import Any

import numpy as np
import pytest

from segtune.checks.retrain_record import compared_record
from segtune.checks.retraining import Estimate, judge
from segtune.runs.results import TrialResult
from segtune.runs.verdict import Verdict

COMPLETED = Verdict(state="completed")


def test_interval_of_one_more_training_run() -> None:
    # t of 2 degrees of freedom is 4.3027: 4.3027 * 0.01 * sqrt(4/3) = 0.04968.
    estimate = Estimate(0.5, num_scores=3, std=0.01, num_seeds=3)
    assert estimate.margin == pytest.approx(0.04968, abs=1e-5)
    assert [judge(score, estimate) for score in (0.45, 0.451, 0.6)] == [
        "fell short",
        "held",
        "held",
    ]
    # Of a single score, with the noise of 5 seeds: 2.7764 * 0.01 * sqrt(2).
    assert Estimate(0.5, 1, 0.01, 5).margin == pytest.approx(0.03926, abs=1e-5)
    assert judge(0.1, Estimate(0.5, 1)) == "cannot be judged"


def test_a_true_estimate_falls_short_in_one_of_forty_cases() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.01, (2000, 6))
    outcomes = [
        judge(new, Estimate(float(np.mean(seeds)), 5, float(np.std(seeds, ddof=1)), 5))
        for new, *seeds in scores.tolist()
    ]
    assert outcomes.count("fell short") / 2000 == pytest.approx(0.025, abs=0.01)


def begun(**changes: Any) -> dict[str, Any]:
    record = {
        "search_run": "/runs/a",
        "folder": "/out",
        "part": ".",
        "trial": "0001",
        "seed": 1000,
        "epochs": 4,
    }
    return {**record, "searched_seed": 0, "searched_epochs": 4, "changed": {}, **changes}


TRIALS = [
    TrialResult(number=0, state="completed", miou=0.4),
    TrialResult(number=1, state="completed", miou=0.5),
    TrialResult(number=2, state="unhealthy", miou=0.9),
]
NOISE = {"std": 0.01, "scores": {"1000": 0.39, "1001": 0.4, "1002": 0.41}}
CONFIRMATION = {
    "baseline": {"trial": "0000", "mean": 0.4, "std": 0.01, "scores": {"1000": 0.4, "1001": 0.39}},
    "candidates": [
        {"trial": "0001", "mean": 0.45, "std": 0.002, "scores": {"7": 0.45, "8": 0.448, "9": 0.452}}
    ],
}


def sentence(miou: float, *records: Any, verdict: Verdict = COMPLETED, **changes: Any) -> str:
    noise, confirmation = (*records, None, None)[:2]
    result = (miou, verdict)
    return compared_record(begun(**changes), TRIALS, noise, confirmation, result)["sentence"]


def test_fresh_seeds_are_the_better_estimate() -> None:
    assert sentence(0.446, NOISE, CONFIRMATION) == (
        "held: 44.6 mIoU; the search estimated 45.0 ± 1.0 (3 fresh seeds)"
    )
    assert sentence(0.47, NOISE, CONFIRMATION).endswith(", so it is better than estimated")
    fell = sentence(0.43, NOISE, CONFIRMATION)
    assert fell.startswith("fell short: 43.0 mIoU, 2.0 below what the search estimated, 45.0 ± 1.0")
    assert "its seeds were fresh, so the luck of the best of 2 trials is no reason" in fell


def test_single_score_with_a_noise_floor_names_the_luck_of_the_best() -> None:
    fell = sentence(0.40, NOISE)
    # t of 2 degrees of freedom, 4.3027, times 0.01 times the root of 2.
    assert fell.startswith(
        "fell short: 40.0 mIoU, 10.0 below what the search estimated, 50.0 ± 6.1"
    )
    assert "the estimate is the best of 2 single scores" in fell
    assert sentence(0.45, NOISE).startswith("held: 45.0 mIoU")


def test_trial_that_is_not_the_best_was_not_chosen_for_its_luck() -> None:
    fell = sentence(0.30, NOISE, trial="0000")
    assert fell.startswith("fell short: 30.0 mIoU, 10.0 below")
    assert "winner's curse" not in fell


def test_without_noise_nothing_is_judged_and_the_command_is_named() -> None:
    text = sentence(0.4)
    assert text.startswith("cannot be judged: 40.0 mIoU, the search has 50.0 in one training run")
    assert "measure it: segtune confirm /runs/a, then compare: segtune retrain /runs/a " in text
    assert text.endswith(" --out /out --resume")
    assert "segtune confirm /runs/a/full" in sentence(0.4, part="full")


def test_repetition_of_the_trial_is_no_evidence() -> None:
    text = sentence(0.5, NOISE, seed=0)
    assert text.startswith("cannot be judged: 50.0 mIoU, the search has 50.0 with the same seed")
    assert sentence(0.5, NOISE, seed=0, changed={"optim.lr": [1.0, 2.0]}).startswith("held")


def test_other_length_and_settings_are_named() -> None:
    changed = {
        "schedule.epochs": [4, 8],
        "schedule.warmup_epochs": [1.0, 2.0],
        "data.crop": [[32, 32], [64, 64]],
    }
    text = sentence(0.45, NOISE, changed=changed)
    assert text.endswith(
        "; trained differently from the search: 8 epochs instead of 4, "
        "data.crop [64, 64] instead of [32, 32]"
    )


def test_unhealthy_end_did_not_hold() -> None:
    verdict = Verdict(state="unhealthy", kind="diverged", evidence="loss 9e9")
    assert sentence(0.1, NOISE, verdict=verdict) == (
        "did not hold: the retraining ended unhealthy (diverged: loss 9e9); the search estimated "
        "50.0 mIoU"
    )
