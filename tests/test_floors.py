"""The order of the house: each file imports only files above it, ray only in cluster/, torch not on the first floor."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "segtune"

FLOORS = {
    "words": ["errors", "settings", "config", "verdict", "rundir", "space", "proxy", "study", "results", "utilisation", "warm_start"],
    "parts": [
        "data.shapes", "data.layouts", "data.photometric", "data.augment", "data.cache", "data.loader", "bilinear", "segformer_head", "weights", "models", "bands", "fused_loss", "losses", "metrics", "optim", "health",
    ],
    "one run": ["heap", "distributed", "checkpoint", "scalars", "pulse", "signs", "memory", "views", "inference", "steps", "trainer"],
    "many runs": [
        "cluster.forkserver", "cluster.session", "cluster.worker", "cluster.group", "cluster.trial", "cluster.storage", "cluster.book", "cluster.sampler", "cluster.scheduler", "cluster.watch", "cluster.search",
    ],
    "commands": [
        "cli", "table", "train", "predict", "evaluate", "carry", "charts", "report", "search", "status", "stop", "export", "data_tools", "config_tools", "__main__",
    ],
}  # fmt: skip
ORDER = [name for floor in FLOORS.values() for name in floor]
OWNERS = {"ray": "cluster.", "albumentations": "data.augment", "transformers": "models", "timm": "models"}


def imports(name):
    """Returns every module that a file names in an import, also inside functions."""
    tree = ast.parse((ROOT / (name.replace(".", "/") + ".py")).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_file_has_its_place():
    files = {str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in ROOT.rglob("*.py")}
    assert {f for f in files if not f.endswith("__init__")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_file_imports_only_what_stands_above(name):
    own = {m.removeprefix("segtune.") for m in imports(name) if m.startswith("segtune.")}
    assert {m for m in own & set(ORDER) if ORDER.index(m) >= ORDER.index(name)} == set()


@pytest.mark.parametrize("name", ORDER)
def test_library_has_one_owner(name):
    tops = {m.split(".")[0] for m in imports(name)}
    for library, owner in OWNERS.items():
        assert library not in tops or name.startswith(owner), f"{name} imports {library}; its place is {owner}"
    if name in FLOORS["words"]:
        assert not tops & {"torch", "ray", "numpy"}, name
