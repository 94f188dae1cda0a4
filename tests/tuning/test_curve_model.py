"""The model of learning curves, and what is drawn and ordered by it."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.optimize import approx_fprime
from scipy.stats import spearmanr

from segtune.tuning.curves.encoding import Encoding
from segtune.tuning.curves.halving import ExpectedHalving
from segtune.tuning.curves.model import CurveModel, Observed
from segtune.tuning.curves.parameters import Scores, _Fit
from segtune.tuning.curves.sampler import CurveSampler
from segtune.tuning.space import Dimension, Space

EPOCHS = [2, 6, 18]
SPACE = Space(
    (
        Dimension("optim.lr", "loguniform", (1e-5, 1e-1)),
        Dimension("optim.weight_decay", "uniform", (0.0, 1.0)),
        Dimension("loss.balance", "choice", ("none", "gradient")),
    ),
    {"optim.lr": 1e-3, "optim.weight_decay": 0.5, "loss.balance": "none"},
)


def end_of(row: np.ndarray) -> float:
    """Return the score at full length: best at 0.7 of the range of lr, and without balance."""
    return float(0.6 - (row[0] - 0.7) ** 2 + 0.1 * (row[2] > row[3]))


def curve_of(row: np.ndarray) -> dict[int, float]:
    """Return a curve whose order at the first epoch is nearly the reverse of that at the end."""
    return {epoch: end_of(row) - (1 - epoch / 18) * 0.9 * row[0] for epoch in EPOCHS}


def observed(number: int, lengths: list[int], seed: int = 0) -> list[Observed]:
    """Return random trials; `lengths` says how many epochs of EPOCHS each has reached, in turn."""
    rows = Encoding(SPACE).draw(number, np.random.default_rng(seed))
    return [
        Observed(row, dict(list(curve_of(row).items())[: lengths[i % len(lengths)]]))
        for i, row in enumerate(rows)
    ]


def test_gradient_of_the_fit_is_that_of_its_value() -> None:
    rng = np.random.default_rng(0)
    scores = Scores(
        rng.uniform(size=(30, 3)),
        rng.integers(3, size=30),
        rng.integers(12, size=30),
        rng.normal(size=30),
    )
    fit = _Fit(scores, np.log(EPOCHS))
    z = rng.normal(size=10) * 0.4 + np.array([0, 0, 0, 0, -2, -1, -2, 0, 0, 0])
    numeric = approx_fprime(z, lambda z: fit(z)[0], 1e-6)
    np.testing.assert_allclose(fit(z)[1], numeric, rtol=1e-4, atol=1e-4)


def test_model_learns_that_the_order_turns_around() -> None:
    trials = observed(30, [1, 1, 3])
    model = CurveModel(EPOCHS, trials)
    ends = [end_of(trial.row) for trial in trials]
    early = [trial.scores[2] for trial in trials]
    by_model = spearmanr(model.predict_trials().mean, ends)
    assert by_model[0] > 0.9 > spearmanr(early, ends)[0] + 0.4


def test_prediction_is_less_certain_far_from_the_trials() -> None:
    near = np.array([[0.5, 0.5, 0.5, 0.0]])
    trials = [Observed(near[0] + 0.01 * i, {2: 0.3, 6: 0.4, 18: 0.5}) for i in range(4)]
    model = CurveModel(EPOCHS, trials)
    far = np.array([[0.0, 1.0, 0.0, 0.5]])
    assert model.predict(far).sd[0] > 2 * model.predict(near).sd[0]


def test_model_on_other_trials_keeps_its_parameters() -> None:
    trials = observed(20, [3])
    model = CurveModel(EPOCHS, trials)
    fewer = model.on(trials[:5])
    assert fewer.parameters is model.parameters
    assert len(fewer.predict_trials().mean) == 5
    assert len(model.predict_trials().mean) == 20


def test_scores_after_an_epoch_are_left_out_as_if_they_did_not_exist() -> None:
    rng = np.random.default_rng(3)
    trials = [
        Observed(trial.row, {epoch: rng.uniform() for epoch in trial.scores})
        for trial in observed(20, [3, 1, 2])
    ]
    model = CurveModel(EPOCHS, trials)
    for index, trial in enumerate(trials):
        early = Observed(trial.row, {2: trial.scores[2]})
        without = model.on([*trials[:index], early, *trials[index + 1 :]])
        expected = without.predict_trials().mean[index]
        assert model.expected_without_later(index, 2) == pytest.approx(expected, abs=1e-8)
        changes = abs(expected - model.predict_trials().mean[index]) > 1e-4
        assert changes == (len(trial.scores) > 1)


def searched(sampler: optuna.samplers.BaseSampler | None, number: int) -> optuna.Study:
    """Return a study whose trials report a whole curve; drawn at random if there is no sampler."""
    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    distributions = {d.name: d.distribution() for d in SPACE.dimensions}
    for _ in range(number):
        trial = study.ask(distributions)
        tell_curve(study, trial)
    return study


def tell_curve(study: optuna.Study, trial: optuna.Trial) -> None:
    row = Encoding(SPACE).encode([trial.params])[0]
    for epoch, score in curve_of(row).items():
        trial.report(score, epoch)
    study.tell(trial, state=TrialState.PRUNED)


def best_end(study: optuna.Study) -> float:
    rows = Encoding(SPACE).encode([trial.params for trial in study.trials])
    return max(map(end_of, rows))


def test_sampler_finds_the_best_end_although_the_first_epochs_mislead() -> None:
    study = searched(CurveSampler(SPACE, EPOCHS, seed=0, startup=6), 24)
    assert best_end(study) > 0.699
    assert best_end(searched(None, 24)) < 0.699
    latest = [trial.params["loss.balance"] for trial in study.trials[-8:]]
    assert latest.count("none") > 4


def test_sampler_draws_the_same_from_the_same_trials() -> None:
    study = searched(None, 12)
    draws = []
    for _ in range(2):
        study.sampler = CurveSampler(SPACE, EPOCHS, seed=3, startup=6)
        trial = study.ask({d.name: d.distribution() for d in SPACE.dimensions})
        draws.append(trial.params)
        study.tell(trial, state=TrialState.FAIL)
    assert draws[0] == draws[1]


def test_trials_that_are_drawn_at_the_same_time_differ() -> None:
    study = searched(None, 7)
    distributions = {d.name: d.distribution() for d in SPACE.dimensions}
    rows = []
    for seed in range(4):
        study.sampler = CurveSampler(SPACE, EPOCHS, seed=seed, startup=6)
        rows.append(Encoding(SPACE).encode([study.ask(distributions).params])[0])
    distances = [np.abs(a - b).max() for i, a in enumerate(rows) for b in rows[:i]]
    assert min(distances) > 0.005


def test_sampler_avoids_where_trials_were_unhealthy() -> None:
    study = searched(None, 30)
    is_bad = [t.params["optim.lr"] > 1e-3 for t in study.trials]
    assert 5 < sum(is_bad) < 25
    other = optuna.create_study()
    for trial, bad in zip(study.trials, is_bad, strict=True):
        other.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                constraints={"unhealthy": 1.0} if bad else {},
            )
        )
    drawn = [draws(study), draws(other)]
    # The best end lies at 6e-3, among the unhealthy ones.
    assert min(drawn[0]) > 5e-3
    assert max(drawn[1]) < 2e-3


def draws(study: optuna.Study) -> list[float]:
    """Return a few values of the first setting that are drawn from the same trials."""
    drawn = []
    for seed in range(5):
        study.sampler = CurveSampler(SPACE, EPOCHS, seed=seed, startup=6)
        trial = study.ask({d.name: d.distribution() for d in SPACE.dimensions})
        drawn.append(trial.params["optim.lr"])
        study.tell(trial, state=TrialState.FAIL)
    return drawn


def played(rule: ExpectedHalving, number: int) -> list[np.ndarray]:
    """Let trials report in turn, as far as the rule lets them; return their settings."""
    rows = Encoding(SPACE).draw(number, np.random.default_rng(1))
    for n, row in enumerate(rows):
        rule.begin(n, Encoding(SPACE).decode(row))
        for epoch, score in curve_of(row).items():
            # The first ones are trained to their ends, so that there is something to learn from.
            if not rule.decide(n, epoch, score) and n >= 8:
                rule.pause(n)
                break
    return list(rows)


def test_trials_with_the_highest_expected_ends_go_on() -> None:
    rule = ExpectedHalving(SPACE, [2, 6], 18, reduction=3, max_paused=100)
    rows = played(rule, 30)
    worth = rule.worth(2)
    assert worth
    assert worth.by_expected > 0.8 > worth.by_score
    ends = np.array([end_of(row) for row in rows])
    ranked = rule._ranked(2)
    assert spearmanr(ends[ranked], -np.arange(30))[0] > 0.9
    paused = rule.next_paused(can_draw=False)
    assert paused in ranked[:12]


def test_order_by_score_is_kept_if_the_model_is_worth_less() -> None:
    """The ends are the first scores here, and have nothing to do with the settings."""
    rule = ExpectedHalving(SPACE, [2, 6], 18, reduction=3, max_paused=100)
    rng = np.random.default_rng(2)
    rows = Encoding(SPACE).draw(24, rng)
    scores = rng.uniform(size=24)
    for n, row in enumerate(rows):
        rule.begin(n, Encoding(SPACE).decode(row))
        for epoch in EPOCHS[: 3 if n < 12 else 1]:
            rule.decide(n, epoch, scores[n])
    worth = rule.worth(2)
    assert worth
    assert worth.by_score > 0.9
    if not worth.is_expected_better:
        assert rule._ranked(2) == sorted(range(24), key=lambda n: -scores[n])
    assert spearmanr(scores[rule._ranked(2)], -np.arange(24))[0] > 0.9


@pytest.mark.parametrize("score", [math.nan, -math.inf])
def test_trial_without_a_score_waits_behind_all_others(score: float) -> None:
    rule = ExpectedHalving(SPACE, [2, 6], 18, reduction=2, max_paused=100)
    for n, value in enumerate([score, 0.1, 0.2, 0.3]):
        rule.begin(n, Encoding(SPACE).decode(np.array([0.1 * n, 0.5, 0.5, 0.0])))
        rule.decide(n, 2, value)
        rule.pause(n)
    assert rule._ranked(2)[-1] == 0
    rule.end(3, is_healthy=False)
    assert rule._ranked(2)[-2:] == [0, 3]


def test_each_whole_number_and_each_choice_is_drawn_as_often() -> None:
    space = Space(
        (
            Dimension("schedule.warmup_epochs", "int", (0, 2)),
            Dimension("augment.extra", "choice", (True, 1)),
        ),
        {"schedule.warmup_epochs": 0, "augment.extra": True},
    )
    encoding = Encoding(space)
    rows = encoding.draw(3000, np.random.default_rng(0))
    points = [encoding.decode(row) for row in rows]
    counts = [sum(p["schedule.warmup_epochs"] == value for p in points) for value in range(3)]
    assert min(counts) > 900
    assert sum(p["augment.extra"] is True for p in points) == pytest.approx(1500, abs=150)
    np.testing.assert_array_equal(encoding.encode(points), rows)
