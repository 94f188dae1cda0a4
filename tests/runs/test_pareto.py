"""The Pareto front of a search, and the checkpoints that it keeps."""

import random
from dataclasses import replace

from segtune.runs.kept_checkpoints import KeptCheckpoints
from segtune.runs.pareto import by_front, nondominated, pareto_front
from segtune.runs.records import NetworkProfile
from segtune.runs.results import TrialResult
from segtune.runs.rundir import SearchDir

OBJECTIVES = ("miou", "params_m")


def trial(number: int, miou: float, millions: float, **ending: object) -> TrialResult:
    profile = NetworkProfile(int(millions * 1e6), ("a", "b"), 32, 32)
    values = {"state": "completed", "miou": miou, "profile": profile, **ending}
    return TrialResult(number, **values)  # pyright: ignore[reportArgumentType]


def test_front_equals_that_of_comparing_all_pairs() -> None:
    dice = random.Random(0)
    for _ in range(30):
        costs = [(dice.randint(0, 6), dice.randint(0, 6), dice.randint(0, 6)) for _ in range(20)]
        expected = [
            index
            for index, point in enumerate(costs)
            if not any(
                other != point and all(a <= b for a, b in zip(other, point, strict=True))
                for other in costs
            )
        ]
        assert nondominated(costs) == expected


def test_fronts_follow_one_another() -> None:
    assert list(by_front([(3, 3), (1, 2), (2, 1), (2, 2)])) == [1, 2, 3, 0]


def test_front_has_the_best_miou_first_and_only_trials_that_may_win() -> None:
    trials = [
        trial(0, 0.5, 10),
        trial(1, 0.4, 10),  # dominated
        trial(2, 0.3, 5),
        trial(3, 0.9, 4, broken_guards=("too slow",)),
        trial(4, 0.9, 4, state="unhealthy"),
        trial(5, 0.6, 12),
        TrialResult(6, "completed", miou=0.9),  # not measured
    ]
    for order in (trials, trials[::-1]):
        assert [t.number for t in pareto_front(order, OBJECTIVES)] == [5, 0, 2]


def test_checkpoints_of_the_front_are_kept_besides_those_of_the_best(
    search_run: SearchDir,
) -> None:
    trials = [trial(0, 0.5, 10), trial(1, 0.6, 11), trial(2, 0.3, 5), trial(3, 0.2, 6)]
    for result in trials:
        (search_run.trial(result.number).checkpoints / "best-0001").mkdir(parents=True)
    KeptCheckpoints(search_run, 1, trials, OBJECTIVES).sweep(grace_s=0.0)
    kept = [t.number for t in trials if search_run.trial(t.number).checkpoints.exists()]
    assert kept == [0, 1, 2]
    KeptCheckpoints(search_run, 1, trials).sweep(grace_s=0.0)
    kept = [t.number for t in trials if search_run.trial(t.number).checkpoints.exists()]
    assert kept == [0, 1]  # trial 0 is the config itself


def fast(number: int, miou: float, latency_ms: float, **params: object) -> TrialResult:
    result = trial(number, miou, 10, params=params)
    assert result.profile
    return replace(result, profile=replace(result.profile, latency_ms=latency_ms))


def test_trials_with_one_network_have_one_latency() -> None:
    # The same network three times; the drop path rate is 0 in a validation.
    same = [
        fast(0, 0.5, 20.2, **{"optim.lr": 0.1}),
        fast(1, 0.6, 20.4, **{"model.drop_path": 0.1}),
        fast(2, 0.4, 20.0, **{"model.dropout": 0.1}),
    ]
    other = fast(3, 0.55, 20.1, **{"model.encoder": "mit_b0"})
    objectives = ("miou", "latency_ms")
    assert [t.number for t in pareto_front(same, objectives)] == [1]
    front = pareto_front([*same, other], objectives)
    assert [t.number for t in front] == [1, 3]
    assert front[0].profile == same[1].profile  # as measured


def test_a_checkpoint_is_kept_if_its_trial_returns_to_the_front(search_run: SearchDir) -> None:
    networks = [{"model.encoder": name} for name in ("mit_b0", "mit_b1")]
    trials = [
        fast(0, 0.5, 20.0, **networks[0]),
        fast(1, 0.6, 19.0, **networks[1]),  # faster and better than trial 0
        fast(2, 0.4, 25.0, **networks[1]),  # the median of its network is 22 now
    ]
    kept = KeptCheckpoints(search_run, 1, trials, ("miou", "latency_ms"))
    for result in trials:
        (search_run.trial(result.number).checkpoints / "best-0001").mkdir(parents=True)
    kept.sweep(grace_s=0.0)
    assert [t.number for t in trials if search_run.trial(t.number).checkpoints.exists()] == [0, 1]
