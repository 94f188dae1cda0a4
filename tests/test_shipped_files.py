"""Every file that we ship is valid, and every page names only files that exist."""

import re
from pathlib import Path

import pytest
from pages import PAGES, path_in_repository
from shipped import CONFIGS, ROOT, STUDIES

from segtune.config.describe import markdown
from segtune.config.schema import load_config
from segtune.config_tools import BLOCKS
from segtune.tuning.study_reader import load_study

SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
# The values of the others are those of one experiment, for example a warmup of 20 epochs.
GENERAL_SPACES = [path for path in SPACES if path.stem not in ("v3_ideas", "ade20k_stability")]
# A path from the root of the repository, such as `segtune/errors.py`.
NAMED_FILE = re.compile(
    r"(?<![\w/.])((?:configs|search_spaces|docs|segtune|benchmarks|tests)/[\w./-]*\.\w+)"
)


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=stem)
def test_shipped_config_is_valid(path: Path) -> None:
    assert load_config(path).schedule.epochs > 0


@pytest.mark.parametrize("path", [*CONFIGS, *STUDIES, *SPACES], ids=stem)
def test_shipped_file_begins_with_a_comment(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("config", CONFIGS, ids=stem)
@pytest.mark.parametrize("space", GENERAL_SPACES, ids=stem)
def test_every_space_goes_with_every_config(space: Path, config: Path) -> None:
    study = load_study(space, config)
    trial_0 = study.points()[0]
    assert trial_0 == {name: study.config.get(name) for name in trial_0}


@pytest.mark.parametrize("path", STUDIES, ids=stem)
def test_shipped_study_is_valid(path: Path) -> None:
    assert load_study(path).search.trials > 1


def test_table_of_settings_is_current() -> None:
    assert (ROOT / "docs" / "config.md").read_text() == markdown(BLOCKS) + "\n"


def named_files(page: Path) -> set[str]:
    return set(NAMED_FILE.findall(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=path_in_repository)
def test_page_names_only_files_that_exist(page: Path) -> None:
    assert {name for name in named_files(page) if not (ROOT / name).exists()} == set()


def test_readme_and_contributing_name_files() -> None:
    assert "configs/loss_weights.yaml" in named_files(ROOT / "README.md")
    assert "segtune/losses/banded.py" in named_files(ROOT / "CONTRIBUTING.md")


def files_of_tree(readme: str) -> list[str]:
    """Return the paths in README's tree of the package.

    A line has one or more names, at least two spaces, and a phrase. Folders end in a slash, and
    their files are indented deeper.
    """
    tree = readme.split("```\nsegtune/\n")[1].split("```")[0]
    folder = ""
    paths: list[str] = []
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent > 4:
            continue  # the rest of a phrase
        if indent == 2:
            folder = ""
        for name in re.split(r"\s{2,}", line.strip())[0].split():
            if name.endswith("/"):
                folder = name
            else:
                paths.append(folder + name)
    return paths


def test_tree_in_readme_names_every_file_of_the_package() -> None:
    package = ROOT / "segtune"
    files = [
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    ]
    # The `__init__.py` of a package inside segtune has no code of its own.
    expected = [file for file in files if not file.endswith("/__init__.py")]
    assert sorted(files_of_tree((ROOT / "README.md").read_text())) == sorted(expected)
