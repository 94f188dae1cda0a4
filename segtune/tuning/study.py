"""A study: a config, the space around it, and the budget, read and validated together."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segtune.config.schema import ExperimentConfig, absolute_paths, absolute_weights, load_config
from segtune.config.settings import section_of
from segtune.config.yaml_io import Source, Tree, parse_assignments, read_yaml
from segtune.errors import ConfigError, nearest
from segtune.runs.rundir import SearchDir
from segtune.tuning.proxy import shorten
from segtune.tuning.search_config import MedianConfig, SchedulerConfig, SearchConfig
from segtune.tuning.space import Space
from segtune.tuning.space_checks import SpaceProblem, space_notes, space_problems
from segtune.tuning.space_reader import read_space

log = logging.getLogger(__name__)

# The first rung is at this epoch, or at the first validation after it.
DEFAULT_GRACE_EPOCHS = 3
DEFAULT_CONFIG = Path("configs/shapes_segformer_b0.yaml")


@dataclass(frozen=True)
class Study:
    """A config, the space around it and the budget of a search, checked together."""

    config: ExperimentConfig
    space: Space
    search: SearchConfig

    def trial_config(self, params: Mapping[str, Any]) -> ExperimentConfig:
        """Return the config that a trial with these values trains, at the proxy's size if any.

        Raise ConfigError if the config refuses the values.
        """
        config = self.config.override(params)
        return shorten(config, self.search.proxy) if self.search.proxy else config

    @property
    def epochs(self) -> int:
        """Epochs of a trial of full length."""
        return (self.search.proxy and self.search.proxy.epochs) or self.config.schedule.epochs

    def points(self) -> list[dict[str, Any]]:
        """Return the points to try first, each once.

        The config itself, which becomes trial 0, then `known_good`, then the grid if the sampler is
        grid. The config's own values may lie outside the space, see `baseline_note`.
        """
        points = [self.space.complete(point) for point in ({}, *self.search.known_good)]
        if self.search.sampler == "grid":
            grid = self.space.grid(self.search.grid_points)
            # In random order, so that the first part of the grid covers the whole space.
            random.Random(self.search.seed).shuffle(grid)
            points += grid
        return list({json.dumps(point, sort_keys=True): point for point in points}.values())

    @property
    def num_trials(self) -> int:
        """Number of trials in all: as many as `search.trials` says, or fewer if a grid ends."""
        if self.search.sampler == "grid":
            return min(self.search.trials, len(self.points()))
        return self.search.trials

    @property
    def baseline_note(self) -> str:
        """A sentence for the user if the space cannot draw the config's own values, else empty.

        Trial 0 is then trained like every trial, but the sampler is not told about it.
        """
        baseline = self.space.complete({})
        missed = [
            f"{d.name} {baseline[d.name]!r} lies outside {d}"
            for d in self.space.missed_by(baseline)
        ]
        if not missed:
            return ""
        return (
            f"trial 0 is the config itself; {' and '.join(missed)}, "
            "so the sampler does not learn from it"
        )

    @property
    def grace_epochs(self) -> int:
        """The first epoch at which a trial can be stopped; there has to be a stopping rule."""
        assert self.search.scheduler != "none"
        chosen = self.search.scheduler.chosen.grace_epochs
        if chosen is not None:
            return chosen
        schedule = self.trial_config({}).schedule
        epochs = range(DEFAULT_GRACE_EPOCHS, schedule.epochs)
        return next(filter(schedule.validates, epochs), schedule.epochs)

    def rungs(self) -> list[int]:
        """Return the epochs at which halving decides, in ascending order.

        Empty if the stopping rule has no rungs.
        """
        scheduler = self.search.scheduler
        if scheduler == "none" or isinstance(scheduler.chosen, MedianConfig):
            return []
        rungs = []
        epoch = self.grace_epochs
        while epoch < self.epochs:
            rungs.append(epoch)
            epoch *= scheduler.chosen.reduction
        return rungs

    def dump(self) -> Tree:
        """Return the study as it is written in YAML, with the config and the space inline."""
        return {
            "config": self.config.dump(),
            "space": self.space.dump(),
            "search": self.search.dump(),
        }


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
    problems = [f"{path}: {problem}" for problem in _study_problems(study)]
    if not _is_recorded(Path(path)):
        of_space = space_problems(space, base, search_block, study.rungs())
        problems += _placed(of_space, source, prefix)
    if problems:
        raise ConfigError(problems)
    if not _is_recorded(Path(path)):
        for note in _placed(space_notes(space, search_block), source, prefix):
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


def _study_problems(study: Study) -> list[str]:
    """Return what is wrong with a study although each of its parts is valid."""
    return [
        *_schedule_problems(study),
        *_known_good_problems(study),
        *_proxy_problems(study),
        *_rung_problems(study),
        *_cmaes_problems(study),
        *_worker_problems(study),
    ]


def _schedule_problems(study: Study) -> list[str]:
    if study.config.schedule.steps is None and "schedule.steps" not in study.space.names:
        return []
    return [
        "schedule.steps: a search counts in epochs, so this must be null; set schedule.epochs to "
        "steps * schedule.batch_size / number of training images"
    ]


def _known_good_problems(study: Study) -> list[str]:
    problems: list[str] = []
    for index, point in enumerate(study.search.known_good):
        place = f"search.known_good.{index}"
        wrong = study.space.outside(point) or _left_out(study.space, point)
        problems += [f"{place}: {problem}" for problem in wrong]
        if not wrong:
            try:
                study.config.override(study.space.complete(point), Source(place))
            except ConfigError as error:
                problems += error.problems
    return problems


def _left_out(space: Space, point: Mapping[str, Any]) -> list[str]:
    """Return a message for each setting that a point has to name.

    A point that leaves out a name has the config's own value. A sampler cannot learn from a point
    outside the space, so the config's own value has to lie inside.
    """
    completed = space.complete(point)
    return [
        f"leaves out {d.name}, and the config's own value {completed[d.name]!r} is outside {d}; "
        f"add {d.name} to this point"
        for d in space.missed_by(completed)
    ]


def _proxy_problems(study: Study) -> list[str]:
    proxy = study.search.proxy
    longest = study.config.schedule.epochs
    if proxy and proxy.epochs and proxy.epochs > longest:
        return [
            f"search.proxy.epochs: {proxy.epochs} is more than the config's own {longest}; "
            f"choose at most {longest}"
        ]
    return []


def _rung_problems(study: Study) -> list[str]:
    schedule = study.trial_config({}).schedule
    validated = [epoch for epoch in range(1, schedule.epochs + 1) if schedule.validates(epoch)]
    blind = [rung for rung in study.rungs() if rung not in validated]
    if blind:
        return [
            f"search.scheduler: there are rungs at epochs {study.rungs()}, "
            f"but no validation at {blind}; validated are {_shortened(validated)} "
            f"(schedule.val_every {schedule.val_every}): choose grace_epochs among them"
        ]
    return []


def _cmaes_problems(study: Study) -> list[str]:
    if study.search.sampler != "cmaes":
        return []
    varying = [d for d in study.space.dimensions if not d.is_fixed]
    unsuitable = [d.name for d in varying if d.kind == "choice" or d.when]
    if unsuitable:
        return [
            "search.sampler: cmaes draws only numbers, but these are choices or conditional: "
            f"{', '.join(unsuitable)}; choose gp or tpe"
        ]
    if len(varying) < 2:
        return [
            f"search.sampler: cmaes needs two or more numbers that vary, got {len(varying)}; "
            "choose gp or tpe"
        ]
    return []


def _worker_problems(study: Study) -> list[str]:
    search = study.search
    if search.workers_per_trial > 1 and search.gpus_per_worker and search.gpus_per_worker < 1:
        return [
            f"search.gpus_per_worker: a fraction ({search.gpus_per_worker:g}) needs "
            f"workers_per_trial 1, got {search.workers_per_trial}; choose 1 or more GPUs"
        ]
    return []


def _shortened(epochs: Sequence[int]) -> str:
    """Return a list of epochs as text, of a long one the first four and the last."""
    if len(epochs) <= 8:
        return ", ".join(map(str, epochs))
    return f"{', '.join(map(str, epochs[:4]))}, … {epochs[-1]}"
