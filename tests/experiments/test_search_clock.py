"""The virtual clock and the tables of the search benchmark."""

from typing import Any

import pytest

from benchmarks.search.clock import VirtualSearch
from benchmarks.search.methods.method import Decision, End, Job
from benchmarks.search.methods.priors import ERROR, space_with_priors
from benchmarks.search.methods.registry import (
    METHODS,
    WITH_PRIORS,
    check_methods,
    make_method,
)
from benchmarks.search.methods.segtune_method import SegtuneMethod
from benchmarks.search.recorded import RecordedTask
from segtune.config.schema import ExperimentConfig
from segtune.errors import SegtuneError
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study

NAME = "loss.ce.weight"


def line(config: int, seed: int, mious: list[float], end: str = "") -> dict[str, Any]:
    return {"config": config, "seed": seed, "params": {NAME: config / 10}, "end": end} | {
        "mious": mious
    }


@pytest.fixture
def task() -> RecordedTask:
    """Return a table of 10 configs and 4 epochs; config 9 would be best, but ends unhealthy."""
    lines = [line(n, 0, [n / 100 * epoch for epoch in (1, 2, 3, 4)]) for n in range(9)]
    lines.append(line(9, 0, [0.9, 0.9], "diverged"))
    space = Space((Dimension(NAME, "uniform", (0.0, 1.0)),), {NAME: 0.0})
    config = ExperimentConfig().override({"schedule.warmup_epochs": 0, NAME: 0.0})
    return RecordedTask("table", Study(config, space, SearchConfig()), lines, grace=2)


class Scripted:
    """Asks for config 9, 8, 7 ... and pauses every trial at epoch 2, for one other trial."""

    def __init__(self) -> None:
        self.num_trials = 0
        self.paused: list[int] = []
        self.trained: dict[int, list[int]] = {}
        self.ends: dict[int, End] = {}

    def next_job(self) -> Job:
        if len(self.paused) > 1:
            return Job(self.paused.pop(0))
        self.num_trials += 1
        return Job(self.num_trials - 1, {NAME: 1.0})

    def began(self, number: int, params: dict[str, Any]) -> None:
        self.trained[number] = [round(10 * params[NAME])]

    def report(self, number: int, epoch: int, score: float) -> Decision:
        self.trained[number].append(epoch)
        if epoch != 2:
            return Decision.CONTINUE
        self.paused.append(number)
        return Decision.PAUSE

    def end(self, number: int, state: End) -> None:
        self.ends[number] = state

    def close(self) -> None:
        pass


def test_paused_trials_go_on_where_they_were_and_each_config_is_trained_once(
    task: RecordedTask,
) -> None:
    method = Scripted()
    search = VirtualSearch(task, method, seed=0, workers=1)
    outcome = search.run(12)
    assert search.spent == 12
    # The unhealthy config reports its first epoch only: the second one is its end.
    assert method.trained[0] == [9, 1]
    assert method.ends[0] == "unhealthy"
    assert method.trained[1] == [8, 1, 2, 3, 4]
    assert method.ends[1] == "completed"
    configs = [trained[0] for trained in method.trained.values()]
    assert len(set(configs)) == len(configs)
    assert outcome.num_trials == len(method.trained)


def test_announced_is_the_truth_of_the_best_healthy_trial(task: RecordedTask) -> None:
    method = Scripted()
    steps = VirtualSearch(task, method, seed=0, workers=1).run(12).steps
    # After the end of config 9, which is never announced, config 8 has reported 0.08.
    assert (steps[0].epochs, steps[0].truth) == (3, pytest.approx(0.32))
    assert all(step.truth <= 0.32 for step in steps)


def test_workers_train_at_the_same_time(task: RecordedTask) -> None:
    alone, two = (VirtualSearch(task, Scripted(), 0, workers) for workers in (1, 2))
    alone.run(12)
    two.run(12)
    assert two.now < 0.7 * alone.now


def test_truth_and_regret_of_a_table(task: RecordedTask) -> None:
    assert task.truth(task.nearest({NAME: 0.81}, ())) == pytest.approx(0.32)
    assert task.truth(task.nearest({NAME: 1.0}, ())) == 0.0  # unhealthy
    assert task.nearest({NAME: 1.0}, {9, 8}).params == {NAME: 0.7}
    assert task.regret(0.32) == 0.0
    assert task.regret(0.16) == 1.0  # the median of the healthy ones


def test_noise_of_a_table_is_that_between_its_seeds(task: RecordedTask) -> None:
    config = task.nearest({NAME: 0.4}, ())
    assert task.curve(config, 1) == task.curve(config, 2)  # no config has two seeds
    repeated = [line(n, seed, [0.2 + n / 10 + 0.1 * seed] * 3) for n in (1, 2) for seed in (0, 1)]
    noisy = RecordedTask("noisy", task.study, repeated, grace=1)
    config = noisy.nearest({NAME: 0.1}, ())
    assert noisy.truth(config) == pytest.approx(0.35)
    # Two seeds that differ by 0.1 have a standard deviation of 0.0707.
    ends = {round(noisy.curve(config, seed).scores[-1] - 0.35, 4) for seed in range(20)}
    assert ends == {-0.0707, 0.0707}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_spends_its_budget(task: RecordedTask, name: str) -> None:
    method = make_method(name, task, seed=0)
    try:
        search = VirtualSearch(task, method, seed=0, workers=2)
        search.run(15)
    finally:
        method.close()
    assert search.spent == 15
    assert search.trials[0].config.params == task.config_itself().params


def test_priors_lie_near_the_best_config_or_near_the_worst(task: RecordedTask) -> None:
    # The best healthy config of the table has 0.8, the worst 0.
    for is_good, meant in ((True, 0.8), (False, 0.0)):
        spaces = [space_with_priors(task, seed, is_good=is_good) for seed in range(20)]
        guesses = [d.prior.value for space in spaces for d in space.dimensions if d.prior]
        assert len(set(guesses)) > 5
        assert all(abs(guess - meant) < 3 * ERROR for guess in guesses)
        assert space_with_priors(task, 3, is_good=is_good) == spaces[3]


@pytest.mark.parametrize("name", WITH_PRIORS)
def test_a_method_with_a_prior_searches_the_space_with_it(task: RecordedTask, name: str) -> None:
    method = make_method(name, task, seed=4)
    assert isinstance(method, SegtuneMethod)
    study = method.searcher.study
    method.close()
    assert study.space == space_with_priors(task, 4, is_good="good" in name)
    assert study.search.sampler in name.split(",")[0]


def test_unknown_method_and_missing_peer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SegtuneError, match="did you mean 'random'"):
        check_methods(["rando"])
    monkeypatch.delenv("SEGTUNE_DEHB_PYTHON", raising=False)
    with pytest.raises(SegtuneError, match=r"SEGTUNE_DEHB_PYTHON: not set.*pip install dehb"):
        check_methods(["DEHB"])
