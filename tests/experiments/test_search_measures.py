"""Measures of the search benchmark: small cases, computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.search import report
from benchmarks.search.measures import (
    Results,
    Search,
    alike_groups,
    anytime,
    arrange,
    compare_ranks,
    critical_difference,
    differences,
    epochs_or_budget,
    epochs_until,
    ranks,
    ratios_to_best_peer,
    regrets_at,
    signed_rank_p,
)

SHARES = (0.0, 0.09, 0.1, 0.5, 1.0)


def search(
    *steps: tuple[int, float, float], method: str = "a", task: str = "t", seed: int = 0
) -> Search:
    """Return a search with a budget of 100 epochs; the regret of a truth x is 2 - 2 x."""
    row = {
        "task": task,
        "method": method,
        "seed": seed,
        "workers": 4,
        "trainings": 10,
        "steps": [list(step) for step in steps],
        "trials": 5,
        "busy": 0.9,
        "seconds": 0.2,
        "best": 1.0,
        "middle": 0.5,
        "itself": 0.25,
        "epochs": 10,
    }
    return Search.from_row(row)


def results_of(regrets: dict[str, list[list[float]]]) -> Results:
    """Return searches that announce one config, with regrets [T][S] by method."""
    searches = [
        search((10, 1 - regret / 2, 1.0), method=method, task=f"t{t}", seed=seed)
        for method, by_task in regrets.items()
        for t, by_seed in enumerate(by_task)
        for seed, regret in enumerate(by_seed)
    ]
    (results,) = arrange(searches)
    return results


def final_regrets(results: Results) -> np.ndarray:
    return results.values(lambda search: search.regret(search.final_truth))


def test_regret_is_that_of_the_config_itself_until_something_is_announced() -> None:
    steps = (10, 0.5, 0.5), (50, 0.75, 1.0)
    # 0.25 is the truth of the config itself.
    assert regrets_at(search(*steps), SHARES).tolist() == [1.5, 1.5, 1.0, 0.5, 0.5]
    assert regrets_at(search(), SHARES).tolist() == [1.5] * 5


def test_truths_that_are_equal_after_rounding_are_no_improvement() -> None:
    row = {"task": "t", "method": "a", "seed": 0, "workers": 1, "trainings": 1, "epochs": 1}
    cost = {"trials": 1, "busy": 1.0, "seconds": 0.0}
    truths = {"best": 1.0, "middle": 0.5, "itself": 0.123456}
    ended = Search.from_row({**row, **cost, **truths, "steps": [[1, 0.12346, 0.12346]]})
    assert not ended.final_truth > ended.itself


def test_band_is_over_seeds_of_the_mean_over_tasks() -> None:
    # The mean over tasks is 0.2 with seed 0 and 0.4 with seed 1.
    results = results_of({"a": [[0.0, 0.8], [0.4, 0.0]]})
    curve = anytime(results, [1.0])
    assert curve.mean.round(6).tolist() == [[0.3]]
    assert curve.low.round(6).tolist() == [[0.25]]
    assert curve.high.round(6).tolist() == [[0.35]]


def test_tied_methods_share_the_mean_of_their_ranks() -> None:
    values = np.array([[0.1, 0.3], [0.1, 0.2], [0.5, 0.1 + 0.2]])
    assert ranks(values).tolist() == [[1.5, 2.5], [1.5, 1.0], [3.0, 2.5]]


def test_seeds_that_a_method_lacks_are_left_out_for_all() -> None:
    full = [search(method=m, seed=s) for m in ("a", "b") for s in (0, 1)]
    (results,) = arrange(full[:-1])
    assert results.seeds == (0,)
    assert results.num_left_out == 1
    with pytest.raises(ValueError, match="no seed has every method on every task"):
        arrange([full[0], full[-1]])


def test_epochs_count_until_the_regret_is_within_the_tolerance_for_good() -> None:
    # Regrets 0.5, 0.02, 0.5, 0.02: the first time does not last.
    steps = (5, 0.75, 1.0), (20, 0.99, 1.0), (30, 0.75, 1.0), (60, 0.99, 1.0)
    assert epochs_until(search(*steps), 0.05) == 60
    assert epochs_until(search(*steps), 0.5) == 5
    assert epochs_until(search(*steps[:3]), 0.05) is None
    assert epochs_until(search(), 0.05) is None


def test_search_that_never_arrives_counts_with_the_whole_budget() -> None:
    assert epochs_or_budget(search((5, 0.75, 1.0)), 0.05) == 100


def test_ratio_is_to_one_peer_for_all_tasks() -> None:
    # Means over seeds by task: 20 and 20; 10 and 80; 40 and 40.
    epochs = np.array([[[20.0] * 3] * 2, [[10.0] * 3, [80.0] * 3], [[30, 30, 60], [10, 10, 100]]])
    peer, ratios = ratios_to_best_peer(epochs, np.array([False, True, True]))
    assert peer == 1  # sqrt(10 * 80) = 28.3 is less than 40
    assert ratios == pytest.approx([20 / 800**0.5, 1.0, 40 / 800**0.5])


def test_p_values_are_those_of_the_signed_ranks_with_holms_correction() -> None:
    # Over six pairs: all signs equal has p = 2 / 2^6; over two tasks: 2 / 2^2.
    results = results_of(
        {
            "a": [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],
            "b": [[0.2, 0.4, 0.6], [0.5, 0.7, 0.9]],
            "c": [[0.2, 0.4, 0.6], [0.5, 0.7, 0.8]],
        }
    )
    assert results.methods == ("a", "c", "b")  # the lowest regret comes first
    compared = differences(results, final_regrets(results), "a")
    assert [item.method for item in compared] == ["c", "b"]
    assert [round(item.difference, 4) for item in compared] == [-0.3333, -0.35]
    assert [item.p_pairs for item in compared] == [2 * 2 / 64] * 2
    assert [item.p_tasks for item in compared] == [1.0, 1.0]


def test_searches_without_a_difference_have_a_p_of_1() -> None:
    assert signed_rank_p(np.zeros(5)) == 1.0
    assert signed_rank_p(np.array([0.3])) == 1.0


def test_critical_difference_is_that_of_the_literature() -> None:
    # Demsar 2006, section 3.2.2: four methods, 14 data sets, q = 2.569; and table 5a.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(10, 1) * (6 / 110) ** 0.5 == pytest.approx(3.164, abs=5e-4)


def test_methods_are_ranked_by_their_mean_over_seeds() -> None:
    # Ranks 1, 2, 3 on all four tasks: chi square = 12 / (4 * 3 * 4) * (16 + 64 + 144) - 48 = 8.
    regrets = np.array([[[0.1, 0.3]] * 4, [[0.0, 0.5]] * 4, [[0.4, 0.4]] * 4])
    comparison = compare_ranks(regrets)
    assert comparison.mean_ranks.tolist() == [1.0, 2.0, 3.0]
    assert comparison.p == pytest.approx(np.exp(-8 / 2))  # 2 degrees of freedom
    assert compare_ranks(np.ones((3, 2, 1))).p == 1.0


def test_a_group_of_alike_methods_is_not_part_of_a_larger_one() -> None:
    assert alike_groups([1.0, 1.5, 2.2, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert alike_groups([1.0, 1.2, 1.4, 4.0], 1.0) == [(0, 2)]
    assert alike_groups([1.0, 2.0], 1.0) == []


def test_reference_is_the_wanted_method_or_the_first_of_segtune() -> None:
    methods = ["random", "segtune tpe", "segtune gp"]
    assert report.reference_method(methods, None) == "segtune gp"
    assert report.reference_method([*methods, "segtune auto"], None) == "segtune auto"
    assert report.reference_method(methods, "random") == "random"
    assert report.reference_method(["random"], None) is None


def test_tables_have_a_row_for_each_method() -> None:
    results = results_of({"segtune gp": [[0.0], [0.0]], "a": [[0.4], [0.2]], "b": [[2.0], [0.5]]})
    shown = report.tables(results, None, within=0.05, at=1.0)
    assert [len(rows) for _, rows in shown] == [3, 3, 2, 3, 3, 3]
    epochs = report.epoch_rows(results, 0.05)
    assert epochs[0]["arrive"] == "100%"
    assert epochs[0]["ratio to a"] == "0.10"  # 10 epochs, and the peer takes the whole budget
    ends = report.end_rows(results)
    # The mean of (0.4, 0.2) is 0.3; the best drawn config has a regret of 0.
    assert (ends[1]["regret"], ends[1]["best drawn"], ends[1]["gap"]) == ("0.300", "0.000", "0.300")
    # Truths 0.0 and 0.75, and the config itself has 0.25.
    assert ends[2]["better than itself"] == "50%"
    assert ends[2]["ms per trial"] == "40.0"
    assert len(report.task_rows(results, 0.05)) == 6


def test_figures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = results_of({"segtune gp": [[0.0], [0.1]], "a": [[0.4], [0.2]], "b": [[2.0], [0.5]]})
    paths = report.write_figures([results], tmp_path, "svg", at=1.0)
    assert [path.name.split("-")[0] for path in paths] == ["regret", "ranks"]
    again = report.write_figures([results], tmp_path / "again", "svg", at=1.0)
    assert [path.read_text() for path in paths] == [path.read_text() for path in again]
