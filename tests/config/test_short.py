"""A short config file loads to exactly the config that it was made of."""

from pathlib import Path

import pytest
import yaml
from shipped import CONFIGS, STUDIES

from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.short import short_text, short_tree
from segtune.config.yaml_io import Source, comment_lines, inline_yaml, parse_yaml
from segtune.tuning.study_reader import load_study


def read(text: str) -> ExperimentConfig:
    return ExperimentConfig.parse(*parse_yaml(text, "short.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_survives(path: Path) -> None:
    config = load_config(path)
    text = short_text(config, {})
    assert read(text) == config
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_point_of_every_shipped_study_survives(path: Path) -> None:
    study = load_study(path)
    for point in study.points():
        config = study.config.override(point)
        assert read(short_text(config, dict.fromkeys(point, "searched: a # b"))) == config


def test_only_what_differs_is_written() -> None:
    config = ExperimentConfig().override({"optim.lr": 0.5, "data.label_map": {255: 1}})
    expected = "data:\n  label_map:\n    255: 1\noptim:\n  lr: 0.5\n"
    assert short_text(config, {}) == expected
    assert short_tree(ExperimentConfig()) == {}
    assert read(short_text(ExperimentConfig(), {})) == ExperimentConfig()


def test_setting_with_a_comment_is_written_also_at_its_default() -> None:
    default = ExperimentConfig().optim.lr
    text = short_text(ExperimentConfig(), {"optim.lr": "chosen"})
    assert text == f"optim:\n  lr: {inline_yaml(default)}  # chosen\n"


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "lraspp_mobilenet_v3_large"])
def test_encoder_that_follows_from_the_model_survives(name: str) -> None:
    config = ExperimentConfig.parse({"model": {"name": name, "drop_path": 0.0}}, Source("a"))
    assert read(short_text(config, {})) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"data.classes": [f"a class with a long name {n}" for n in range(40)]},
        {"data.root": "a " * 200 + "b"},
        {"data.val": "- a: b # c"},
        {"augment.extra": [{"name": "GaussNoise", "p": 0.2}, {"name": "CLAHE"}]},
        {"loss.class_weights": [1.0, 2.0]},
        {"schedule.epochs": 33, "val.window": [64, 64], "val.mode": "slide"},
    ],
)
def test_comment_never_becomes_a_part_of_a_value(changes: dict[str, object]) -> None:
    config = ExperimentConfig().override(changes)
    text = short_text(config, dict.fromkeys(changes, "chosen"))
    assert text.count("# chosen") == len(changes)
    assert read(text) == config


def test_comment_of_an_unknown_name_is_left_out() -> None:
    assert comment_lines("a: 1\n", {"b": "text"}) == "a: 1\n"


@pytest.mark.parametrize("value", [0.03, 1e-5, "a: b", "1e5", None, True, [1, 2], [{"p": [1]}]])
def test_value_in_a_comment_is_yaml_on_one_line(value: object) -> None:
    text = inline_yaml(value)
    assert "\n" not in text
    assert parse_yaml(f"x: {text}", "a")[0] == {"x": value}
    if not isinstance(value, float):  # YAML 1.1 takes 1e5 and 1.0e-05 for other things
        assert yaml.safe_load(f"x: {text}") == {"x": value}
