"""A study: a config, the space around it, and the budget, read and validated together."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from segtune.config.schema import ExperimentConfig, absolute_paths, load_config
from segtune.config.settings import Settings
from segtune.config.yaml_io import Source, Tree, parse_assignments, read_yaml
from segtune.errors import ConfigError, nearest
from segtune.tuning.proxy import ProxyConfig, shorten
from segtune.tuning.space import Space

DEFAULT_CONFIG = Path("configs/shapes_segformer_b0.yaml")


class AshaConfig(Settings):
    """Asynchronous successive halving (Li et al. 2018), stopping form, with epochs as its clock."""

    grace_epochs: int = Field(default=3, ge=1, description="no trial is stopped before this epoch")
    reduction: int = Field(
        default=3,
        ge=2,
        description="one in so many trials passes each rung; rungs lie at grace_epochs * reduction^k",
    )
    brackets: int = Field(
        default=1,
        ge=1,
        description="so many halvings side by side, each beginning a rung later: for curves that cross late",
    )


class HyperbandConfig(Settings):
    """Hyperband (Li et al. 2017) without waiting: halving in as many brackets as there are rungs, and one that stops nothing."""

    grace_epochs: int = Field(default=3, ge=1, description="no trial is stopped before this epoch")
    reduction: int = Field(
        default=3,
        ge=2,
        description="one in so many trials passes each rung; rungs lie at grace_epochs * reduction^k",
    )


class MedianConfig(Settings):
    """A trial ends that is worse than the median of the others at the same epoch (Golovin et al. 2017)."""

    grace_epochs: int = Field(default=3, ge=1, description="no trial is stopped before this epoch")
    min_trials: int = Field(
        default=4,
        ge=1,
        description="others that must have come to an epoch before anybody is stopped there",
    )


class SchedulerConfig(Settings):
    """Which trials are stopped for being worse than others: one of these."""

    asha: AshaConfig | None = Field(default=None, description="asynchronous successive halving")
    hyperband: HyperbandConfig | None = Field(
        default=None, description="halving in several brackets"
    )
    median: MedianConfig | None = Field(default=None, description="the median rule")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(one is not None for one in (self.asha, self.hyperband, self.median)) != 1:
            raise ValueError(
                "exactly one of asha, hyperband and median, or the word none, as in scheduler: {asha: {grace_epochs: 3}}"
            )
        return self

    @property
    def chosen(self) -> AshaConfig | HyperbandConfig | MedianConfig:
        """The one that is given."""
        found = self.asha or self.hyperband or self.median
        assert found
        return found


class SearchConfig(Settings):
    """The budget of a study, and how its trials are drawn, stopped and placed."""

    trials: int = Field(
        default=16, ge=1, description="trials in all, the config itself (trial 0) included"
    )
    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = Field(
        default="gp",
        description="how points are drawn: gp (a Gaussian process; the fewest epochs in benchmarks/), tpe (for thousands of trials), random, "
        "grid, cmaes (numbers only, nothing conditional)",
    )
    constant_liar: bool = Field(
        default=False,
        description="tpe: takes running trials for bad ones, so that parallel draws keep apart; benchmarks/README.md has what it cost",
    )
    multivariate: bool = Field(
        default=False,
        description="tpe: draws all settings from one joint density instead of each from its own; benchmarks/README.md has what it cost",
    )
    grid_points: int = Field(
        default=3,
        ge=2,
        description="values of each range for the sampler grid; choices are taken as they are",
    )
    scheduler: Literal["none"] | SchedulerConfig = Field(
        default_factory=lambda: SchedulerConfig(asha=AshaConfig()),
        description="how trials are stopped early; or none",
    )
    workers_per_trial: int = Field(
        default=1, ge=1, description="ranks of one trial; two or more train with DDP"
    )
    cpus_per_worker: float | None = Field(
        default=None,
        gt=0,
        description="CPUs reserved for a worker; default: 1, or the cores per GPU where there are GPUs",
    )
    gpus_per_worker: float | None = Field(
        default=None,
        ge=0,
        description="GPUs of a worker; default: 1 where the cluster has GPUs; a fraction only with one worker per trial",
    )
    max_concurrent: int | None = Field(
        default=None,
        ge=1,
        description="trials at the same time; default: as many as the cluster holds",
    )
    retries: int = Field(
        default=2,
        ge=0,
        description="how often a session starts a trial again whose process or node died or stood still",
    )
    storage: str | None = Field(
        default=None,
        description="where Optuna keeps the study: a URL such as sqlite:///study.db or postgresql://…; default: a journal in the run's folder",
    )
    known_good: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="points to try first, each {name: value}; names left out have the config's value",
    )
    proxy: ProxyConfig | None = Field(
        default=None,
        description="search on a shorter or smaller stand-in for the config, then check it",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="decides which points are drawn")


@dataclass(frozen=True)
class Study:
    """What a search needs to know, resolved and valid."""

    config: ExperimentConfig
    space: Space
    search: SearchConfig

    def trial_config(self, params: Mapping[str, Any]) -> ExperimentConfig:
        """Returns the config that a trial with these values trains: the study's own, at the proxy's size if there is one."""
        config = self.config.override(params)
        return shorten(config, self.search.proxy) if self.search.proxy else config

    @property
    def epochs(self) -> int:
        """Epochs of a trial of full length."""
        return (self.search.proxy and self.search.proxy.epochs) or self.config.schedule.epochs

    def points(self) -> list[dict[str, Any]]:
        """Returns the points to try first: the config itself, the known good ones, and the grid if it is one; none twice."""
        points = [self.space.complete(point) for point in ({}, *self.search.known_good)]
        if self.search.sampler == "grid":
            grid = self.space.grid(self.search.grid_points)
            # In random order, so that a part of the grid covers all of the space.
            random.Random(self.search.seed).shuffle(grid)
            points += grid
        return list({json.dumps(p, sort_keys=True): p for p in points}.values())

    @property
    def num_trials(self) -> int:
        """Trials in all: what is asked for, or fewer where a grid has no more."""
        return (
            min(self.search.trials, len(self.points()))
            if self.search.sampler == "grid"
            else self.search.trials
        )

    def rungs(self) -> list[int]:
        """Returns the epochs at which halving decides, in ascending order; empty where no trial is halved."""
        if self.search.scheduler == "none" or isinstance(
            self.search.scheduler.chosen, MedianConfig
        ):
            return []
        chosen, rungs = self.search.scheduler.chosen, []
        epoch = chosen.grace_epochs
        while epoch < self.epochs:
            rungs.append(epoch)
            epoch *= chosen.reduction
        return rungs

    def dump(self) -> Tree:
        """Returns the study as it is written in YAML, everything inline."""
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
    """Reads a study file, or a bare space around `config`.

    `overrides` are `name=value` texts that change the config; `search` are changes to the search block. Paths in the
    result are absolute. Raises ConfigError that lists every mistake.
    """
    tree, source = read_yaml(path)
    is_study = isinstance(tree, dict) and "space" in tree
    if not is_study:
        tree, prefix = {"space": tree}, ""
    else:
        prefix = "space."
        unknown = [key for key in tree if key not in ("config", "space", "search")]
        if unknown:
            raise ConfigError(
                [
                    f"{source.place(key)}: a study has config, space and search{nearest(key, ('config', 'search'))}"
                    for key in unknown
                ]
            )
    base = load_config(config) if config else _read_config(tree.get("config"), Path(path), source)
    if overrides:
        base = base.override(*parse_assignments(overrides))
    budget = SearchConfig.parse(tree.get("search") or {}, _under(source, "search")).override(
        dict(search or {}), Source("command line")
    )
    space_tree = tree["space"]
    if isinstance(space_tree, str):
        space_tree, source = read_yaml(Path(path).parent / space_tree)
        prefix = ""
    study = Study(absolute_paths(base), Space.parse(space_tree, base, source, prefix), budget)
    _check(study, str(path))
    return study


def _read_config(given: Any, study_file: Path, source: Source) -> ExperimentConfig:
    """Reads the config of a study: written inline, or a path relative to the study file."""
    if isinstance(given, dict):
        return ExperimentConfig.parse(given, _under(source, "config"))
    if given is None:
        beside = study_file.parent.parent / DEFAULT_CONFIG
        return load_config(DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else beside)
    if not isinstance(given, str):
        raise ConfigError([f"{source.place('config')}: expected a path or settings, got {given!r}"])
    return load_config(study_file.parent / given)


def _under(source: Source, section: str) -> Source:
    """Returns `source` as seen from one of its sections, so that names in messages are relative to it."""
    start = section + "."
    lines = {
        name.removeprefix(start): line
        for name, line in source.lines.items()
        if name.startswith(start)
    }
    return Source(source.name, lines)


def _check(study: Study, name: str) -> None:
    """Raises ConfigError for what each part allows and the whole does not."""
    problems = [
        f"{name}: trial 0 is the config itself, but {p}; widen the space or change the config"
        for p in study.space.outside(study.space.complete({}))
    ]
    for index, point in enumerate(study.search.known_good):
        where = f"{name}: search.known_good.{index}"
        wrong = study.space.outside(point)
        problems += [f"{where}: {p}" for p in wrong]
        if not wrong:
            try:
                study.config.override(study.space.complete(point), Source(where))
            except ConfigError as error:
                problems += error.problems
    proxy = study.search.proxy
    if proxy and proxy.epochs and proxy.epochs > study.config.schedule.epochs:
        problems.append(
            f"{name}: search.proxy.epochs: {proxy.epochs} is more than the config's own {study.config.schedule.epochs}"
        )
    schedule = study.trial_config({}).schedule
    validated = [epoch for epoch in range(1, schedule.epochs + 1) if schedule.validates(epoch)]
    blind = [rung for rung in study.rungs() if rung not in validated]
    if blind:
        problems.append(
            f"{name}: search.scheduler: rungs at epochs {study.rungs()}, but there is no validation at {blind}; "
            f"validated are {_few(validated)} (schedule.val_every {schedule.val_every}): choose grace_epochs among them"
        )
    search = study.search
    if search.sampler == "cmaes":
        wrong = [d.name for d in study.space.dimensions if d.kind == "choice" or d.when]
        if wrong or len(study.space.dimensions) < 2:
            what = (
                f"but these are choices or conditional: {', '.join(wrong)}"
                if wrong
                else "and at least two of them"
            )
            problems.append(
                f"{name}: search.sampler: cmaes needs settings that are numbers, {what}; choose tpe"
            )
    if search.workers_per_trial > 1 and search.gpus_per_worker and search.gpus_per_worker < 1:
        problems.append(
            f"{name}: search.gpus_per_worker: a fraction ({search.gpus_per_worker:g}) needs workers_per_trial 1, got {search.workers_per_trial}"
        )
    if problems:
        raise ConfigError(problems)


def _few(epochs: Sequence[int]) -> str:
    return (
        ", ".join(map(str, epochs))
        if len(epochs) <= 8
        else f"{', '.join(map(str, epochs[:4]))}, … {epochs[-1]}"
    )
