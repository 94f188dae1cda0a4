"""Packages import one another in one direction; each heavy library has one owner."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "segtune"

# A package imports only packages above it, and may import files of its own as long as there is no circle.
ORDER = [
    "errors",
    "config",
    "metrics",
    "runs",
    "tuning",
    "data",
    "models",
    "losses",
    "training",
    "cluster",
    "reporting",
    "api",
    "cli",
    "commands",
]
COMMANDS = {
    "__main__", "config_tools", "data_tools", "evaluate", "export", "predict", "report", "search", "status", "stop", "train",
}  # fmt: skip
OWNERS = {
    "albumentations": ("data.augment",),
    "optuna": ("tuning", "cluster.tune_searcher"),
    "ray": ("cluster",),
    "rich": ("reporting", "config_tools", "data_tools"),
    "timm": ("models",),
    "transformers": ("models",),
}
FREE_OF_TORCH = ("errors", "config", "runs", "tuning", "reporting")
FILES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
)


def package_of(name: str) -> str:
    return "commands" if name in COMMANDS else name.split(".")[0]


def imports(name: str) -> Iterator[str]:
    """Yields every module that a file names in an import, also inside functions."""
    tree = ast.parse((ROOT / (name.replace(".", "/") + ".py")).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    return {module.removeprefix("segtune.") for module in imports(name)} & set(FILES)


def is_in(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def test_every_file_belongs_to_a_package() -> None:
    assert {package_of(name) for name in FILES} == set(ORDER)
    assert {name for name in FILES if "." not in name} == COMMANDS | {
        "api",
        "cli",
        "errors",
        "metrics",
    }


@pytest.mark.parametrize("name", FILES)
def test_file_imports_only_packages_above_its_own(name: str) -> None:
    place = ORDER.index(package_of(name))
    below = {other for other in own_imports(name) if ORDER.index(package_of(other)) > place}
    assert below == set()


def test_no_two_files_import_each_other() -> None:
    TopologicalSorter({name: own_imports(name) for name in FILES}).prepare()


@pytest.mark.parametrize("name", FILES)
def test_library_has_one_owner(name: str) -> None:
    libraries = {module.split(".")[0] for module in imports(name)}
    strangers = {library for library in libraries & set(OWNERS) if not is_in(name, OWNERS[library])}
    assert strangers == set()
    if is_in(name, FREE_OF_TORCH):
        assert "torch" not in libraries
