"""Spaces that cannot do what they say are refused, or said, before anything starts."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import Source, write_yaml
from segtune.errors import ConfigError, RunError
from segtune.reporting.plan import search_plan
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.tuning.preparation import prepare_study
from segtune.tuning.proxy_check import full_length_study
from segtune.tuning.space import Dimension, Space
from segtune.tuning.space_reader import read_space
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

LR = "optim.lr: {loguniform: [1e-5, 1e-3]}"
BATCH = "schedule.batch_size: {choice: [4, 8]}"
NAME = "optim.name: {choice: [adamw, sgd]}"
MIX = "augment.mix.kind: {choice: [none, cutmix], when: {optim.name: adamw}}"


def load(
    folder: Path, *dimensions: str, search: str = "{scheduler: none}", **options: Any
) -> Study:
    """Write a study with these dimensions, from line 3 on, and load it."""
    lines = ["config: {schedule: {val_every: 1}}", "space:", *(f"  {d}" for d in dimensions)]
    (folder / "s.yaml").write_text("\n".join([*lines, f"search: {search}", ""]))
    return load_study(folder / "s.yaml", **options)


def refusal(folder: Path, *dimensions: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, *dimensions, **options)
    return str(caught.value).replace(f"{folder}/", "")


def notes(caplog: pytest.LogCaptureFixture, folder: Path, *dimensions: str) -> str:
    with caplog.at_level(logging.WARNING, "segtune"):
        load(folder, *dimensions)
    return "\n".join(caplog.messages).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        (
            [BATCH, "optim.lr: {loguniform: [1e-5, 1e-3], when: {schedule.batch_size: 2}}"],
            "s.yaml:4: space.optim.lr: when: never holds: schedule.batch_size 2 is not drawn from "
            "choice [4, 8]; take one of its values, or remove the condition",
        ),
        (
            [
                "schedule.batch_size: {int: [4, 8]}",
                "optim.lr: {loguniform: [1e-5, 1e-3], when: {schedule.batch_size: 2}}",
            ],
            "schedule.batch_size 2 is not drawn from int [4, 8]",
        ),
        (
            [
                "loss.focal.gamma: {uniform: [0, 4]}",
                "optim.lr: {loguniform: [1e-5, 1e-3], when: {loss.focal.gamma: 2.0}}",
            ],
            "uniform [0.0, 4.0] draws loss.focal.gamma 2.0 almost never; make it a choice",
        ),
        (
            [
                NAME,
                MIX,
                "augment.mix.prob: {uniform: [0.1, 1], "
                "when: {augment.mix.kind: cutmix, optim.name: sgd}}",
            ],
            "s.yaml:5: space.augment.mix.prob: when: never holds: optim.name would have to be "
            "'sgd' and, for augment.mix.kind, 'adamw'; remove one of the two conditions",
        ),
        (
            [MIX, "optim.name: {choice: [adamw, sgd], when: {augment.mix.kind: none}}"],
            "when: optim.name depends on this setting in turn; remove one of the two conditions",
        ),
        (
            ["augment.mix.kind: {choice: [none, cutmix], when: {augment.mix.kind: none}}"],
            "when: a setting cannot depend on itself",
        ),
        (
            ["optim.lr: {loguniform: [1e-5, 1e-3], when: {optim.name: sgd}}"],
            "s.yaml:3: space.optim.lr: is never drawn: it needs optim.name 'sgd', and the config "
            "has 'adamw'; nothing is left to vary",
        ),
        (
            [NAME, "augment.mix.prob: {uniform: [0.1, 1], when: {augment: cutmix}}"],
            "when: augment: is a section; a space has dotted names, for example augment.ratio",
        ),
        (
            [NAME, "optim.lr: {uniform: [0.1, 1], when: {optim.name: [sgd, adamw]}}"],
            "a condition takes a single value",
        ),
    ],
)
def test_a_condition_that_never_holds_is_refused_with_its_line(
    tmp_path: Path, dimensions: list[str], message: str
) -> None:
    assert message in refusal(tmp_path, *dimensions)


def test_a_condition_on_a_setting_that_the_config_fixes_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "augment.mix.kind: {choice: [none, cutmix], when: {optim.name: sgd}}"
    prob = "augment.mix.prob: {uniform: [0.1, 1], when: {augment.mix.kind: cutmix}}"
    text = notes(caplog, tmp_path, LR, kind, prob)
    assert (
        "s.yaml:4: space.augment.mix.kind: is never drawn: it needs optim.name 'sgd', and the "
        "config has 'adamw'" in text
    )
    assert (
        "s.yaml:5: space.augment.mix.prob: is never drawn, because augment.mix.kind is not" in text
    )
    caplog.clear()
    assert notes(caplog, tmp_path, LR, kind.replace("sgd", "adamw"), prob) == ""


def test_a_condition_on_null_does_not_hold_for_a_setting_that_is_not_drawn() -> None:
    space = Space(
        (
            Dimension("optim.name", "choice", ("adamw", "sgd")),
            Dimension("optim.clip_norm", "choice", (None, 1.0), {"optim.name": "sgd"}),
            Dimension("optim.lr", "uniform", (0.0, 1.0), {"optim.clip_norm": None}),
        ),
        {"optim.name": "adamw", "optim.clip_norm": None, "optim.lr": 0.5},
    )
    assert space.complete({}) == {"optim.name": "adamw"}
    point = {"optim.name": "sgd", "optim.clip_norm": None, "optim.lr": 0.5}
    assert space.complete({"optim.name": "sgd"}) == point
    assert space(optuna.trial.FixedTrial(point)) == point


@pytest.mark.parametrize(
    "setting",
    [
        "data.classes: {choice: [voc, ade20k]}",
        "data.root: {choice: [a, b]}",
        "data.val: {choice: [val, test]}",
        "data.masks: {choice: [null, SegmentationClassAug]}",
        "data.layout: {choice: [voc, folder]}",
        "data.ignore_index: {choice: [0, 255]}",
        "data.reduce_zero_label: {choice: [true, false]}",
    ],
)
def test_a_setting_that_changes_what_miou_means_does_not_vary(tmp_path: Path, setting: str) -> None:
    name = setting.partition(":")[0]
    assert f"s.yaml:3: space.{name}: cannot vary in a search" in refusal(tmp_path, setting)


def test_a_setting_of_the_training_images_varies(tmp_path: Path) -> None:
    crops = [[64, 64], [96, 96]]
    study = load(tmp_path, f"data.crop: {{choice: {crops}}}", "data.num_images: {int: [90, 99]}")
    assert study.space.dimensions[0].values == tuple(crops)
    assert study.trial_config({"data.crop": [96, 96]}).data.crop == (96, 96)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.clip_norm: {choice: [null, 1, 1.0]}", "choice: 1 and 1.0 are the same value"),
        ("optim.betas: {choice: [[0, 1], [0.0, 1.0]]}", "[0, 1] and [0.0, 1.0] are the same value"),
        ("optim.lr: {choice: [1e-3, 0.001]}", "choice: a value is given twice in [0.001, 0.001]"),
        ("augment.photometric: {choice: [true, yes]}", "choice: a value is given twice"),
        ("augment.photometric: {choice: [true, 'true']}", "value 'true' is not possible"),
        ("optim.lr: {choice: ['1e-3']}", "it is text, because it has quotes; write 0.001"),
    ],
)
def test_a_choice_has_each_value_once(tmp_path: Path, setting: str, message: str) -> None:
    assert message in refusal(tmp_path, setting)


def test_null_is_a_choice_beside_a_number(tmp_path: Path) -> None:
    study = load(tmp_path, "optim.clip_norm: {choice: [null, 1.0]}", search="{trials: 2}")
    assert study.space.dimensions[0].values == (None, 1.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "optim.lr: {uniform: [1, 1]}",
            "low must be less than high, got [1, 1]; to fix it: choice",
        ),
        ("optim.lr: {uniform: [2, 1]}", "got [2, 1]; write [1, 2]"),
        ("optim.lr: {loguniform: [0, 1]}", "loguniform: low must be above 0, got [0, 1]"),
        ("optim.lr: {loguniform: [-1, 1]}", "loguniform: low must be above 0, got [-1, 1]"),
        ("schedule.batch_size: {int: [4.0, 8.0]}", "write them without a decimal point"),
        ("schedule.batch_size: {int: [1.5, 4]}", "int takes two finite whole numbers"),
        ("schedule.batch_size: {uniform: [4, 8]}", "uniform draws fractions; write int: [4, 8]"),
        ("schedule.batch_size: {loguniform: [4, 8]}", "loguniform draws fractions; write int"),
        ("schedule.batch_size: {int: [4, 8], step: 2}", "write a choice of the values"),
        ("optim.lr: {uniform: [1e-5, 1e-3], log: true}", "for a logarithmic scale, write loguni"),
        ("optim.lr: {min: 1e-5, max: 1e-3}", "write uniform: [low, high]"),
        ("optim.lr: {values: [1, 2]}", "write choice: [first, second]"),
        ("optim.lr: [1e-5, 1e-3]", "for example optim.lr: {uniform: [1e-05, 0.001]}"),
        ("optim.name: {uniform: [0, 1]}", "takes adamw | sgd, which has no range; write choice"),
        ("augment.photometric: {int: [0, 1]}", "takes true | false, which has no range"),
        ("optim: {lr: {uniform: [0, 1]}}", "is a section; a space has dotted names, for example"),
        ("lr: {uniform: [0, 1]}", "no such setting; did you mean 'optim.lr'?"),
    ],
)
def test_a_range_that_cannot_be_drawn_names_the_way_out(
    tmp_path: Path, setting: str, message: str
) -> None:
    text = refusal(tmp_path, setting)
    assert text.startswith("s.yaml:3: space.")
    assert message in text


def test_a_range_is_also_tried_between_its_ends() -> None:
    config = ExperimentConfig().override({"schedule.by": "epoch"})
    warmup = {"schedule.warmup_epochs": {"uniform": [0.0, 5.0]}}
    with pytest.raises(ConfigError, match=r"not possible: .*; draw whole numbers: int: \[0, 5\]"):
        read_space(warmup, config, Source(""))
    assert read_space(warmup, ExperimentConfig(), Source("")).names == ("schedule.warmup_epochs",)


def test_validations_that_vary_are_refused_if_there_are_rungs(tmp_path: Path) -> None:
    setting = "schedule.val_every: {choice: [1, 2]}"
    text = refusal(tmp_path, setting, search="{}")
    assert "s.yaml:3: space.schedule.val_every: with 2 there is no validation at every rung" in text
    assert load(tmp_path, setting).rungs() == []


def test_batches_that_do_not_divide_among_workers_are_refused(tmp_path: Path) -> None:
    search = "{scheduler: none, workers_per_trial: 4}"
    text = refusal(tmp_path, "schedule.batch_size: {choice: [4, 6]}", search=search)
    assert "s.yaml:3: space.schedule.batch_size: 6 does not divide among 4 workers x" in text
    assert "take multiples of 4" in text
    assert "s.yaml: schedule.batch_size: the config's 18 does not divide among 4 workers" in text
    overrides = ["schedule.batch_size=16"]
    assert load(tmp_path, BATCH, search=search, overrides=overrides).search.workers_per_trial == 4


def test_seeds_and_points_that_repeat_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = notes(caplog, tmp_path, "seed: {int: [0, 2]}", BATCH)
    assert "s.yaml:3: space.seed: a search over seeds finds the one with the most luck" in text
    assert "at most 6 different points, and search.trials is 16: points are repeated" in text
    caplog.clear()
    assert notes(caplog, tmp_path, LR, BATCH) == ""
    load(tmp_path, BATCH, search="{scheduler: none, sampler: grid}")
    assert caplog.messages == []


@pytest.fixture
def write_tiny(tiny_config: ExperimentConfig, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a study of the tiny config: 24 images, batches of 8."""

    def write(space: dict[str, Any], **search: Any) -> Path:
        tree = {"config": tiny_config.dump(), "space": space}
        tree["search"] = {"scheduler": "none", **search}
        (tmp_path / "t.yaml").write_text(write_yaml(tree))
        return tmp_path / "t.yaml"

    return write


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"schedule.batch_size": {"choice": [8, 25]}},
            "space.schedule.batch_size: batches of 25 are drawn, and training sets of 24 images",
        ),
        ({"schedule.batch_size": {"int": [8, 25]}}, "batches of 25"),
        (
            {"data.num_images": {"choice": [None, 7]}},
            "space.data.num_images: batches of 8 are drawn, and training sets of 7 images",
        ),
        (
            {"schedule.batch_size": {"choice": [4, 8]}, "data.num_images": {"int": [7, 24]}},
            "batches of 8 are drawn, and training sets of 7 images",
        ),
    ],
)
def test_a_dry_run_refuses_a_batch_larger_than_the_training_set(
    write_tiny: Callable[..., Path], space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search_plan(load_study(write_tiny(space)))


def test_a_dry_run_accepts_a_batch_of_all_images(write_tiny: Callable[..., Path]) -> None:
    space = {"schedule.batch_size": {"choice": [8, 24]}, "data.num_images": {"int": [24, 30]}}
    assert "choice" in search_plan(load_study(write_tiny(space)))


def test_the_study_of_a_run_folder_is_read_although_a_new_one_would_be_refused(
    tmp_path: Path,
) -> None:
    text = "space: {data.val: {choice: [val, test]}, optim.clip_norm: {choice: [1, 1.0]}}\n"
    run = SearchDir(tmp_path / "runs" / "old")
    run.trials.mkdir(parents=True)
    run.study.write_text(f"config: {{}}\n{text}search: {{scheduler: none}}\n")
    assert load_study(run.study).space.names == ("data.val", "optim.clip_norm")
    shutil.copy(run.study, tmp_path / "new.yaml")
    with pytest.raises(ConfigError, match=r"data.val: cannot vary in a search"):
        load_study(tmp_path / "new.yaml")


def test_files_that_change_after_the_start_change_nothing_and_a_resume_names_the_difference(
    tmp_path: Path, tiny_config: ExperimentConfig
) -> None:
    config, space, study_file = (tmp_path / f"{name}.yaml" for name in ("c", "space", "s"))
    config.write_text(write_yaml(tiny_config.dump()))
    space.write_text(f"{LR}\n")
    study_file.write_text("config: c.yaml\nspace: space.yaml\nsearch: {scheduler: none}\n")
    begun = load_study(study_file)
    run = SearchDir(tmp_path / "runs" / "s-1")
    prepare_study(run, begun)
    config.write_text(write_yaml(tiny_config.override({"optim.weight_decay": 0.5}).dump()))
    space.write_text("optim.lr: {loguniform: [1e-5, 1e-2]}\n")
    assert load_study(run.study) == begun
    assert begun.trial_config({}).optim.weight_decay == 0.01
    with pytest.raises(RunError) as caught:
        prepare_study(run, load_study(study_file), resume=True)
    message = str(caught.value)
    assert "optim.weight_decay: 0.5 here, 0.01 there" in message
    assert (
        "space optim.lr: {'loguniform': [1e-05, 0.01]} here, {'loguniform': [1e-05, 0.001]} there"
        in message
    )
    assert "undo the changes, change the space with --extend, or choose another --name" in message


def test_an_extended_space_contains_the_full_length_trials_of_a_proxy(
    write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    space = {"optim.lr": {"uniform": [1e-4, 1e-2]}}
    # The config's own values are 0 and 2.0: an earlier trial was trained with them.
    added = {
        "optim.weight_decay": {"loguniform": [1e-1, 1.0]},
        "loss.focal.gamma": {"choice": [0.0, 1.0]},
    }
    run = SearchDir(tmp_path / "runs" / "p")
    proxy = {"epochs": 1, "carry": 2}
    begun = load_study(write_tiny(space, proxy=proxy))
    prepare_study(run, begun)
    prepare_study(run.full, full_length_study(begun, run))
    trained = run.full.trial(1)
    write_atomic(trained.params, json.dumps({"optim.lr": 5e-3}))
    write_atomic(trained.config, write_yaml({}))
    study = load_study(write_tiny({**space, **added}, proxy=proxy))
    prepare_study(run.full, full_length_study(study, run), resume=True, extend=True)
    full = load_study(run.full.study)
    assert full.points()[1] == {
        "optim.lr": 5e-3,
        "optim.weight_decay": 0.01,
        "loss.focal.gamma": 2.0,
    }
    kept = {d.name: (d.kind, d.values) for d in full.space.dimensions}
    assert kept["optim.weight_decay"] == ("loguniform", (0.01, 1.0))
    assert kept["loss.focal.gamma"] == ("choice", (0.0, 1.0, 2.0))


def test_a_logarithmic_range_that_is_widened_to_0_becomes_uniform() -> None:
    widened = Dimension("optim.weight_decay", "loguniform", (0.1, 1.0)).widened_to(0.0)
    assert widened == Dimension("optim.weight_decay", "uniform", (0.0, 1.0))


def test_a_config_in_place_of_a_space_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("seed: 3\noptim: {lr: 1e-3}\n")
    with pytest.raises(ConfigError, match="this is a config, not a space; give it with --config"):
        load_study(path)
    path.write_text("config: {}\nsearch: {trials: 3}\n")
    with pytest.raises(ConfigError, match="a study needs a block space, for example space:"):
        load_study(path)
    path.write_text("seed: {int: [0, 99]}\n")
    config = tmp_path / "c.yaml"
    config.write_text("schedule: {val_every: 1}\n")
    assert load_study(path, config).space.names == ("seed",)


def test_files_of_a_study_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "my config.yaml").write_text("seed: 7\nschedule: {val_every: 1}\n")
    (tmp_path / "home" / "space.yaml").write_text(f"{LR}\n")
    (tmp_path / "s.yaml").write_text("config: ~/my config.yaml\nspace: ~/space.yaml\n")
    study = load_study(tmp_path / "s.yaml")
    assert (study.config.seed, study.space.names) == (7, ("optim.lr",))


def test_weights_in_a_choice_are_found_by_workers_in_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.pth", "b.pth", "own.pth"):
        (tmp_path / name).touch()
    found = {name: str(tmp_path / f"{name}.pth") for name in ("a", "b", "own")}
    study = load(
        tmp_path,
        "model.weights: {choice: [null, a.pth, ~/b.pth, own.pth, nvidia/mit-b0]}",
        "optim.lr: {uniform: [0.1, 1.0], when: {model.weights: a.pth}}",
        search="{scheduler: none, trials: 6, known_good: [{model.weights: a.pth, optim.lr: 0.5}]}",
        overrides=["model.weights=own.pth"],
    )
    choices = (None, found["a"], found["b"], found["own"], "nvidia/mit-b0")
    assert study.space.dimensions[0].values == choices
    assert study.points() == [
        {"model.weights": found["own"]},
        {"model.weights": found["a"], "optim.lr": 0.5},
    ]


def test_a_value_of_a_known_point_without_effect_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prob = "augment.mix.prob: {uniform: [0.1, 1], when: {augment.mix.kind: cutmix}}"
    point = "{augment.mix.kind: none, augment.mix.prob: 0.5}"
    search = f"{{scheduler: none, trials: 2, known_good: [{point}, {{optim.lr: 1e-4}}]}}"
    with caplog.at_level(logging.WARNING, "segtune"):
        load(tmp_path, LR, "augment.mix.kind: {choice: [none, cutmix]}", prob, search=search)
    assert "search.known_good.0: augment.mix.prob has no effect, because" in caplog.text
    assert "at most 1 of the 2 points in search.known_good are tried" in caplog.text


def test_validations_that_vary_are_compared_with_the_rungs_of_the_proxy(tmp_path: Path) -> None:
    # A proxy of 100 of 200 epochs validates twice as often: every 1 or 3 epochs.
    search = "{proxy: {epochs: 100}, scheduler: {asha: {grace_epochs: 3}}}"
    assert load(tmp_path, "schedule.val_every: {choice: [2, 6]}", search=search).rungs()[0] == 3
    text = refusal(tmp_path, "schedule.val_every: {choice: [2, 8]}", search=search)
    assert "with 8 there is no validation at every rung (3, 9, 27, 81)" in text
