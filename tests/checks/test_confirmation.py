"""The statistics of a confirmation: values by hand, and against scipy."""

import numpy as np
import pytest
from scipy import stats

from segtune.checks.confirmation import (
    POWER,
    compare,
    holm,
    more_seeds,
    pooled_noise,
    spread_of,
)

BASELINE = (0.50, 0.52, 0.51)
CANDIDATE = (0.53, 0.56, 0.53)


def test_one_candidate_is_compared_by_the_paired_t_test() -> None:
    (result,) = compare(BASELINE, [CANDIDATE])
    expected = stats.ttest_rel(CANDIDATE, BASELINE)
    assert result.differences == pytest.approx((0.03, 0.04, 0.02))
    assert result.gain == pytest.approx(0.03)
    # Standard deviation of the differences 0.01, t of 2 degrees of freedom 4.3027.
    assert result.margin == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert result.p == pytest.approx(expected.pvalue)
    assert result.outcome == "better"


def test_mean_and_standard_deviation_are_those_of_a_sample() -> None:
    spread = spread_of((0.50, None, 0.52, 0.51))
    assert (spread.mean, spread.std) == pytest.approx((0.51, 0.01))
    assert spread_of((0.5, None)).std is None
    assert spread_of((None,)).mean is None


def test_spread_is_pooled_over_all_candidates() -> None:
    table = np.random.default_rng(0).normal(0.5, 0.01, (4, 3))
    noise, freedom = pooled_noise(table)
    # The residuals of score = config + seed by least squares, as an independent computation.
    design = np.array([[*np.eye(4)[i], *np.eye(3)[j]] for i in range(4) for j in range(3)])
    fitted = design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]
    assert freedom == 6
    assert noise**2 == pytest.approx(((table.ravel() - fitted) ** 2).sum() / 6)


def test_what_is_common_to_a_seed_is_not_noise() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0.5, 0.01, (3, 4))
    shifted = rows + np.array([0.0, 0.1, -0.2, 0.05])
    plain = compare(rows[0].tolist(), rows[1:].tolist())
    assert [c.p for c in compare(shifted[0].tolist(), shifted[1:].tolist())] == pytest.approx(
        [c.p for c in plain]
    )


def test_holm_corrects_for_the_candidates_that_are_left() -> None:
    assert holm(np.array([0.01, 0.04, 0.03]), family=3) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.01, 0.04]), family=4) == pytest.approx([0.04, 0.12])


def test_candidate_below_the_baseline_is_worse() -> None:
    (result,) = compare(CANDIDATE, [BASELINE])
    assert (result.outcome, result.more_seeds) == ("worse", None)


def test_p_values_double_with_every_look_at_more_seeds() -> None:
    (first,) = compare(BASELINE, [CANDIDATE])
    (second,) = compare(BASELINE, [CANDIDATE], looks=2)
    assert first.p is not None
    assert second.p == pytest.approx(2 * first.p)
    # The interval has the level of the test: t of 2 degrees of freedom for 0.025 is 6.2053.
    assert second.margin == pytest.approx(6.2053 * 0.01 / 3**0.5, rel=1e-4)
    assert second.outcome == "within the noise"


def test_candidate_with_an_unhealthy_seed_is_never_better() -> None:
    failed, other = compare((0.5, 0.51, 0.52), [(0.9, None, 0.91), (0.8, 0.82, 0.81)])
    assert failed.outcome == "unhealthy"
    assert failed.p is None
    assert failed.differences == pytest.approx((0.4, None, 0.39))
    # It still counts as one of the two candidates that the p value is corrected for.
    (alone,) = compare((0.5, 0.51, 0.52), [(0.8, 0.82, 0.81)])
    assert alone.p is not None
    assert other.p == pytest.approx(2 * alone.p)
    assert other.outcome == "better"


def test_seed_without_a_baseline_is_left_out_for_all() -> None:
    with_gap = compare((0.50, None, 0.52, 0.51), [(0.53, 0.1, 0.56, 0.53)])[0]
    without = compare(BASELINE, [CANDIDATE])[0]
    assert (with_gap.gain, with_gap.p) == pytest.approx((without.gain, without.p))
    assert with_gap.differences[1] is None


@pytest.mark.parametrize("baseline", [(None, None, None), (0.5, None, None)])
def test_fewer_than_two_pairs_are_no_comparison(baseline: tuple[float | None, ...]) -> None:
    (result,) = compare(baseline, [CANDIDATE])
    assert (result.outcome, result.gain, result.more_seeds) == ("no comparison", None, None)


def test_equal_scores_are_within_the_noise_and_not_an_error() -> None:
    (result,) = compare((0.1, 0.1), [(0.1, 0.1)])
    assert (result.outcome, result.p, result.margin) == ("within the noise", 1.0, 0.0)


def test_advised_seeds_give_the_power_of_a_noncentral_t_test() -> None:
    gain, noise, seeds, candidates = 0.02, 0.01, 3, 3
    needed = more_seeds(gain, noise, seeds, candidates, candidates, looks=1)
    assert needed is not None

    def power(num_seeds: int) -> float:
        # The next look is the second one, at level 0.025; three candidates share it.
        freedom = candidates * (num_seeds - 1)
        critical = stats.t.ppf(1 - 0.05 / 2 / 3 / 2, freedom)
        unbiased = noise * (6 / stats.chi2.median(6)) ** 0.5
        shift = gain / (unbiased * (2 / num_seeds) ** 0.5)
        return float(stats.nct.sf(critical, freedom, shift))

    assert power(seeds + needed - 1) < POWER <= power(seeds + needed)


def test_no_seeds_are_advised_for_a_difference_too_small_or_negative() -> None:
    assert more_seeds(0.001, 0.01, 3, 3, 3, looks=1) is None
    assert more_seeds(-0.02, 0.01, 3, 3, 3, looks=1) is None
