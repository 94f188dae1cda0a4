"""How much a search may still gain, from the scores of its trials."""

import itertools
import random
import statistics

import pytest

from segtune.tuning.expected_gain import MIN_TRIALS, expected_gain, mean_best


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_mean_best_is_the_mean_over_all_choices(count: int) -> None:
    scores = [0.3, 0.1, 0.7, 0.1, 0.4]
    choices = itertools.combinations(scores, count)
    assert mean_best(scores, count) == pytest.approx(statistics.mean(map(max, choices)))


def test_nothing_is_known_of_few_trials() -> None:
    assert expected_gain([0.5] * (MIN_TRIALS - 1)) is None
    assert expected_gain([0.5] * MIN_TRIALS) == pytest.approx(0.0)


def test_what_the_later_trials_have_gained_over_the_first_third_counts() -> None:
    # Nearly all of the later trials are equal: half of them would have the best one, too.
    assert expected_gain([0.2] * 12 + [0.5] * 24) == pytest.approx(0.3)
    assert expected_gain([0.5] * 36) == pytest.approx(0.0)


def test_when_the_best_trial_was_drawn_does_not_matter_to_the_mean() -> None:
    # One trial in forty is better by 0.4: half of the trials contain it with probability 1/2.
    for position in range(6):
        scores = [0.2] * 40
        scores[position] = 0.6
        assert expected_gain(scores) == pytest.approx(0.2, abs=0.02)


def test_a_gain_is_remembered_for_half_of_the_trials() -> None:
    # The 11th trial gains 0.3 over the first third as long as that has at most ten trials.
    rising = [0.2] * 10 + [0.5] * 50
    assert expected_gain(rising) == pytest.approx(0.3)  # after 30 trials, a third has ten
    assert expected_gain([0.2] * 10 + [0.5] * 80) == pytest.approx(0.0, abs=1e-6)


def test_random_draws_gain_no_more_than_is_expected() -> None:
    # The best of n uniform numbers is n / (n + 1) in the mean.
    rng = random.Random(0)
    gains = []
    for _ in range(400):
        expected = expected_gain([rng.random() for _ in range(40)])
        assert expected is not None
        gains.append(expected)
    assert 80 / 81 - 40 / 41 < statistics.mean(gains) < 0.15


def test_scores_in_another_unit_give_the_gain_in_that_unit() -> None:
    rng = random.Random(1)
    scores = [rng.random() for _ in range(30)]
    gain = expected_gain(scores)
    assert gain is not None
    assert expected_gain([100 * score + 7 for score in scores]) == pytest.approx(100 * gain)
