"""Laws of reading settings: every mistake is told at once, where it is and what would be right."""

import pickle

import pytest
import yaml

from segtune.config.allowed import allowed_values
from segtune.config.describe import describe
from segtune.config.schema import ExperimentConfig, ScheduleConfig, load_config
from segtune.config.settings import Difference, differences, section_of
from segtune.config.yaml_io import Source, parse_yaml, write_yaml
from segtune.errors import ConfigError
from segtune.tuning.study import SearchConfig

WRONG = """\
seed: 1.5
optim:
  lrr: 3
  lr: -1
  name: adamm
schedule: {epochs: 3, warmup_epochs: 5}
data: {num_loaders: x, crop: [3, 64]}
modl: {}
"""


def problems(text):
    def parse():
        tree, source = parse_yaml(text, "x.yaml")
        return ExperimentConfig.parse(tree, source)

    with pytest.raises(ConfigError) as caught:
        parse()
    return caught.value.problems


def test_config_errors_survive_the_way_from_a_worker():
    error = ConfigError(["schedule.batch_size: 7 is odd", "optim.lr: must be positive"])
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.problems) == (str(error), error.problems)
    assert str(error) == "schedule.batch_size: 7 is odd\noptim.lr: must be positive"


def test_all_mistakes_are_listed_with_line_and_way_out():
    found = "\n".join(problems(WRONG))
    assert "x.yaml:1: seed: allowed is whole number" in found
    assert "x.yaml:3: optim.lrr: no such setting; did you mean 'optim.lr'?" in found
    assert "x.yaml:4: optim.lr: allowed is number > 0; got -1" in found
    assert "did you mean 'adamw'" in found
    assert "x.yaml:6: schedule: warmup_epochs must be less than epochs, got 5 of 3" in found
    assert "x.yaml:7: data.crop.0:" in found
    assert "x.yaml:8: modl: no such setting; did you mean 'model'?" in found
    assert len(problems(WRONG)) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "x.yaml:2: seed: given twice, first on line 1"),
        ("data: &a {}\naugment: *a\n", "x.yaml:2: alias *a"),
        ("seed: [1\n", "not readable as YAML"),
        ("- 1\n", "expected names and values, found list"),
        ("seed: !!python/object/apply:os.system ['true']\n", "not readable as YAML"),
        ("[" * 3000, "not readable as YAML"),
        ("optim: {lr: .nan}\n", "optim.lr"),
    ],
)
def test_unreadable_yaml_is_one_clear_message(text, expected):
    assert expected in problems(text)[0]


def test_scientific_numbers_are_numbers():
    tree, _ = parse_yaml("a: 6e-5\nb: 1E3\nc: -.5\nd: 12:30\ne: v1e5", "x")
    assert tree == {"a": 6e-5, "b": 1000.0, "c": -0.5, "d": "12:30", "e": "v1e5"}


def test_override_is_validated_like_the_file():
    config = ExperimentConfig()
    assert config.override({"optim.lr": 3e-4}).optim.lr == 3e-4
    assert config.optim.lr == 6e-5
    with pytest.raises(ConfigError, match=r"no such setting; did you mean 'optim.lr'"):
        config.override({"optim.l": 1})
    with pytest.raises(ConfigError, match=r"warmup_epochs must be less than epochs"):
        config.override({"schedule.epochs": 3})


def test_what_is_written_reads_back_equal(tmp_path):
    config = ExperimentConfig().override(
        {"optim.lr": 1.2345678901234567e-5, "data.classes": ["a", "b"]}
    )
    (tmp_path / "c.yaml").write_text(write_yaml(config.dump()))
    assert load_config(tmp_path / "c.yaml") == config
    assert load_config(tmp_path / "c.yaml", ["seed=7"]).seed == 7


def test_plain_yaml_reads_the_same_settings():
    # Other tools read our files with PyYAML's own rules.
    assert (
        ExperimentConfig.parse(yaml.safe_load(write_yaml(ExperimentConfig().dump())))
        == ExperimentConfig()
    )


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "voc12.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'voc12.yaml'"):
        load_config(tmp_path / "voc21.yaml")


def test_every_setting_is_described():
    rows = describe(ExperimentConfig)
    assert all(meaning and allowed for _, allowed, _, meaning in rows)
    assert {name: default for name, _, default, _ in rows}["loss.dice.weight"] == "1.0"


def test_differences_name_the_settings():
    ours = ExperimentConfig()
    (difference,) = differences(ours, ours.override({"optim.lr": 1e-3}))
    assert difference == Difference("optim.lr", 6e-5, 1e-3)
    assert str(difference) == "optim.lr: 6e-05 here, 0.001 there"


def test_differences_of_an_optional_section_are_told():
    changed = differences(SearchConfig(), SearchConfig(scheduler="none"))
    assert Difference("scheduler", None, "none") in changed
    assert Difference("scheduler.asha.reduction", 3, None) in changed


def test_last_epoch_is_always_validated():
    schedule = ScheduleConfig(epochs=25, val_every=10, warmup_epochs=0.0)
    assert [e for e in range(1, 26) if schedule.validates(e)] == [10, 20, 25]


def test_place_falls_back_to_the_parent_line():
    assert Source("f", {"a": 3}).place("a.b") == "f:3: a.b"


def test_allowed_values_are_words():
    names = ExperimentConfig.names()
    assert allowed_values(names["optim.name"]) == "adamw | sgd"
    assert section_of(names["optim"].annotation) is not None
