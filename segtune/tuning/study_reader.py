"""Read a study from YAML: its config, its space and its search block, with every mistake."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segtune.config.schema import ExperimentConfig, absolute_paths, absolute_weights, load_config
from segtune.config.settings import section_of
from segtune.config.yaml_io import Source, Tree, parse_assignments, read_yaml
from segtune.errors import ConfigError, nearest
from segtune.runs.rundir import SearchDir
from segtune.tuning.search_config import SchedulerConfig, SearchConfig
from segtune.tuning.space_checks import SpaceProblem, space_notes, space_problems
from segtune.tuning.space_reader import read_space
from segtune.tuning.study import Study
from segtune.tuning.study_checks import study_notes, study_problems

log = logging.getLogger(__name__)

DEFAULT_CONFIG = Path("configs/shapes_segformer_b0.yaml")


def load_study(
    path: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    search: Mapping[str, Any] | None = None,
) -> Study:
    """Read a study file, or a file with only a space.

    `config` takes the place of the study's config. `overrides` are `name=value` texts that change
    the config; `search` holds changes to the search block. Paths in the result are absolute. Raise
    ConfigError that lists every mistake.
    """
    tree, source, prefix = _read_blocks(path)
    base = load_config(config) if config else _read_config(tree.get("config"), Path(path), source)
    if overrides:
        base = base.override(*parse_assignments(overrides))
    search_tree = _with_absolute_weights(tree.get("search"))
    search_block = SearchConfig.parse(
        {} if search_tree is None else search_tree, _under(source, "search")
    )
    search_block = search_block.override(dict(search or {}), Source("command line"))
    if search_block.init_from:
        place = str(Path(search_block.init_from).absolute())
        search_block = search_block.override({"init_from": place})
    space_tree = tree["space"]
    if isinstance(space_tree, str):
        space_tree, source = read_yaml(Path(path).parent / os.path.expanduser(space_tree))
        prefix = ""
    base = absolute_paths(base)
    space = read_space(_with_absolute_weights(space_tree), base, source, prefix)
    study = _with_grace_epochs(Study(base, space, search_block))
    problems = [f"{path}: {problem}" for problem in study_problems(study)]
    if not _is_recorded(Path(path)):
        of_space = space_problems(space, base, search_block, study.rungs())
        problems += _placed(of_space, source, prefix)
    if problems:
        raise ConfigError(problems)
    if not _is_recorded(Path(path)):
        notes = [*_placed(space_notes(space, search_block), source, prefix), *study_notes(study)]
        for note in notes:
            log.warning("%s", note)
    return study


def _with_grace_epochs(study: Study) -> Study:
    """Return the study with a number for the `grace_epochs` of its stopping rule.

    The record of the search run then holds the number.
    """
    scheduler = study.search.scheduler
    if scheduler == "none" or scheduler.chosen.grace_epochs is not None:
        return study
    (rule,) = (name for name in SchedulerConfig.model_fields if getattr(scheduler, name))
    changes = {f"scheduler.{rule}.grace_epochs": study.grace_epochs}
    return replace(study, search=study.search.override(changes))


def _read_blocks(path: str | Path) -> tuple[Tree, Source, str]:
    """Return the blocks of a study file, their source, and the prefix of the space's names.

    A file with only a space is a study with only that block.
    """
    tree, source = read_yaml(path, ("study.yaml",))
    if isinstance(tree, dict) and "space" in tree:
        _refuse_unknown_blocks(tree, source)
        return tree, source, "space."
    _refuse_other_kind(tree, source)
    return {"space": tree}, source, ""


def _placed(problems: Iterable[SpaceProblem], source: Source, prefix: str) -> list[str]:
    """Return the problems of a space with their place in the file."""
    return [source.problem(prefix + name if name else "", text) for name, text in problems]


def _with_absolute_weights(tree: Any) -> Any:
    """Return `tree` with absolute paths in every value of `model.weights`.

    These are choices, conditions and points of `known_good`. Workers run in folders of their own.
    """
    if isinstance(tree, list):
        return [_with_absolute_weights(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        name: _each_absolute(value) if name == "model.weights" else _with_absolute_weights(value)
        for name, value in tree.items()
    }


def _each_absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_each_absolute(item) for item in value]
    if isinstance(value, dict):
        return {key: _each_absolute(item) for key, item in value.items()}
    return absolute_weights(value) if isinstance(value, str) else value


def _is_recorded(path: Path) -> bool:
    """Whether a file is the study of a search run, which an earlier version may have accepted."""
    run = SearchDir(path.parent)
    return path == run.study and run.trials.exists()


def _refuse_other_kind(tree: Any, source: Source) -> None:
    """Raise ConfigError if a file that should be a space is a config, or a study without one."""
    if not isinstance(tree, dict) or not tree:
        return
    if any(block in tree for block in ("config", "search")):
        raise ConfigError(
            [
                f"{source.name}: a study needs a block space, "
                "for example space: {optim.lr: {loguniform: [1e-5, 1e-3]}}"
            ]
        )
    fields = ExperimentConfig.model_fields
    sections = {name for name, field in fields.items() if section_of(field.annotation)}
    if sections & tree.keys() and tree.keys() <= fields.keys():
        raise ConfigError(
            [
                f"{source.name}: this is a config, not a space; give it with --config, and a "
                "space, such as search_spaces/optim.yaml, with --space, or train it with: segtune "
                f"train --config {source.name} --out DIR. A space has dotted names: "
                "optim.lr: {loguniform: [1e-5, 1e-3]}"
            ]
        )


def _refuse_unknown_blocks(tree: Tree, source: Source) -> None:
    blocks = ("config", "space", "search")
    unknown = [key for key in tree if key not in blocks]
    if "config" in tree and tree["config"] is None:
        place = source.place("config")
        raise ConfigError(
            [
                f"{place}: has no value; give a path or settings, or remove the line to search "
                f"around {DEFAULT_CONFIG}"
            ]
        )
    if unknown:
        raise ConfigError(
            [
                f"{source.place(key)}: no such block; allowed are config, space and search"
                f"{nearest(key, blocks)}"
                for key in unknown
            ]
        )


def _read_config(value: Any, study_file: Path, source: Source) -> ExperimentConfig:
    """Read the config of a study: settings, a path relative to the study file, or the default."""
    if isinstance(value, dict):
        return ExperimentConfig.parse(value, _under(source, "config"))
    if value is None:
        beside = study_file.parent.parent / DEFAULT_CONFIG
        return load_config(DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else beside)
    if not isinstance(value, str):
        raise ConfigError([f"{source.place('config')}: expected a path or settings, got {value!r}"])
    return load_config(study_file.parent / os.path.expanduser(value))


def _under(source: Source, section: str) -> Source:
    """Return the source of a section: its names are relative to the section."""
    start = section + "."
    lines = {
        name.removeprefix(start): line
        for name, line in source.lines.items()
        if name.startswith(start)
    }
    return Source(source.name, lines)
