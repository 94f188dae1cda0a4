"""docs/verdicts.md has every state, every kind and every setting that decides about a verdict."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pages import anchors
from shipped import ROOT

from segtune.config.health_config import HealthConfig
from segtune.runs.verdict import DISK, MACHINE_FAULTS, State
from segtune.tuning.guards import GUARD

PAGE = ROOT / "docs" / "verdicts.md"
# Functions that return the kind of an error, and names for kinds.
KIND_FUNCTIONS = ("_kind_of",)
NAMES = {"DISK": DISK, "GUARD": GUARD}


def kinds_in(path: Path) -> Iterator[str]:
    """Yield the kinds of verdicts that a file of segtune writes as text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name in KIND_FUNCTIONS:
            returned = (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return))
            yield from (kind for value in returned if value for kind in texts(value))
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            values = [keyword.value for keyword in node.keywords if keyword.arg == "kind"]
            if function == "Verdict":
                yield from (kind for value in values for kind in texts(value))
            elif function == "self._end" and path.name == "health.py":
                yield from texts(node.args[0])


def texts(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression may be: a literal, a name for one, or either of two."""
    if isinstance(node, ast.IfExp):
        yield from (*texts(node.body), *texts(node.orelse))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield NAMES[node.id]


def kinds() -> set[str]:
    """Return all kinds of verdicts in the code."""
    files = sorted((ROOT / "segtune").rglob("*.py"))
    return {kind for path in files for kind in kinds_in(path)} | {*MACHINE_FAULTS, DISK, GUARD}


def test_kinds_are_found_in_the_code() -> None:
    assert {"non-finite", "forgetting", "out-of-memory", "exception", "guard", "disk"} <= kinds()


def test_page_has_every_state_and_every_kind() -> None:
    text = PAGE.read_text()
    states = [state for state in get_args(State) if f"| {state} |" not in text]
    missing = [
        kind for kind in kinds() if kind not in anchors(PAGE) and f"| `{kind}` |" not in text
    ]
    assert (states, missing) == ([], [])


def test_page_has_every_health_setting_with_its_default() -> None:
    text = PAGE.read_text()
    assert set(re.findall(r"`health\.(\w+)`", text)) == set(HealthConfig.model_fields)
    for name, value in re.findall(r"`health\.(\w+)`\s+\(([\d.]+)\)", text):
        assert float(value) == getattr(HealthConfig(), name), name
