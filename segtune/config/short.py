"""A config as a short file: the settings that differ from the defaults, with comments.

Knows nothing of searches; `exporting/best_config.py` says what the comments are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from segtune.config.settings import Settings
from segtune.config.yaml_io import Tree, comment_lines, write_yaml


def short_text(config: Settings, comments: Mapping[str, str]) -> str:
    """Return YAML text that loads to exactly `config`, without most settings at their default.

    `comments` are those of single settings, by dotted name. Settings with a comment are written
    whatever their value is.
    """
    return comment_lines(write_yaml(short_tree(config, comments)), comments)


def short_tree(config: Settings, keep: Collection[str] = ()) -> Tree:
    """Return the settings that differ from the defaults, and those whose dotted name is in `keep`.

    The tree parses to exactly `config`.
    """
    tree = _changed(config.dump(), type(config)().dump(), keep)
    # A setting's default may depend on whether another setting is present.
    return tree if type(config).parse(tree) == config else config.dump()


def _changed(tree: Tree, defaults: Tree, keep: Collection[str], prefix: str = "") -> Tree:
    changed: Tree = {}
    for name, value in tree.items():
        default = defaults.get(name)
        if f"{prefix}{name}" in keep:
            changed[name] = value
        elif isinstance(value, dict) and isinstance(default, dict):
            if section := _changed(value, default, keep, f"{prefix}{name}."):
                changed[name] = section
        elif value != default:
            changed[name] = value
    return changed
