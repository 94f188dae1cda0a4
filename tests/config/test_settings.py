"""Laws of reading settings: all mistakes are reported at once, with their place and a way out."""

import json
import pickle
from pathlib import Path

import pytest
import yaml

from segtune.config.allowed import allowed_values
from segtune.config.describe import describe
from segtune.config.schedule_config import ScheduleConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.settings import Difference, Settings, differences, section_of
from segtune.config.yaml_io import Source, Tree, parse_yaml, write_yaml
from segtune.errors import ConfigError
from segtune.tuning.search_config import SearchConfig

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


def problems(text: str, settings: type[Settings] = ExperimentConfig) -> tuple[str, ...]:
    def parse() -> None:
        tree, source = parse_yaml(text, "x.yaml")
        settings.parse(tree, source)

    with pytest.raises(ConfigError) as caught:
        parse()
    return caught.value.problems


def test_config_errors_can_be_sent_from_a_worker() -> None:
    error = ConfigError(["schedule.batch_size: 7 is odd", "optim.lr: must be positive"])
    received = pickle.loads(pickle.dumps(error))
    assert (str(received), received.problems) == (str(error), error.problems)
    assert str(error) == "schedule.batch_size: 7 is odd\noptim.lr: must be positive"


def test_all_mistakes_are_listed_with_line_and_way_out() -> None:
    text = "\n".join(problems(WRONG))
    assert "x.yaml:1: seed: allowed is whole number" in text
    assert "x.yaml:3: optim.lrr: no such setting; did you mean 'optim.lr'?" in text
    assert "x.yaml:4: optim.lr: allowed is number > 0; got -1" in text
    assert "did you mean 'adamw'" in text
    assert "x.yaml:6: schedule: warmup_epochs must be less than epochs, got 5 of 3" in text
    assert "x.yaml:7: data.crop.0:" in text
    assert "x.yaml:8: modl: no such setting; did you mean 'model'?" in text
    assert len(problems(WRONG)) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "x.yaml:2: seed: given twice, first on line 1"),
        ("a: [{b: 1, b: 2}]\n", "x.yaml:1: a.0.b: given twice, first on line 1"),
        ("data: &a {}\naugment: *a\n", "x.yaml:2: alias *a"),
        ("seed: [1\n", "not readable as YAML"),
        ("- 1\n", "expected names and values, found list"),
        ("seed: !!python/object/apply:os.system ['true']\n", "not readable as YAML"),
        ("[" * 3000, "not readable as YAML"),
        ("seed: 1 # " + "x" * 2**20, "longer than 1048576 characters"),
        ("optim: {lr: .nan}\n", "optim.lr"),
    ],
)
def test_unreadable_yaml_is_one_clear_message(text: str, expected: str) -> None:
    (message,) = problems(text)
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scheduler: nonee", "scheduler: allowed is none | settings; got 'nonee'"),
        ("scheduler: {asha: {reduction: 1}}", "scheduler.asha.reduction: allowed is whole number"),
        ("scheduler: {asha: 3}", "scheduler.asha: allowed is settings | null; got 3"),
        (
            "sampler: {gp: 1}",
            "sampler: allowed is auto | curves | tpe | random | grid | cmaes | gp | nsga2; "
            "got {'gp': 1}",
        ),
    ],
)
def test_word_or_section_gives_one_message_about_the_branch_that_was_meant(
    text: str, expected: str
) -> None:
    (message,) = problems(text, SearchConfig)
    assert expected in message


def test_scientific_numbers_are_numbers() -> None:
    tree, _ = parse_yaml("a: 6e-5\nb: 1E3\nc: -.5\nd: 12:30\ne: v1e5", "x")
    assert tree == {"a": 6e-5, "b": 1000.0, "c": -0.5, "d": "12:30", "e": "v1e5"}


def test_override_is_validated_like_the_file() -> None:
    config = ExperimentConfig()
    assert config.override({"optim.lr": 3e-4}).optim.lr == 3e-4
    assert config.optim.lr == 6e-5
    with pytest.raises(ConfigError, match=r"no such setting; did you mean 'optim.lr'"):
        config.override({"optim.l": 1})
    with pytest.raises(ConfigError, match=r"warmup_epochs must be less than epochs"):
        config.override({"schedule.epochs": 3})


