"""Every file that we ship is valid, and what refers to it is current."""

import re
from pathlib import Path

import pytest

from segtune.config.describe import markdown
from segtune.config.schema import load_config
from segtune.config_tools import BLOCKS
from segtune.tuning.study import load_study

ROOT = Path(__file__).parent.parent
STUDIES = [ROOT / "configs" / "loss_weights.yaml"]
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if path not in STUDIES]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=stem)
def test_shipped_config_is_valid(path: Path) -> None:
    assert load_config(path).schedule.epochs > 0


@pytest.mark.parametrize("path", [*CONFIGS, *STUDIES, *SPACES], ids=stem)
def test_shipped_file_begins_with_a_comment(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("config", CONFIGS, ids=stem)
@pytest.mark.parametrize("space", SPACES, ids=stem)
def test_every_space_goes_with_every_config(space: Path, config: Path) -> None:
    study = load_study(space, config)
    trial_0 = study.points()[0]
    assert trial_0 == {name: study.config.get(name) for name in trial_0}


@pytest.mark.parametrize("path", STUDIES, ids=stem)
def test_shipped_study_is_valid(path: Path) -> None:
    assert load_study(path).search.trials > 1


def test_table_of_settings_is_current() -> None:
    assert (ROOT / "docs" / "config.md").read_text() == markdown(BLOCKS) + "\n"


def test_readme_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    folders = "configs|search_spaces|docs|segtune|benchmarks"
    names = re.findall(rf"\b((?:{folders})/[\w./-]+\.\w+)", text)
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
