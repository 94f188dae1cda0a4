"""Laws of spaces and studies: what cannot be drawn is refused before a GPU is asked for."""

import pickle

import optuna
import pytest

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.tuning.study import load_study

GOOD = """\
config: {optim: {lr: 1e-4}, schedule: {val_every: 1}}
space:
  optim.lr: {loguniform: [1e-5, 1e-2]}
  augment.mix.kind: {choice: [none, cutmix]}
  augment.mix.prob: {uniform: [0.1, 1.0], when: {augment.mix.kind: cutmix}}
search: {trials: 4, known_good: [{optim.lr: 3e-3, augment.mix.kind: cutmix, augment.mix.prob: 0.4}]}
"""


def study(tmp_path, text, **options):
    (tmp_path / "s.yaml").write_text(text)
    return load_study(tmp_path / "s.yaml", **options)


def refusal(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, text)
    return str(caught.value)


def test_first_point_is_the_config_itself_then_the_known_good(tmp_path):
    assert study(tmp_path, GOOD).points() == [
        {"optim.lr": 1e-4, "augment.mix.kind": "none"},
        {"optim.lr": 3e-3, "augment.mix.kind": "cutmix", "augment.mix.prob": 0.4},
    ]


def test_inactive_settings_are_not_drawn_and_the_space_survives_pickling(tmp_path):
    space = pickle.loads(pickle.dumps(study(tmp_path, GOOD).space))
    seeded = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space(seeded.ask()) for _ in range(20)]
    assert {"none", "cutmix"} == {d["augment.mix.kind"] for d in drawn}
    assert all(("augment.mix.prob" in d) == (d["augment.mix.kind"] == "cutmix") for d in drawn)
    assert all(1e-5 <= d["optim.lr"] <= 1e-2 for d in drawn)


def test_study_reads_back_equal(tmp_path):
    first = study(tmp_path, GOOD)
    assert study(tmp_path, write_yaml(first.dump())) == first


def test_all_mistakes_of_a_space_are_listed(tmp_path):
    text = refusal(
        tmp_path,
        "config: {}\nspace:\n"
        "  loss.focal.gamma: {uniform: [0, 9]}\n"
        "  optim.lrr: {loguniform: [1e-3, 1e-2]}\n"
        "  augment.mix.kind: {choice: [none, cutmx]}\n"
        "  augment.mix.prob: {unifrm: [0.1, 1]}\n"
        "  optim.lr: {loguniform: [0, 1]}\n"
        "  seed: {int: [3, 1]}\n"
        "  augment.flip: {uniform: [0, 1], when: {augment.photometrc: true}}\n",
    )
    assert (
        "s.yaml:3: space.loss.focal.gamma: value 9.0 is not possible: loss.focal.gamma: allowed is number >= 0, <= 8"
        in text
    )
    assert "s.yaml:4: space.optim.lrr: no such setting; did you mean 'optim.lr'?" in text
    assert "did you mean 'cutmix'" in text
    assert "did you mean 'uniform'" in text
    assert "loguniform: low must be above 0" in text
    assert "int: low must be less than high" in text
    assert "augment.photometrc: no such setting; did you mean 'augment.photometric'?" in text


def test_config_outside_its_own_space_is_refused(tmp_path):
    assert "optim.lr: 0.0001 is outside loguniform [0.001, 0.01]" in refusal(
        tmp_path, GOOD.replace("1e-5, 1e-2", "1e-3, 1e-2")
    )


def test_known_good_points_must_be_drawable(tmp_path):
    text = refusal(tmp_path, GOOD.replace("optim.lr: 3e-3,", "optim.lrr: 3e-3,"))
    assert "search.known_good.0: optim.lrr: not in the space; did you mean 'optim.lr'?" in text


def test_rung_without_validation_is_refused(tmp_path):
    text = refusal(tmp_path, GOOD.replace("val_every: 1", "val_every: 10"))
    assert "no validation at [3, 9, 27, 81]" in text
    assert "10, 20, 30, 40, … 200" in text


def test_rungs_grow_by_the_reduction(tmp_path):
    assert study(tmp_path, GOOD, overrides=["schedule.epochs=30"]).rungs() == [3, 9, 27]
    assert study(tmp_path, GOOD, search={"scheduler": "none"}).rungs() == []


def test_bare_space_goes_around_the_given_config(tmp_path):
    (tmp_path / "c.yaml").write_text(
        write_yaml(ExperimentConfig().override({"seed": 5, "schedule.val_every": 1}).dump())
    )
    found = study(
        tmp_path,
        "optim.lr: {loguniform: [1e-5, 1e-2]}\n",
        config=tmp_path / "c.yaml",
        search={"trials": 3},
    )
    assert (found.config.seed, found.search.trials, found.space.names) == (5, 3, ("optim.lr",))


def test_unknown_block_of_a_study_names_the_nearest(tmp_path):
    assert "did you mean 'search'" in refusal(tmp_path, GOOD.replace("search:", "serch:"))
    assert "s.yaml:6: trails: no such setting; did you mean 'trials'?" in refusal(
        tmp_path, GOOD.replace("trials:", "trails:")
    )