def test_override_adds_a_section_that_is_absent() -> None:
    search = SearchConfig().override({"proxy.epochs": 3, "scheduler": "none"})
    assert search.proxy is not None
    assert search.proxy.epochs == 3
    assert search.override({"scheduler.median.min_trials": 5}).get("scheduler.asha") is None


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"loss": {"focal": {"weight": 0}, "dice": {"weight": 0}}}, "got 0 for all of them"),
        ({"augment": {"ratio": [2, 1]}}, r"ratio: .* not exceed the second, got \[2.0, 1.0\]"),
        ({"augment": {"cutout": {"holes": [3, 1]}}}, r"holes: .* exceed the second, got \[3, 1\]"),
        ({"augment": {"cutout": {"size": [0.5, 0]}}}, r"size: .* the second, got \[0.5, 0.0\]"),
        ({"schedule": {"batch_size": 7, "accumulate": 2}}, "got batch_size 7 and accumulate 2"),
        ({"data": {"num_loaders": -1}}, r"allowed is whole number >= 0 \| auto; got -1"),
    ],
)
def test_refused_combination_says_what_it_got(tree: Tree, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        ExperimentConfig.parse(tree)


def test_written_config_reads_back_equal(tmp_path: Path) -> None:
    config = ExperimentConfig().override(
        {"optim.lr": 1.2345678901234567e-5, "data.classes": ["a", "b"]}
    )
    (tmp_path / "c.yaml").write_text(write_yaml(config.dump()))
    assert load_config(tmp_path / "c.yaml") == config
    assert load_config(tmp_path / "c.yaml", ["seed=7"]).seed == 7


def test_plain_yaml_reads_the_same_settings() -> None:
    # Other tools read our files with PyYAML's own rules.
    config = ExperimentConfig()
    assert ExperimentConfig.parse(yaml.safe_load(write_yaml(config.dump()))) == config


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "voc12.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'voc12.yaml'"):
        load_config(tmp_path / "voc21.yaml")


@pytest.mark.parametrize("settings", [ExperimentConfig, SearchConfig])
def test_every_setting_is_described(settings: type[Settings]) -> None:
    for row in describe(settings):
        assert row.takes
        assert row.meaning.endswith("."), row


def test_described_default_in_an_absent_section_is_that_of_the_present_section() -> None:
    defaults = {row.name: json.loads(row.default) for row in describe(SearchConfig)}
    assert defaults["proxy"] is None
    assert defaults["proxy.carry"] == 4
    assert defaults["scheduler"].keys() == {"asha"}
    assert defaults["scheduler.median.min_trials"] == 4


def test_differences_name_the_settings() -> None:
    ours = ExperimentConfig()
    (difference,) = differences(ours, ours.override({"optim.lr": 1e-3}))
    assert difference == Difference("optim.lr", 6e-5, 1e-3)
    assert str(difference) == "optim.lr: 6e-05 here, 0.001 there"


def test_differences_include_an_absent_section() -> None:
    changed = differences(SearchConfig(), SearchConfig(scheduler="none"))
    assert Difference("scheduler", None, "none") in changed
    assert Difference("scheduler.asha.reduction", 3, None) in changed


def test_last_epoch_is_always_validated() -> None:
    schedule = ScheduleConfig(epochs=25, val_every=10, warmup_epochs=0.0)
    assert [epoch for epoch in range(1, 26) if schedule.validates(epoch)] == [10, 20, 25]


def test_place_falls_back_to_the_parent_line() -> None:
    assert Source("f", {"a": 3}).place("a.b") == "f:3: a.b"


def test_place_without_a_source_is_the_name_alone() -> None:
    assert Source("").place("a.b") == "a.b"
    assert Source("").problem("a.b", "is wrong") == "a.b: is wrong"
    assert Source("").problem("", "is wrong") == "is wrong"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("optim.name", "adamw | sgd"),
        ("optim.lr", "number > 0"),
        ("optim.clip_norm", "number > 0 | null"),
        ("data.crop", "list of 2, each whole number >= 32"),
        ("data.train", "list of text, length >= 1"),
        ("data.num_loaders", "whole number >= 0 | auto"),
        ("loss.class_weights", "list of number >= 0 | balanced | null"),
    ],
)
def test_allowed_values_are_words(name: str, expected: str) -> None:
    assert allowed_values(ExperimentConfig.names()[name]) == expected


def test_sections_are_told_from_values() -> None:
    names = ExperimentConfig.names()
    assert section_of(names["optim"].annotation) is not None
    assert section_of(names["optim.lr"].annotation) is None
