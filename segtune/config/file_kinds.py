"""Which command a YAML file of settings is for: configs, studies and spaces look alike to a user.

Validates nothing: the readers of each kind do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segtune.errors import ConfigError

# The distributions of a space that no setting has as its name.
DISTRIBUTIONS = frozenset(("uniform", "loguniform", "int", "logint", "choice"))
STUDY_BLOCKS = ("space", "search")  # a study has these, and a `config` that a config has not


def check_is_config(path: str | Path, tree: Any) -> None:
    """Raise ConfigError if a tree is a study or a space instead of a config."""
    if not isinstance(tree, dict):
        return
    if any(block in tree for block in STUDY_BLOCKS):
        raise ConfigError(
            [
                f"{path}: is a study (it has the blocks {', '.join(tree)}), not a config; run it "
                f"with: segtune search --space {path}"
            ]
        )
    if _is_space(tree):
        raise ConfigError(
            [
                f"{path}: is a space of settings, not a config; search it with: "
                f"segtune search --space {path}"
            ]
        )


def _is_space(tree: dict[Any, Any]) -> bool:
    """Whether all keys are dotted names, each with one distribution."""
    return bool(tree) and all(
        isinstance(name, str)
        and "." in name
        and isinstance(value, dict)
        and bool(DISTRIBUTIONS & value.keys())
        for name, value in tree.items()
    )
