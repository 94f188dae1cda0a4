"""Every file that we ship is read as a user would read it."""

import re
from pathlib import Path

import pytest

from segtune.config.describe import markdown
from segtune.config.schema import load_config
from segtune.config_tools import BLOCKS
from segtune.tuning.study import load_study

ROOT = Path(__file__).parent.parent
STUDIES = ["loss_weights.yaml"]
CONFIGS = [p for p in sorted((ROOT / "configs").glob("*.yaml")) if p.name not in STUDIES]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_config_is_valid(path):
    assert load_config(path).schedule.epochs > 0
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    "space", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_space_goes_with_every_config(space, config):
    study = load_study(space, config)
    assert study.points()[0] == {name: study.config.get(name) for name in study.points()[0]}


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_study_is_valid(name):
    assert load_study(ROOT / "configs" / name).search.trials > 1


def test_table_of_settings_is_current():
    assert (ROOT / "docs" / "config.md").read_text() == markdown(BLOCKS) + "\n"


def test_readme_names_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\b((?:configs|search_spaces|docs|segtune|benchmarks)/[\w./-]+\.\w+)", text)
    assert named
    assert [n for n in named if not (ROOT / n).exists()] == []
