"""Priors of settings: how they are read, what they draw, and which trials they draw."""

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune.checks.drawn_trials import random_points
from segtune.cluster.tune_searcher import StudySearcher
from segtune.errors import ConfigError
from segtune.runs.rundir import SearchDir
from segtune.tuning.prior import Prior
from segtune.tuning.samplers import is_drawn_from_priors
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study

MakeStudy = Callable[..., Study]
Play = Callable[..., list[dict[str, Any]]]

LR = {"loguniform": [1e-5, 1e-1], "prior": 1e-2, "confidence": "high"}
GAMMA = {"uniform": [0.0, 4.0]}
SPACE = {"optim.lr": LR, "loss.focal.gamma": GAMMA}


def test_a_prior_is_read_and_written_for_every_kind(make_study: MakeStudy) -> None:
    space = {
        "optim.lr": LR,
        "loss.focal.gamma": {**GAMMA, "prior": 2},
        "schedule.batch_size": {"int": [4, 8], "prior": 6, "confidence": "low"},
        "augment.mix.kind": {"choice": ["none", "cutmix"], "prior": "cutmix"},
        "loss.ohem.keep": {"choice": [None, 0.5], "prior": None},
    }
    written = make_study(space).space.dump()
    medium = {"confidence": "medium"}
    assert written == {n: medium | body for n, body in space.items()}
    assert make_study(written).space.dump() == written
    assert isinstance(written["loss.focal.gamma"]["prior"], float)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {**LR, "prior": 0.5},
            "prior: 0.5 is outside loguniform [1e-05, 0.1]; the nearest value is 0.1: take a value "
            "of the range, or widen it",
        ),
        (
            {**LR, "prior": "small"},
            "prior: allowed is one number of loguniform [1e-05, 0.1], got 'small'",
        ),
        (
            {**LR, "confidence": "mdium"},
            "confidence: allowed is one of low, medium, high, got 'mdium'; did you mean 'medium'?",
        ),
        (
            {"prior": 6e-5, "confidence": "low"},
            "a prior needs a range that it lies in; add one, for example loguniform: "
            "[6e-06, 0.0006]",
        ),
        (
            {"loguniform": [1e-5, 1e-1], "confidence": "low"},
            "confidence: there is no prior; add prior: VALUE, or remove confidence",
        ),
        ({**LR, "priors": 1}, "got ['loguniform', 'priors']; did you mean 'prior'?"),
        ({"loguniform": [1e-5, 1e-1], "default": 1e-2}, "write prior: VALUE"),
    ],
)
def test_a_wrong_prior_is_refused_with_a_way_out(
    make_study: MakeStudy, body: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_study({"optim.lr": body})
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_prior_of_a_choice_must_be_one_of_its_options(make_study: MakeStudy) -> None:
    body = {"choice": ["none", "cutmix"], "prior": "cutmx"}
    with pytest.raises(ConfigError, match=r"none of the choices .* did you mean 'cutmix'\?"):
        make_study({"augment.mix.kind": body})
    body = {"int": [4, 8], "prior": 5.5}
    with pytest.raises(ConfigError, match=r"allowed is one whole number of int \[4, 8\], got 5.5"):
        make_study({"schedule.batch_size": body})


def test_a_range_is_drawn_from_a_normal_density_cut_off_at_the_ends() -> None:
    dimension = Dimension("a", "uniform", (0.0, 4.0), prior=Prior(2.0, "medium"))
    # Mean 0.5 and standard deviation 0.25 on 0..1: the ends are 2 standard deviations away.
    normal = statistics.NormalDist(0.5, 0.25)
    inside = normal.cdf(1.0) - normal.cdf(0.0)
    assert dimension.quantile(0.5) == pytest.approx(2.0)
    assert dimension.quantile(0.0) == pytest.approx(0.0)
    share_below_3 = (normal.cdf(0.75) - normal.cdf(0.0)) / inside
    assert dimension.quantile(share_below_3) == pytest.approx(3.0)


def test_a_logarithmic_range_is_drawn_from_a_density_that_is_normal_in_the_logarithm() -> None:
    dimension = Dimension("a", "loguniform", (1e-4, 1.0), prior=Prior(1e-2, "high"))
    assert dimension.quantile(0.5) == pytest.approx(1e-2)
    # A factor of 10 is a quarter of the range: 2 standard deviations, the ends are 4.
    below = statistics.NormalDist().cdf(-2.0)
    assert dimension.quantile(below) == pytest.approx(1e-3, rel=1e-2)
    assert dimension.quantile(1 - below) == pytest.approx(1e-1, rel=1e-2)


@pytest.mark.parametrize(("confidence", "times"), [("low", 2), ("medium", 4), ("high", 6)])
def test_the_prior_option_is_drawn_so_many_times_as_often_as_each_other(
    confidence: str, times: int
) -> None:
    dimension = Dimension("a", "choice", ("a", "b", "c"), prior=Prior("b", confidence))
    drawn = [dimension.quantile(step / 8000) for step in range(8000)]
    assert drawn.count("b") == pytest.approx(times * drawn.count("a"), abs=8)
    assert drawn.count("a") == pytest.approx(drawn.count("c"), abs=2)


@pytest.mark.parametrize(("low", "high", "prior"), [(3, 9, 9), (0, 1, 0), (1, 5, 3)])
def test_a_whole_number_is_drawn_more_rarely_the_farther_it_is_from_the_prior(
    low: int, high: int, prior: int
) -> None:
    dimension = Dimension("a", "int", (low, high), prior=Prior(prior, "medium"))
    drawn = [dimension.quantile(step / 10_000) for step in range(10_000)]
    counts = [drawn.count(value) for value in range(low, high + 1)]
    assert sum(counts) == 10_000
    by_distance = sorted(range(low, high + 1), key=lambda value: abs(value - prior))
    ordered = [counts[value - low] for value in by_distance]
    # Values on both sides of the prior are equally frequent, up to the steps.
    assert all(nearer >= farther - 2 for nearer, farther in itertools.pairwise(ordered))
    assert ordered[0] > ordered[-1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_drawn_from_a_prior_at_an_end_stay_in_the_range(value: float) -> None:
    dimension = Dimension("a", "uniform", (0.0, 1.0), prior=Prior(value, "high"))
    drawn = [dimension.quantile(share) for share in (0.0, 1e-16, 0.5, 1 - 2**-53)]
    assert drawn == sorted(drawn)
    assert all(0.0 <= position <= 1.0 for position in drawn)


def test_the_share_of_trials_from_the_priors_falls_with_their_number() -> None:
    space = Space((Dimension("a", "uniform", (0.0, 1.0), prior=Prior(0.5)),), {})

    def count(num_trials: int, sampler: Any = "gp", searched: Space = space) -> int:
        search = SearchConfig(sampler=sampler)
        numbers = range(1, num_trials + 1)
        return sum(is_drawn_from_priors(search, searched, number) for number in numbers)

    assert [count(n) for n in (1, 2, 10, 50, 100, 1000)] == [1, 1, 5, 14, 17, 29]
    assert count(100, "random") == 50
    assert count(100, "grid") == 0
    assert count(100, searched=Space((Dimension("a", "uniform", (0.0, 1.0)),), {})) == 0
    assert not is_drawn_from_priors(SearchConfig(), space, 0)  # trial 0 is the config itself


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2", "random"])
def test_trials_from_the_prior_are_near_it_with_every_sampler_and_a_resume_repeats_them(
    make_study: MakeStudy, play: Play, tmp_path: Path, sampler: str
) -> None:
    def play_trials(trials: int, folder: str) -> list[dict[str, Any]]:
        study = make_study(SPACE, trials=trials, sampler=sampler)
        return play(StudySearcher.from_run(study, SearchDir(tmp_path / folder)))

    whole = play_trials(18, "whole")
    study = make_study(SPACE, trials=18, sampler=sampler)
    chosen = [n for n in range(18) if is_drawn_from_priors(study.search, study.space, n)]
    # Within three standard deviations of the prior, an eighth of the range of 4 powers of 10 each.
    assert all(abs(math.log10(whole[n]["optim.lr"]) + 2) < 1.5 for n in chosen)
    assert len({whole[n]["loss.focal.gamma"] for n in chosen}) == len(chosen) >= 6
    assert play_trials(13, "part") + play_trials(18, "part") == whole


def test_a_population_of_nsga2_counts_the_trials_from_the_prior(
    make_study: MakeStudy, play: Play, tmp_path: Path
) -> None:
    study = make_study(SPACE, trials=8, sampler="nsga2")
    searcher = StudySearcher.from_run(study, SearchDir(tmp_path / "r"))
    play(searcher)
    drawn = [searcher.study_log.study.trials[n].system_attrs for n in range(1, 8)]
    assert [attributes["OrderedNSGAII:generation"] for attributes in drawn] == [0] * 7


def test_a_prior_changes_no_draw_of_the_sampler_itself(
    make_study: MakeStudy, play: Play, tmp_path: Path
) -> None:
    def play_in(space: dict[str, Any], folder: str) -> list[dict[str, Any]]:
        study = make_study(space, trials=11, sampler="random")
        return play(StudySearcher.from_run(study, SearchDir(tmp_path / folder)))

    without_prior = {name: body for name, body in LR.items() if name == "loguniform"}
    plain = play_in({**SPACE, "optim.lr": without_prior}, "plain")
    believed = play_in(SPACE, "believed")
    assert [a == b for a, b in zip(plain, believed, strict=True)] == [n % 2 == 0 for n in range(11)]


def test_a_dimension_keeps_its_prior_only_while_it_contains_it() -> None:
    dimension = Dimension("a", "uniform", (0.0, 1.0), prior=Prior(0.5))
    assert dimension.with_values((0.4, 1.0)).prior == Prior(0.5)
    assert dimension.with_values((0.6, 1.0)).prior is None
    assert dimension.widened_to(3.0).prior == Prior(0.5)


def test_a_grid_says_that_it_ignores_priors(
    make_study: MakeStudy, caplog: pytest.LogCaptureFixture
) -> None:
    make_study(SPACE, sampler="grid")
    assert "sampler grid draws every combination, so the priors have no effect" in caplog.text
    caplog.clear()
    make_study(SPACE, sampler="gp")
    assert "priors" not in caplog.text


def test_every_second_point_of_a_check_is_drawn_from_the_priors(make_study: MakeStudy) -> None:
    points = list(random_points(make_study(SPACE).space, 40))
    distances = [abs(math.log10(point["optim.lr"]) + 2) for point in points]
    assert max(distances[1::2]) < 1.5 < max(distances[::2])
