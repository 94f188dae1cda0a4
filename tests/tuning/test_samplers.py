"""Samplers draw points that the config accepts, learn, and draw the same after a resume."""

import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune.cluster.tune_searcher import StudySearcher
from segtune.errors import ConfigError
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

MakeStudy = Callable[..., Study]
Play = Callable[..., list[dict[str, Any]]]

LR = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
LR_AND_GAMMA = {**LR, "loss.focal.gamma": {"uniform": [0.0, 4.0]}}


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_points_that_the_config_refuses_are_not_drawn(
    make_study: MakeStudy, play: Play, tmp_path: Path, sampler: str
) -> None:
    # The config refuses the corner in which all weights are 0.
    weights = {f"loss.{term}.weight": {"choice": [0.0, 1.0]} for term in ("focal", "dice", "ce")}
    study = make_study({**LR, **weights}, sampler=sampler, trials=40, seed=2**31 - 1)
    drawn = play(StudySearcher.from_run(study, SearchDir(tmp_path / sampler)))
    assert len(drawn) == 40
    assert all(any(params[weight] for weight in weights) for params in drawn)
    # The points drawn instead are the same again, so that a resumed search can repeat them.
    assert play(StudySearcher.from_run(study, SearchDir(tmp_path / "again"))) == drawn


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2"])
def test_sampler_with_a_model_comes_closer_to_the_best_than_random(
    make_study: MakeStudy, play: Play, tmp_path: Path, sampler: str
) -> None:
    def distance_of_the_last_20(name: str) -> float:
        study = make_study(trials=40, sampler=name)
        drawn = play(StudySearcher.from_run(study, SearchDir(tmp_path / name)))
        distances = [abs(math.log10(p["optim.lr"]) + 2) + p["loss.focal.gamma"] for p in drawn]
        return statistics.median(distances[-20:])

    assert distance_of_the_last_20(sampler) < 0.7 * distance_of_the_last_20("random")


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2", "random"])
def test_resumed_search_draws_what_an_unbroken_one_draws(
    make_study: MakeStudy, play: Play, tmp_path: Path, sampler: str
) -> None:
    def play_trials(trials: int, folder: str) -> list[dict[str, Any]]:
        study = make_study(trials=trials, sampler=sampler)
        return play(StudySearcher.from_run(study, SearchDir(tmp_path / folder)))

    whole = play_trials(18, "whole")
    assert play_trials(13, "part") + play_trials(18, "part") == whole


def test_grid_is_every_combination_once_after_the_config(
    make_study: MakeStudy, play: Play, tmp_path: Path
) -> None:
    space = {
        **LR,
        "augment.mix.kind": {"choice": ["none", "cutmix"]},
        "augment.mix.prob": {"uniform": [0.0, 1.0], "when": {"augment.mix.kind": "cutmix"}},
        "schedule.batch_size": {"int": [4, 8]},
    }
    study = make_study(space, trials=1000, sampler="grid", grid_points=3)
    points = study.points()
    assert points[0] == {"optim.lr": 1e-3, "augment.mix.kind": "none", "schedule.batch_size": 8}
    # Three rates and three sizes, without mixing or with one of three probabilities of mixing.
    # The config itself is one of these combinations.
    assert len(points) == study.num_trials == 3 * (1 + 3) * 3
    assert {p["optim.lr"] for p in points} == {1e-5, 1e-3, 1e-1}
    assert {p["schedule.batch_size"] for p in points} == {4, 6, 8}
    assert {p.get("augment.mix.prob") for p in points} == {None, 0.0, 0.5, 1.0}
    assert play(StudySearcher.from_run(study, SearchDir(tmp_path / "r"))) == points


def test_part_of_a_grid_is_the_start_of_the_whole(make_study: MakeStudy) -> None:
    part = make_study(trials=5, sampler="grid").points()[:5]
    assert part == make_study(trials=500, sampler="grid").points()[:5]


def test_cmaes_is_refused_if_a_choice_varies(make_study: MakeStudy) -> None:
    space = {**LR_AND_GAMMA, "optim.name": {"choice": ["adamw", "sgd"]}}
    with pytest.raises(
        ConfigError,
        match=r"search\.sampler: cmaes draws only numbers, but these are choices.*: optim\.name",
    ):
        make_study(space, sampler="cmaes")


def test_cmaes_is_refused_if_only_one_number_varies(make_study: MakeStudy) -> None:
    fixed = {"optim.name": {"choice": ["adamw"]}}
    with pytest.raises(ConfigError, match="cmaes needs two or more numbers that vary, got 1"):
        make_study({**LR, **fixed}, sampler="cmaes")


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("tpe", {}),
        ("tpe", {"multivariate": True}),
        ("gp", {}),
        ("cmaes", {}),
        ("nsga2", {}),
        ("random", {}),
        ("grid", {"grid_points": 4}),
    ],
)
def test_choice_of_one_value_fixes_a_setting_and_changes_no_other_draw(
    make_study: MakeStudy, play: Play, tmp_path: Path, sampler: str, options: dict[str, Any]
) -> None:
    config = {"loss.focal.form": "softmax"}

    def play_in(space: dict[str, Any], folder: str) -> list[dict[str, Any]]:
        study = make_study(space, config, trials=16, sampler=sampler, **options)
        return play(StudySearcher.from_run(study, SearchDir(tmp_path / folder)))

    without = play_in(LR_AND_GAMMA, "without")
    fixed = play_in({**LR_AND_GAMMA, "loss.focal.form": {"choice": ["softmax"]}}, "fixed")
    assert fixed == [{**params, "loss.focal.form": "softmax"} for params in without]
    assert len(fixed) == 16


@pytest.mark.parametrize(
    ("sampler", "trials", "imported"), [("gp", 11, True), ("gp", 10, False), ("tpe", 11, False)]
)
def test_warm_up_imports_what_the_first_model_needs(
    sampler: str, trials: int, imported: bool
) -> None:
    # In a process of its own, because this one has imported everything.
    script = f"""
import sys
from segtune.tuning.samplers import sampler_warmed_up
from segtune.tuning.space import Space
from segtune.tuning.search_config import SearchConfig
with sampler_warmed_up(SearchConfig(sampler={sampler!r}, trials={trials}), Space((), {{}})):
    pass
print(*(name in sys.modules for name in ("torch", "optuna._gp.gp", "optuna._gp.acqf")))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == ([str(imported)] * 3, "")
