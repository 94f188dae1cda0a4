"""Spaces and studies: what cannot be drawn or trained is refused before a GPU is asked for."""

import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.reporting import charts
from segtune.reporting.plan import search_plan
from segtune.runs.results import TrialResult
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

GOOD = """\
config: {optim: {lr: 1e-4}, schedule: {val_every: 1}}
space:
  optim.lr: {loguniform: [1e-5, 1e-2]}
  augment.mix.kind: {choice: [none, cutmix]}
  augment.mix.prob: {uniform: [0.1, 1.0], when: {augment.mix.kind: cutmix}}
search: {trials: 4, known_good: [{optim.lr: 3e-3, augment.mix.kind: cutmix, augment.mix.prob: 0.4}]}
"""
HALVING = "trials: 4, scheduler: {asha: {grace_epochs: 3}}"
WITHOUT_THE_CONFIG = GOOD.replace("1e-5, 1e-2", "1e-3, 1e-2")


def write_study(folder: Path, text: str, **options: Any) -> Study:
    (folder / "s.yaml").write_text(text)
    return load_study(folder / "s.yaml", **options)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        write_study(folder, text)
    return str(caught.value)


def test_first_points_are_the_config_itself_and_the_known_good(tmp_path: Path) -> None:
    assert write_study(tmp_path, GOOD).points() == [
        {"optim.lr": 1e-4, "augment.mix.kind": "none"},
        {"optim.lr": 3e-3, "augment.mix.kind": "cutmix", "augment.mix.prob": 0.4},
    ]


def test_inactive_settings_are_not_drawn_and_a_space_survives_pickling(tmp_path: Path) -> None:
    space = pickle.loads(pickle.dumps(write_study(tmp_path, GOOD).space))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space(study.ask()) for _ in range(20)]
    assert {d["augment.mix.kind"] for d in drawn} == {"none", "cutmix"}
    assert all(("augment.mix.prob" in d) == (d["augment.mix.kind"] == "cutmix") for d in drawn)
    assert all(1e-5 <= d["optim.lr"] <= 1e-2 for d in drawn)


@pytest.mark.parametrize("text", [GOOD, WITHOUT_THE_CONFIG])
def test_written_study_reads_back_equal(tmp_path: Path, text: str) -> None:
    first = write_study(tmp_path, text)
    assert write_study(tmp_path, write_yaml(first.dump())) == first


def test_all_mistakes_of_a_space_are_listed(tmp_path: Path) -> None:
    text = refusal(
        tmp_path,
        "config: {}\nspace:\n"
        "  loss.focal.gamma: {uniform: [0, 9]}\n"
        "  optim.lrr: {loguniform: [1e-3, 1e-2]}\n"
        "  augment.mix.kind: {choice: [none, cutmx]}\n"
        "  augment.mix.prob: {unifrm: [0.1, 1]}\n"
        "  optim.lr: {loguniform: [0, 1]}\n"
        "  seed: {int: [3, 1]}\n"
        "  augment.flip: {uniform: [0, 1], when: {augment.photometrc: true}}\n"
        "  loss.focal.form: {choice: []}\n",
    )
    assert (
        "s.yaml:3: space.loss.focal.gamma: value 9.0 is not possible: "
        "loss.focal.gamma: allowed is number >= 0, <= 8" in text
    )
    assert "s.yaml:4: space.optim.lrr: no such setting; did you mean 'optim.lr'?" in text
    assert "did you mean 'cutmix'" in text
    assert "did you mean 'uniform'" in text
    assert "loguniform: low must be above 0" in text
    assert "int: low must be less than high" in text
    assert "augment.photometrc: no such setting; did you mean 'augment.photometric'?" in text
    assert "choice takes a list of one or more values, got []" in text


def test_config_outside_its_space_is_allowed_and_the_plan_says_so(
    tmp_path: Path, tiny_config: ExperimentConfig
) -> None:
    space = "optim.lr: {loguniform: [2e-3, 1e-2]}\n"
    (tmp_path / "c.yaml").write_text(write_yaml(tiny_config.dump()))
    study = write_study(tmp_path, space, config=tmp_path / "c.yaml", search={"scheduler": "none"})
    assert study.points() == [{"optim.lr": 1e-3}]
    note = (
        "trial 0 is the config itself; optim.lr 0.001 lies outside loguniform [0.002, 0.01], "
        "so the sampler does not learn from it"
    )
    assert study.baseline_note == note
    assert search_plan(study).count(note) == 1


def test_config_inside_its_space_needs_no_note(tmp_path: Path) -> None:
    assert write_study(tmp_path, GOOD).baseline_note == ""


def test_known_good_points_must_lie_in_the_space(tmp_path: Path) -> None:
    text = refusal(tmp_path, GOOD.replace("optim.lr: 3e-3,", "optim.lrr: 3e-3,"))
    assert "search.known_good.0: optim.lrr: not in the space; did you mean 'optim.lr'?" in text
    text = refusal(tmp_path, GOOD.replace("optim.lr: 3e-3,", "optim.lr: 1.0,"))
    assert "search.known_good.0: optim.lr: 1.0 is outside loguniform [1e-05, 0.01]" in text


