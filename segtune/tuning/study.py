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
    """Asynchronous successive halving (Li et al. 2018), stopping form, measured in epochs."""

    grace_epochs: int = Field(
        default=3,
        ge=1,
        description="Epoch of the first rung. No trial is stopped before it.",
    )
    reduction: int = Field(
        default=3,
        ge=2,
        description="At each rung, only the best 1/reduction of the trials that have reached it "
        "continue. Rungs are at the epochs grace_epochs * reduction^k; each of them must have a "
        "validation.",
    )
    brackets: int = Field(
        default=1,
        ge=1,
        description="Number of halvings side by side, each starting one rung later than the one "
        "before. Every trial belongs to one of them. More than 1 helps if learning curves cross "
        "late.",
    )


class HyperbandConfig(Settings):
    """Hyperband (Li et al. 2017), asynchronous.

    Halving in as many brackets as there are rungs, and one more bracket that stops no trial.
    """

    grace_epochs: int = Field(
        default=3,
        ge=1,
        description="Epoch of the first rung. No trial is stopped before it.",
    )
    reduction: int = Field(
        default=3,
        ge=2,
        description="At each rung of a bracket, only the best 1/reduction of the trials that have "
        "reached it continue. Rungs are at the epochs grace_epochs * reduction^k; each of them "
        "must have a validation.",
    )


class MedianConfig(Settings):
    """Median rule (Golovin et al. 2017).

    A trial stops if its best mIoU so far is below the median of the others at the same epoch.
    """

    grace_epochs: int = Field(default=3, ge=1, description="No trial is stopped before this epoch.")
    min_trials: int = Field(
        default=4,
        ge=1,
        description="How many other trials must have reached an epoch before a trial can be "
        "stopped there.",
    )


class SchedulerConfig(Settings):
    """The rule that stops trials early: exactly one of these."""

    asha: AshaConfig | None = Field(
        default=None,
        description="Asynchronous successive halving: at each rung, only the best trials continue.",
    )
    hyperband: HyperbandConfig | None = Field(
        default=None,
        description="Hyperband: halving in several brackets, one of which stops no trial.",
    )
    median: MedianConfig | None = Field(
        default=None,
        description="Median rule: stop a trial whose best mIoU so far is below the median of the "
        "others at the same epoch.",
    )

    @model_validator(mode="after")
    def _check_one_rule(self) -> Self:
        rules = [name for name, rule in self if rule is not None]
        if len(rules) != 1:
            raise ValueError(
                "allowed is exactly one of asha, hyperband and median, or the word none, "
                f"got {' and '.join(rules) or 'no rule'}; "
                "for example scheduler: {asha: {grace_epochs: 3}}"
            )
        return self

    @property
    def chosen(self) -> AshaConfig | HyperbandConfig | MedianConfig:
        """The settings of the chosen rule."""
        chosen = self.asha or self.hyperband or self.median
        assert chosen
        return chosen


