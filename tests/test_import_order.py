"""Packages import one another in one direction; each heavy library has one owner."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "segtune"

# A package imports only packages above it. Its own files may import one another without a circle.
ORDER = [
    "errors",
    "config",
    "mmseg",
    "metrics",
    "runs",
    "tuning",
    "data",
    "models",
    "losses",
    "training",
    "tracking",
    "checks",
    "first_config",
    "exporting",
    "cluster",
    "reporting",
    "api",
    "api_confirm",
    "api_export",
    "api_predict",
    "api_replay",
    "api_retrain",
    "cli",
    "commands",
]
COMMANDS = {
    "__main__",
    "check",
    "compare",
    "completion",
    "config_tools",
    "confirm",
    "data_check",
    "data_labelme",
    "data_sbd",
    "data_show",
    "data_tools",
    "doctor",
    "evaluate",
    "export",
    "import_config",
    "init",
    "model",
    "plot",
    "predict",
    "replay",
    "report",
    "retrain",
    "search",
    "status",
    "stop",
    "train",
}
OWNERS = {
    "albumentations": ("config.transforms", "data.augment"),
    "mlflow": ("tracking.mlflow_run",),
    "optuna": ("tuning", "cluster.tune_searcher"),
    "ray": ("cluster",),
    "rich": ("reporting", "config_tools", "data_check"),
    "segmentation_models_pytorch": ("models",),
    "timm": ("models",),
    "tensorboard": ("tracking.tensorboard",),
    "torchvision": ("models",),
    "transformers": ("models",),
    "wandb": ("tracking.wandb_run",),
}
# The only file that may use private names of a library; each such name has a fallback there.
FENCES = {"ray": "cluster.ray_internals", "optuna": "tuning.optuna_study"}
# Private modules without a leading underscore.
UNDOCUMENTED = ("ray.core", "ray.train.v2", "ray.tune.progress_reporter")
FREE_OF_TORCH = ("errors", "config", "mmseg", "runs", "tuning", "reporting")
FILES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
)


def package_of(name: str) -> str:
    return "commands" if name in COMMANDS else name.split(".")[0]


def nodes(name: str) -> Iterator[ast.AST]:
    return ast.walk(ast.parse((ROOT / (name.replace(".", "/") + ".py")).read_text()))


def imports(name: str) -> Iterator[str]:
    """Yield every module that a file names in an import, also inside functions."""
    for node in nodes(name):
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
        "api_confirm",
        "api_export",
        "api_predict",
        "api_replay",
        "api_retrain",
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


def is_private(name: str) -> bool:
    """Whether a part of a dotted name has a leading underscore, `__future__` excepted."""
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def private_attributes(name: str) -> set[str]:
    """Return the private attributes that a file reads or sets but does not define itself."""
    used, defined = set(), set()
    for node in nodes(name):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (defined if of_self else used).add(node.attr)
    return used - defined


@pytest.mark.parametrize("name", sorted(set(FILES) - set(FENCES.values())))
def test_only_the_fence_of_a_library_uses_its_private_names(name: str) -> None:
    fenced = {module for module in imports(name) if module.split(".")[0] in FENCES}
    assert {module for module in fenced if is_private(module)} == set()
    assert {module for module in fenced if is_in(module, UNDOCUMENTED)} == set()
    # Objects of Ray and Optuna reach only these packages.
    if package_of(name) in ("cluster", "tuning"):
        assert private_attributes(name) == set()


def test_fences_use_private_names() -> None:
    assert any(is_private(module) for module in imports(FENCES["ray"]))
    assert private_attributes(FENCES["optuna"])
