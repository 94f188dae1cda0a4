"""What a search would lose if it ended when little is left to gain."""

from typing import Any

import pytest

from benchmarks.search.clock import Step
from benchmarks.search.left_to_gain import LIMITS, Look, Watched, rows_of

STEPS = [Step(1, 0.5, 0.5), Step(40, 0.7, 0.7), Step(80, 0.72, 0.75)]
RESTS = Watched(STEPS, [Look(30, 0.2), Look(50, 0.005), Look(60, 0.1)], budget=100)
GAINS = Watched(STEPS, [Look(30, 0.2), Look(50, 0.1)], budget=100)


def test_a_search_ends_at_the_first_look_below_the_limit() -> None:
    assert [RESTS.end(limit) for limit in (0.3, 0.01, 0.003)] == [30, 50, None]


def test_what_is_lost_is_what_the_search_gained_later() -> None:
    assert RESTS.lost(39) == pytest.approx(0.22)
    assert RESTS.lost(50) == pytest.approx(0.02)
    assert RESTS.lost(100) == 0.0


def test_a_rule_is_compared_with_a_smaller_budget_that_saves_as_much() -> None:
    rows: list[Any] = rows_of([RESTS, GAINS], "gp")
    of_limit = dict(zip(LIMITS, rows, strict=True))
    # One of two searches ends after half of its budget, so both could end after three quarters.
    assert of_limit[0.01] == {
        "sampler": "gp",
        "regret": 0.01,
        "ended": "1 of 2",
        "budget saved, mean": "25%",
        "lost, mean": "0.0100",
        "by a smaller budget for all": "0.0200",
        "lost, most": "0.0200",
        "lost more than the limit": 1,
    }
    assert of_limit[0.003]["ended"] == "0 of 2"
    assert of_limit[0.003]["lost, most"] == "0.0000"