class SearchConfig(Settings):
    """The budget of a study, and how its trials are drawn, stopped and placed."""

    trials: int = Field(
        default=16,
        ge=1,
        description="Number of trials in all. Trial 0 is the config itself and counts too.",
    )
    sampler: Literal["tpe", "random", "grid", "cmaes", "gp"] = Field(
        default="gp",
        description="How trials are drawn. gp: a Gaussian process, for up to a few hundred "
        "trials. tpe: a tree-structured Parzen estimator; the time per draw does not grow, so it "
        "suits thousands of trials. random: at random. grid: all combinations, in random order. "
        "cmaes: CMA-ES, for two or more numbers, no choices and no conditional settings. gp, tpe "
        "and cmaes draw at random until 10 trials have ended. benchmarks/README.md compares gp "
        "and tpe on three tasks.",
    )
    constant_liar: bool = Field(
        default=False,
        description="tpe only: count running trials as bad ones, so that trials drawn at the same "
        "time differ. On the shapes task of benchmarks/README.md, the difference was within noise.",
    )
    multivariate: bool = Field(
        default=False,
        description="tpe only: draw all settings from one joint density instead of each from its "
        "own. On the shapes task of benchmarks/README.md, the search then needed several times as "
        "many epochs.",
    )
    grid_points: int = Field(
        default=3,
        ge=2,
        description="grid only: number of values for each range. Of a choice, all values are used.",
    )
    scheduler: Literal["none"] | SchedulerConfig = Field(
        default_factory=lambda: SchedulerConfig(asha=AshaConfig()),
        description="The rule that stops trials early: exactly one of asha, hyperband and median "
        "with its settings. none: every trial is trained to its end. Trial 0 is never stopped.",
    )
    workers_per_trial: int = Field(
        default=1,
        ge=1,
        description="Worker processes (ranks) of a trial. Two or more train with "
        "DistributedDataParallel.",
    )
    cpus_per_worker: float | None = Field(
        default=None,
        gt=0,
        description="CPUs reserved for each worker. null: 1 if workers have no GPU, otherwise "
        "their share of the cores of a node, in proportion to its GPUs.",
    )
    gpus_per_worker: float | None = Field(
        default=None,
        ge=0,
        description="GPUs of each worker. A fraction lets several trials share a GPU and needs "
        "workers_per_trial 1. null: 1 if the cluster has GPUs, otherwise 0.",
    )
    max_concurrent: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of trials at the same time. null: as many as fit on the "
        "cluster.",
    )
    retries: int = Field(
        default=2,
        ge=0,
        description="How often a trial is started again from its last checkpoint if its process "
        "hangs or dies, or its node dies. --resume starts counting from 0 again.",
    )
    storage: str | None = Field(
        default=None,
        description="Where Optuna stores the study: a database URL such as sqlite:///study.db or "
        "postgresql://USER@HOST/DATABASE. null: the journal file study.log in the run folder.",
    )
    known_good: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Points to try after trial 0, each as {name: value}. Settings that a point "
        "leaves out have the config's value.",
    )
    proxy: ProxyConfig | None = Field(
        default=None,
        description="Search on a cheaper version of the config, then train the best trials and "
        "some others at full length. null: search on the config itself.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Seed of the sampler: decides which points it draws."
    )


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

    def rungs(self) -> list[int]:
        """Return the epochs at which halving decides, in ascending order.

        Empty if the stopping rule has no rungs.
        """
        scheduler = self.search.scheduler
        if scheduler == "none" or isinstance(scheduler.chosen, MedianConfig):
            return []
        rungs = []
        epoch = scheduler.chosen.grace_epochs
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
    tree, source = read_yaml(path)
    if not isinstance(tree, dict) or "space" not in tree:
        tree = {"space": tree}
        prefix = ""
    else:
        _refuse_unknown_blocks(tree, source)
        prefix = "space."
    base = load_config(config) if config else _read_config(tree.get("config"), Path(path), source)
    if overrides:
        base = base.override(*parse_assignments(overrides))
    search_block = SearchConfig.parse(tree.get("search") or {}, _under(source, "search"))
    search_block = search_block.override(dict(search or {}), Source("command line"))
    space_tree = tree["space"]
    if isinstance(space_tree, str):
        space_tree, source = read_yaml(Path(path).parent / space_tree)
        prefix = ""
    space = Space.parse(space_tree, base, source, prefix)
    study = Study(absolute_paths(base), space, search_block)
    if problems := _study_problems(study):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return study


def _refuse_unknown_blocks(tree: Tree, source: Source) -> None:
    blocks = ("config", "space", "search")
    unknown = [key for key in tree if key not in blocks]
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
    return load_config(study_file.parent / value)


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
        *_known_good_problems(study),
        *_proxy_problems(study),
        *_rung_problems(study),
        *_cmaes_problems(study),
        *_worker_problems(study),
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