def test_known_good_point_must_name_a_setting_whose_own_value_lies_outside(tmp_path: Path) -> None:
    text = refusal(tmp_path, WITHOUT_THE_CONFIG.replace("optim.lr: 3e-3,", ""))
    assert (
        "s.yaml: search.known_good.0: leaves out optim.lr, and the config's own value 0.0001 is "
        "outside loguniform [0.001, 0.01]; add optim.lr to this point" in text
    )


def test_known_good_point_may_leave_out_an_inactive_setting(tmp_path: Path) -> None:
    # The config's own mix.prob, 1.0, lies outside; without mixing it does not count.
    point = "known_good: [{optim.lr: 3e-3, augment.mix.kind: none}]"
    text = f"{GOOD.replace('[0.1, 1.0]', '[0.1, 0.9]').rpartition('known_good')[0]}{point}}}\n"
    assert write_study(tmp_path, text).points()[1] == {
        "optim.lr": 3e-3,
        "augment.mix.kind": "none",
    }


def test_rung_without_validation_is_refused(tmp_path: Path) -> None:
    text = refusal(
        tmp_path, GOOD.replace("val_every: 1", "val_every: 10").replace("trials: 4", HALVING)
    )
    assert "no validation at [3, 9, 27, 81]" in text
    assert "10, 20, 30, 40, … 200" in text


@pytest.mark.parametrize(("val_every", "rungs"), [(1, [3, 9]), (2, [4, 12]), (10, [10])])
def test_the_first_rung_is_by_default_the_first_validation_from_epoch_3(
    tmp_path: Path, val_every: int, rungs: list[int]
) -> None:
    text = "optim.lr: {loguniform: [1e-5, 1e-3]}\n"
    changes = ["schedule.epochs=20", f"schedule.val_every={val_every}"]
    study = write_study(tmp_path, text, overrides=[*changes, "schedule.warmup_epochs=1"])
    assert study.rungs() == rungs
    scheduler = study.search.scheduler
    assert scheduler != "none"
    assert scheduler.chosen.grace_epochs == rungs[0]  # so the record of the search holds it


def test_rungs_grow_by_the_reduction(tmp_path: Path) -> None:
    assert write_study(tmp_path, GOOD, overrides=["schedule.epochs=30"]).rungs() == [3, 9, 27]
    assert write_study(tmp_path, GOOD, search={"scheduler": "none"}).rungs() == []


def test_file_with_only_a_space_is_a_study_of_the_given_config(tmp_path: Path) -> None:
    config = ExperimentConfig().override({"seed": 5, "schedule.val_every": 1})
    (tmp_path / "c.yaml").write_text(write_yaml(config.dump()))
    space = "optim.lr: {loguniform: [1e-5, 1e-2]}\n"
    study = write_study(tmp_path, space, config=tmp_path / "c.yaml", search={"trials": 3})
    assert (study.config.seed, study.search.trials, study.space.names) == (5, 3, ("optim.lr",))


def test_unknown_block_of_a_study_names_the_nearest(tmp_path: Path) -> None:
    assert "serch: no such block; allowed are config, space and search; did you mean 'search'?" in (
        refusal(tmp_path, GOOD.replace("search:", "serch:"))
    )
    assert "s.yaml:6: trails: no such setting; did you mean 'trials'?" in refusal(
        tmp_path, GOOD.replace("trials:", "trails:")
    )


@pytest.mark.parametrize(
    ("dimension", "values", "expected"),
    [
        (Dimension("a", "uniform", (0.0, 1.0)), [0, 1.0, 1.1, True, None], [1, 1, 0, 0, 0]),
        (Dimension("a", "int", (2, 4)), [2, 3.0, 3.5, 5], [1, 1, 0, 0]),
        (Dimension("a", "choice", (1, "x")), [1, 1.0, True, "x", "y"], [1, 1, 0, 1, 0]),
        (Dimension("a", "choice", (True,)), [True, 1, False], [1, 0, 0]),
    ],
)
def test_dimension_contains_its_ends_and_tells_booleans_from_numbers(
    dimension: Dimension, values: list[Any], expected: list[int]
) -> None:
    assert [dimension.contains(value) for value in values] == [bool(e) for e in expected]


def test_chart_of_the_settings_shows_fixed_settings_and_a_trial_0_outside_the_space() -> None:
    dimensions = [
        Dimension("loss.focal.form", "choice", ("softmax",)),
        Dimension("optim.lr", "loguniform", (1e-3, 1e-1)),
        Dimension("optim.weight_decay", "loguniform", (1e-4, 1e-1)),
    ]
    config_itself = {"loss.focal.form": "sigmoid", "optim.lr": 1e-5, "optim.weight_decay": 0.0}
    drawn = {"loss.focal.form": "softmax", "optim.lr": 1e-2, "optim.weight_decay": 1e-3}
    trials = [
        TrialResult(number=number, state="completed", miou=0.5, params=params)
        for number, params in enumerate((config_itself, drawn))
    ]
    axes = [charts.setting_axis(d, [trial.params[d.name] for trial in trials]) for d in dimensions]
    assert list(axes[0].labels) == ["softmax", "sigmoid"]
    assert axes[1].low < 1e-5 < 1e-1 < axes[1].high
    # A logarithmic axis has no place for 0: trial 0 is left out there.
    assert axes[2].low > 5e-5
    points = charts.miou_by_setting(trials, dimensions).split("<svg")[1:]
    assert [chart.count('data-t="0"') for chart in points] == [1, 1, 0]
