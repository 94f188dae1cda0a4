"""A study: a config, the space around it, and the budget of a search."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import Tree
from segtune.tuning.notify_config import hide_secrets
from segtune.tuning.proxy import shorten
from segtune.tuning.search_config import MedianConfig, SearchConfig
from segtune.tuning.space import Space

# The first rung is at this epoch, or at the first validation after it.
DEFAULT_GRACE_EPOCHS = 3


@dataclass(frozen=True)
class Study:
    """A config, the space around it and the budget of a search, checked together."""

    config: ExperimentConfig
    space: Space
    search: SearchConfig

    def without_secrets(self) -> Study:
        """Return the study as a run folder may hold it: without the secret part of a webhook."""
        webhook = self.search.notify.webhook
        if webhook is None:
            return self
        return replace(self, search=self.search.override({"notify.webhook": hide_secrets(webhook)}))

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

    @property
    def max_paused(self) -> int:
        """How many trials wait at all rungs together at most, with their checkpoints."""
        scheduler = self.search.scheduler
        if not self.search.pauses or scheduler == "none" or scheduler.asha is None:
            return 0
        return scheduler.asha.max_paused * len(self.rungs())

    def curve_epochs(self) -> list[int]:
        """Return the epochs at which learning curves are compared: the rungs and the full length.

        Without rungs: a ninth, a third and all of the full length.
        """
        epochs = self.epochs
        return [*(self.rungs() or sorted({e for e in (epochs // 9, epochs // 3) if e})), epochs]

    def dump(self) -> Tree:
        """Return the study as it is written in YAML, with the config and the space inline."""
        return {
            "config": self.config.dump(),
            "space": self.space.dump(),
            "search": self.search.dump(),
        }
