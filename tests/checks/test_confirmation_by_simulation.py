"""Simulated searches: how often a confirmation is wrong, and how often it finds what is better."""

import numpy as np
import pytest

from benchmarks.confirmation import NOISE, Trainings, World, confirm

NUM_SEARCHES = 1000


@pytest.mark.parametrize(
    "world",
    [
        World("no difference"),
        World("all configs are better with some seeds", shared=0.7),
        World("candidates spread twice as far", spread=2.0),
        World("heavy tails", heavy_tails=True),
    ],
    ids=lambda world: world.name,
)
def test_better_is_said_in_at_most_5_of_100_searches_without_a_difference(world: World) -> None:
    rng = np.random.default_rng(0)
    ends = [confirm(world, rng) for _ in range(NUM_SEARCHES)]
    assert np.mean([end.first for end in ends]) <= 0.05
    # Also if the user follows the advice to add seeds.
    assert np.mean([end.advised for end in ends]) <= 0.05


def test_gain_of_twice_the_noise_is_found_with_the_advised_seeds_in_80_of_100_searches() -> None:
    rng = np.random.default_rng(0)
    world = World("better by twice the noise", gain=2.0)
    ends = [confirm(world, rng) for _ in range(NUM_SEARCHES)]
    among_top = [end.is_found for end in ends if end.is_confirmed]
    assert len(among_top) > 700
    assert np.mean(among_top) >= 0.8


def test_gain_of_fresh_seeds_is_free_of_the_winners_curse() -> None:
    rng = np.random.default_rng(0)
    gains, covered = [], []
    for _ in range(NUM_SEARCHES):
        trainings = Trainings(World("no difference"), rng)
        trainings.add(3)
        comparisons = trainings.compare(looks=1)
        gains.append(comparisons[0].gain)
        best = max(comparisons, key=lambda c: c.gain or 0.0)
        assert best.gain is not None
        assert best.margin is not None
        covered.append(abs(best.gain) <= best.margin)
    # The best of 20 single scores is 1.9 times the noise above the truth.
    assert abs(np.mean(np.array(gains, float))) < 0.1 * NOISE
    # The interval also holds for the candidate that is picked as the best of the three.
    assert np.mean(covered) >= 0.95
